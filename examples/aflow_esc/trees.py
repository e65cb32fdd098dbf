"""Tree files, one JSON line a scene: searched and written batch by batch, resumed, and read with every line checked."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from pydantic import ValidationError

from examples.aflow_esc.dialogues import Scene
from examples.aflow_esc.environment import SupportEnvironment, SupportState
from examples.aflow_esc.tree_record import NodeRecord, SearchSettings, TreeRecord
from gflowdial.search import SearchConfig, SearchTree, search

__all__ = ["NodeRecord", "TreeFileError", "TreeRecord", "read", "search_scenes", "tree_seed", "write"]


class TreeFileError(ValueError):
    """A tree file that cannot be used; the message names file, line, reason and way out."""


def read(path: Path) -> list[TreeRecord]:
    """The trees of a file, in its order.

    Raises:
        TreeFileError: a line is broken or breaks the rules of `TreeRecord`, a scene comes twice, the last line is
            torn, or there is none.
    """
    content = path.read_bytes()
    if not content.endswith(b"\n"):
        if not content:
            raise TreeFileError(f"{path} is empty: search the scenes again")
        torn = content.count(b"\n") + 1
        raise TreeFileError(f"{path}, line {torn}: the line is torn; resume the search, which does it again")
    return _parse(content.split(b"\n")[:-1], path)


def write(records: Iterable[TreeRecord], path: Path) -> None:
    """Add trees at the end of a file, in one write."""
    lines = "".join(record.model_dump_json() + "\n" for record in records)
    with path.open("ab") as file:
        file.write(lines.encode())


def tree_seed(seed: int, scene_id: str) -> int:
    """The seed of a scene's tree: it hangs on the search's seed and the scene alone, not on the scene's place."""
    return int.from_bytes(hashlib.sha256(f"{seed} {scene_id}".encode()).digest()[:8], "big")


def search_scenes(
    environment: SupportEnvironment,
    scenes: Sequence[Scene],
    seed: int,
    config: SearchConfig,
    path: Path,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Search a tree from every scene, in lockstep over batches, and write the trees of each batch as it finishes.

    A killed search resumes when called again: trees already in the file stay, a torn last line and the batch that it
    belongs to are done again, and the file ends as it would have without the interruption.

    Args:
        environment: the conversation.
        scenes: where the conversations start.
        seed: the search's seed; see `tree_seed`.
        config: how to search.
        path: the file; made if it is not there.
        batch_size: how many trees are searched at once.
        progress: told how many simulations are done, and of how many.

    Raises:
        ValueError: there are no scenes, or a scene's id comes twice.
        TreeFileError: the file is broken, or holds trees of other scenes or other settings.
    """
    if not scenes:
        raise ValueError("there are no scenes: give at least one to search from")
    _check_unique([scene.id for scene in scenes])
    settings = SearchSettings(
        simulations=config.simulations,
        max_depth=config.max_depth,
        rollout_length=config.rollout_length,
        kappa=config.kappa,
        prior_weight=config.prior_weight,
        max_turns=environment.max_turns,
        weights=list(environment.weights),
    )
    total = len(scenes) * config.simulations
    first = _resume(path, environment.inventory.name, settings, seed, scenes, batch_size)
    for start in range(first, len(scenes), batch_size):
        batch = scenes[start : start + batch_size]

        def on_simulation(done: int, start: int = start, size: int = len(batch)) -> None:
            if progress is not None:
                progress(start * config.simulations + done * size, total)

        roots = [SupportState.begin(scene) for scene in batch]
        seeds = [tree_seed(seed, scene.id) for scene in batch]
        found = search(environment, roots, seeds, config, on_simulation)
        trees = zip(batch, _nodes(found, environment.inventory.names), strict=True)
        write(
            (
                TreeRecord(
                    format=1,
                    inventory=environment.inventory.name,
                    settings=settings,
                    seed=seed,
                    scene=scene,
                    nodes=nodes,
                )
                for scene, nodes in trees
            ),
            path,
        )


def _nodes(found: SearchTree[SupportState], names: Sequence[str]) -> list[list[NodeRecord]]:
    """The nodes of every tree of a search."""
    forest = found.forest
    tree, start = forest.tree.tolist(), forest.roots.tolist()
    leaf_return = dict(zip(forest.leaves.tolist(), found.leaf_return.tolist(), strict=True))
    trees: list[list[NodeRecord]] = [[] for _ in start]
    numbers = (forest.parent, found.action, found.reward, found.visits, found.value, found.ended)
    rows = zip(*(column.tolist() for column in (*numbers, found.log_prior.exp())), strict=True)
    for index, (parent, action, reward, visits, value, ended, prior) in enumerate(rows):
        root = parent < 0
        turns = found.states[index].dialogue.turns
        node = NodeRecord(
            parent=-1 if root else parent - start[tree[index]],
            strategy=None if root else names[action],
            supporter=None if root else turns[-2].text,
            seeker=turns[-1].text,
            reward=reward,
            visits=visits,
            value=value,
            prior=None if ended else prior,
            status=found.states[index].status,
            ended=ended,
            leaf_return=leaf_return.get(index),
        )
        trees[tree[index]].append(node)
    return trees


def _resume(
    path: Path, inventory: str, settings: SearchSettings, seed: int, scenes: Sequence[Scene], batch_size: int
) -> int:
    """Cut the file back to whole batches of the same search; how many trees stay in it."""
    if not path.exists():
        return 0
    content = path.read_bytes()
    lines = content.split(b"\n")[:-1]
    records = _parse(lines, path)
    if len(records) > len(scenes):
        raise TreeFileError(f"{path} holds {len(records)} trees for {len(scenes)} scenes: give another file")
    for number, (record, scene) in enumerate(zip(records, scenes, strict=False), 1):
        wanted = {"inventory": inventory, "settings": settings, "seed": seed, "scene": scene}
        for name, value in wanted.items():
            if (there := getattr(record, name)) != value:
                raise TreeFileError(
                    f"{path}, line {number}: this tree's {name} is ({there}), not ({value}): "
                    "search with the settings that the file was begun with, or give another file"
                )
    whole = len(records) if len(records) == len(scenes) else len(records) // batch_size * batch_size
    with path.open("r+b") as file:
        file.truncate(sum(len(line) + 1 for line in lines[:whole]))
    return whole


def _parse(lines: Sequence[bytes], path: Path) -> list[TreeRecord]:
    records: list[TreeRecord] = []
    line_of: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        try:
            record = TreeRecord.model_validate_json(line)
        except ValidationError as error:
            raise TreeFileError(f"{path}, line {number}: {_reason(error)}") from None
        if record.scene.id in line_of:
            raise TreeFileError(
                f"{path}, line {number}: scene {record.scene.id!r} stands in line {line_of[record.scene.id]} already"
            )
        line_of[record.scene.id] = number
        records.append(record)
    return records


def _reason(error: ValidationError) -> str:
    first, *more = error.errors(include_url=False)
    place = ".".join(map(str, first["loc"]))
    reason = first["msg"].removeprefix("Value error, ")
    return (f"{place}: " if place else "") + reason + (f" (and {len(more)} more)" if more else "")


def _check_unique(ids: Sequence[str]) -> None:
    repeated = sorted({scene_id for scene_id in ids if ids.count(scene_id) > 1})
    if repeated:
        raise ValueError(f"scene ids come more than once: {', '.join(repeated)}; every scene needs its own")
