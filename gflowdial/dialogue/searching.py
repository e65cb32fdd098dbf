"""The first stage: search trees from the training scenes, for every seed."""

from collections.abc import Sequence
from pathlib import Path

from gflowdial.dialogue.environment import DialogueState
from gflowdial.dialogue.progress import Report
from gflowdial.dialogue.runs import Run, RunError
from gflowdial.dialogue.setting import Setting
from gflowdial.dialogue.trees import decode_states, encode_states, scene_from_json, scene_to_json
from gflowdial.dialogue.values import Scene
from gflowdial.search import SearchConfig, SearchTree, read_trees, search_to_file, tree_seed


def search_config(setting: Setting, simulations: int | None = None) -> SearchConfig:
    """The run's search, perhaps with another number of simulations."""
    options = setting.config.search.model_dump(exclude={"batch_size"})
    return SearchConfig(**options if simulations is None else {**options, "simulations": simulations})


def search_all(run: Run, setting: Setting, report: Report) -> None:
    """Search every seed's trees; a search that was cut off goes on where it stopped."""
    seeds = run.config.seeds
    train, _ = setting.scenes
    for index, seed in enumerate(seeds):

        def progress(done: int, total: int, index: int = index, seed: int = seed) -> None:
            report(f"simulations, seed {seed}", index * total + done, len(seeds) * total)

        run.trees(seed).parent.mkdir(exist_ok=True)
        search_scenes(setting, train, seed, run.trees(seed), progress)


def search_scenes(setting: Setting, scenes: Sequence[Scene], seed: int, path: Path, progress: Report) -> None:
    ...
