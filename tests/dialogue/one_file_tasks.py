"""Haggling and tutoring, the tasks of one file, in runs that are small enough for tests."""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gflowdial.dialogue.cli import main

EXAMPLES = Path(__file__).parents[2] / "examples"
TASKS = ("haggling", "tutoring")
METHODS = {
    "haggling": ["behaviour_cloning", "subtrajectory_balance"],
    "tutoring": ["behaviour_cloning", "expected_detailed_balance"],
}
SETTINGS: dict[str, Any] = {
    "experiment": "conversation",
    "seeds": [0, 1],
    "data": {"limit": 10},
    "roles": {"kind": "simulated", "max_turns": 2},
    "search": {"simulations": 12, "max_depth": 2, "rollout_length": 1, "batch_size": 4},
    "model": {"kind": "tiny", "hidden_size": 16, "layers": 1, "heads": 2, "transcripts_per_scene": 1, "epochs": 1},
    "adapter": {"rank": 4, "alpha": 8},
    "training": {"methods": METHODS["haggling"], "epochs": 1, "learning_rate": 0.01, "max_tokens": 512},
    "evaluation": {"episodes": 2, "search_simulations": 4},
    "compute": {"jobs": 1, "threads": 1},
}


def settings(task: str, **sections: Any) -> dict[str, Any]:
    """The settings of a run of a task, with ``sections`` replaced."""
    return {**SETTINGS, "training": {**SETTINGS["training"], "methods": METHODS[task]}, **sections}


@contextmanager
def folder_of(task: str, folder: Path) -> Iterator[Path]:
    """A working directory that holds the task's file and nothing else."""
    shutil.copy(EXAMPLES / f"{task}.py", folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", [*sys.path])
        yield folder
    sys.modules.pop(task, None)


def run(command: str, *arguments: object) -> int:
    """The exit code of a command of ``gflowdial``."""
    return main([command, *map(str, arguments)])
