"""Tree files, one JSON line per tree: written batch by batch, resumed, and read with every line checked."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gflowdial.search.environment import AnyEnvironment, State
from gflowdial.search.mcts import search
from gflowdial.search.selection import SearchConfig
from gflowdial.search.tree_line import Decode, Encode, FiledTree, from_line, to_line


class TreeFileError(ValueError):
    """A tree file that cannot be used; the message names file, line, reason and way out."""


def tree_seed(seed: int, scene_id: str) -> int:
    """The seed of a scene's tree: it depends on the search's seed and the scene alone, not on the scene's place."""
    return int.from_bytes(hashlib.sha256(f"{seed} {scene_id}".encode()).digest()[:8], "big")


def write_trees(path: Path, trees: Iterable[FiledTree[State]], encode: Encode[State]) -> None:
    """Add single trees at the end of a file, in one write; see `to_line`."""
    lines = "".join(to_line(filed, encode) for filed in trees)
    with path.open("ab") as file:
        file.write(lines.encode())


def read_trees_file(path: Path, decode: Decode[State]) -> list[FiledTree[State]]:
    """The trees of a file, in its order.

    Raises:
        TreeFileError: a line is broken or holds no tree, a header comes twice, the last line is torn, or there is none.
    """
    content = path.read_bytes()
    if not content.endswith(b"\n"):
        if not content:
            raise TreeFileError(f"{path} is empty: search again")
        torn = content.count(b"\n") + 1
        raise TreeFileError(f"{path}, line {torn}: the line is torn; resume the search, which does it again")
    return _parse(content.split(b"\n")[:-1], path, decode)


def search_to_file(
    environment: AnyEnvironment[State],
    roots: Sequence[State],
    headers: Sequence[Mapping[str, Any]],
    seeds: Sequence[int],
    config: SearchConfig,
    path: Path,
    *,
    encode: Encode[State],
    decode: Decode[State],
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Search a tree from every root, in lockstep over batches, and write the trees of each batch as it finishes.

    A killed search resumes when called again: the trees of whole batches stay, a torn last line and the batch that it
    belongs to are done again, and the file ends as it would have without the interruption.

    Args:
        environment: the world.
        roots: where to start; none has ended.
        headers: per root what its line is of, different for every root. The settings of the search belong in it: a file
            whose headers differ is refused.
        seeds: one per root; see `tree_seed`.
        config: how to search.
        path: the file; made if it is not there.
        encode: states as JSON values.
        decode: the states again.
        batch_size: how many trees are searched at once.
        progress: called with how many simulations are done, and of how many.

    Raises:
        ValueError: there are no roots, or not a header of its own and a seed per root.
        TreeFileError: the file is broken, or holds other trees.
    """
    if not roots:
        raise ValueError("there are no roots: give at least one state to search from")
    if not len(roots) == len(headers) == len(seeds):
        raise ValueError(f"there are {len(roots)} roots, {len(headers)} headers and {len(seeds)} seeds: give one each")
    plain: list[dict[str, Any]] = [json.loads(json.dumps(header)) for header in headers]
    for number, header in enumerate(plain):
        if header in plain[:number]:
            raise ValueError(f"two roots have the header {header}: every root needs its own")
    total = len(roots) * config.simulations
    for start in range(_resume(path, plain, batch_size, decode), len(roots), batch_size):
        batch = slice(start, start + batch_size)

        def on_simulation(done: int, start: int = start, size: int = len(roots[batch])) -> None:
            if progress is not None:
                progress(start * config.simulations + done * size, total)

        found = search(environment, roots[batch], seeds[batch], config, on_simulation)
        write_trees(path, map(FiledTree, plain[batch], found.split()), encode)


def _resume(path: Path, headers: Sequence[dict[str, Any]], batch_size: int, decode: Decode[State]) -> int:
    """Cut the file back to whole batches of the same search; how many trees stay in it."""
    if not path.exists():
        return 0
    lines = path.read_bytes().split(b"\n")[:-1]
    filed = _parse(lines, path, decode)
    if len(filed) > len(headers):
        raise TreeFileError(f"{path} holds {len(filed)} trees for {len(headers)} roots: give another file")
    for number, (there, wanted) in enumerate(zip(filed, headers, strict=False), 1):
        for name in {**there.header, **wanted}:
            if (old := there.header.get(name)) != (new := wanted.get(name)):
                raise TreeFileError(
                    f"{path}, line {number}: this tree's {name} is {old!r}, not {new!r}: search with the settings that "
                    "the file was begun with, or give another file"
                )
    whole = len(filed) if len(filed) == len(headers) else len(filed) // batch_size * batch_size
    with path.open("r+b") as file:
        file.truncate(sum(len(line) + 1 for line in lines[:whole]))
    return whole


def _parse(lines: Sequence[bytes], path: Path, decode: Decode[State]) -> list[FiledTree[State]]:
    filed: list[FiledTree[State]] = []
    line_of: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        try:
            tree = from_line(line, decode)
            key = json.dumps(tree.header, sort_keys=True)
            if key in line_of:
                raise ValueError(f"a tree of this header stands in line {line_of[key]} already")
        except ValueError as error:
            raise TreeFileError(
                f"{path}, line {number}: {error}; remove this line and those after it, and resume the search"
            ) from None
        line_of[key] = number
        filed.append(tree)
    return filed
