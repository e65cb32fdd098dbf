"""The first stage: search trees from the training scenes, for every seed."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from gflowdial.dialogue.environment import DialogueState
from gflowdial.dialogue.jobs import one_of_several, run_jobs
from gflowdial.dialogue.progress import Report
from gflowdial.dialogue.runs import Run, RunError
from gflowdial.dialogue.setting import Setting
from gflowdial.dialogue.trees import check_moves, decode_states, encode_states
from gflowdial.dialogue.values import Scene
from gflowdial.search import SearchConfig, SearchTree, TreeFileError, read_trees_file, search_to_file, tree_seed

SeedJob: TypeAlias = Callable[[None, Path, int], None]
"""A job on a run's folder and a seed."""
_MOST_PARSED = 6
_PARSED: dict[tuple[Path, int, int, str], list[SearchTree[DialogueState]]] = {}
"""See `_parsed`."""


def search_config(setting: Setting, simulations: int | None = None) -> SearchConfig:
    """The run's search, perhaps with another number of simulations."""
    options = setting.config.search.model_dump(exclude={"batch_size"})
    return SearchConfig(**options if simulations is None else {**options, "simulations": simulations})


def search_all(run: Run, setting: Setting, report: Report, beside: SeedJob | None = None) -> None:
    """Search every seed's trees, ``compute.jobs`` seeds at a time; a search that was cut off goes on where it stopped.

    The validation scenes are searched too where training evaluates on them.

    Args:
        run: where the trees go.
        setting: of the run.
        report: told what was done.
        beside: a job of the run's folder and first seed that needs no trees, done at the same time where several jobs
            are.
    """
    config = run.config
    if config.compute.jobs == 1:
        for index, seed in enumerate(config.seeds):

            def progress(done: int, total: int, index: int = index, seed: int = seed) -> None:
                report(f"simulations, seed {seed}", index * total + done, len(config.seeds) * total)

            _search(run, setting, seed, progress)
        return
    report("seeds", 0, len(config.seeds))
    arguments: list[tuple[SeedJob, Path, int]] = [(search_seed, run.folder, seed) for seed in config.seeds]
    if beside is not None:
        arguments.insert(0, (beside, run.folder, config.seeds[0]))
    done = 0
    for index, _ in run_jobs(one_of_several, arguments, config.compute):
        job, _, seed = arguments[index]
        if job is search_seed:
            done += 1
            report(f"seed {seed}", done, len(config.seeds))


def search_seed(_: None, folder: Path, seed: int) -> None:
    """Search the trees of one seed."""
    run = Run.open(folder)
    _search(run, Setting.of(run), seed, None)


def _search(run: Run, setting: Setting, seed: int, progress: Callable[[int, int], None] | None) -> None:
    scenes = setting.scenes
    watched = scenes.validation if run.config.training.evaluations else []
    run.trees(seed).parent.mkdir(exist_ok=True)
    for path, part in ((run.validation_trees(seed), watched), (run.trees(seed), scenes.train)):
        if part:
            search_to_file(
                setting.environment,
                [DialogueState.begin(scene) for scene in part],
                [_header(setting, scene, seed) for scene in part],
                [tree_seed(seed, scene.id) for scene in part],
                search_config(setting),
                path,
                encode=encode_states,
                decode=partial(decode_states, task=setting.task),
                batch_size=setting.config.search.batch_size,
                progress=progress if part is scenes.train else None,
            )


def read_run_trees(run: Run, setting: Setting, seed: int) -> list[SearchTree[DialogueState]]:
    """The search trees of a seed, one per training scene.

    Raises:
        RunError: they are missing, or not one for every training scene.
        TreeFileError: the file is broken.
    """
    return _read(run.trees(seed), setting, setting.scenes.train, "training")


def read_validation_trees(run: Run, setting: Setting, seed: int) -> list[SearchTree[DialogueState]]:
    """The search trees of a seed, one per validation scene; errors as of `read_run_trees`."""
    return _read(run.validation_trees(seed), setting, setting.scenes.validation, "validation")


def _read(path: Path, setting: Setting, scenes: Sequence[Scene], what: str) -> list[SearchTree[DialogueState]]:
    if not path.is_file():
        raise RunError(f"{path} is missing: search first")
    trees = _parsed(path, setting)
    for number, tree in enumerate(trees, 1):
        try:
            check_moves(tree, setting.inventory)
        except ValueError as error:
            raise TreeFileError(f"{path}, line {number}: {error}; search again") from None
    if [tree.states[0].dialogue.scene for tree in trees] != list(scenes):
        raise RunError(
            f"{path} holds {len(trees)} trees, not one for each of the {len(scenes)} {what} scenes in their order: "
            "finish the search with --resume"
        )
    return trees


def _parsed(path: Path, setting: Setting) -> list[SearchTree[DialogueState]]:
    """The trees of a file, read once per process as long as it does not change: the jobs of a seed share them."""
    written = path.stat()
    key = (path.resolve(), written.st_mtime_ns, written.st_size, setting.task.name)
    if key not in _PARSED:
        while len(_PARSED) >= _MOST_PARSED:
            _PARSED.pop(next(iter(_PARSED)))
        _PARSED[key] = [filed.tree for filed in read_trees_file(path, partial(decode_states, task=setting.task))]
    return list(_PARSED[key])


def _header(setting: Setting, scene: Scene, seed: int) -> dict[str, Any]:
    """What tells a tree from others."""
    search = setting.config.search.model_dump(mode="json", exclude={"batch_size"})
    roles = setting.config.roles
    return {
        "task": setting.task.name,
        "inventory": setting.inventory.name,
        "scene": scene.id,
        "seed": seed,
        "search": {**search, "max_turns": setting.environment.max_turns},
        "roles": None if roles is None else roles.model_dump(mode="json"),
    }
