"""A run small enough to be done in seconds: two seeds, ten bundled scenes, a language model of one thin layer."""

from pathlib import Path
from typing import Any

from refusals import contents, settings_file

from gflowdial.dialogue.cli import main

__all__ = ["LABELS", "SETTINGS", "TASK", "config_file", "contents", "run"]
TASK = "examples.aflow_esc.task:TASK"
SETTINGS: dict[str, Any] = {
    "experiment": "conversation",
    "seeds": [0, 1],
    "data": {"limit": 10},
    "roles": {"kind": "simulated", "max_turns": 2},
    "search": {"simulations": 8, "max_depth": 2, "rollout_length": 1, "batch_size": 4},
    "model": {"kind": "tiny", "hidden_size": 16, "layers": 1, "heads": 2, "transcripts_per_scene": 1, "epochs": 1},
    "adapter": {"rank": 4, "alpha": 8},
    "training": {
        "methods": ["behaviour_cloning", "afpo_anchored"],
        "epochs": 1,
        "learning_rate": 0.01,
        "max_tokens": 512,
    },
    "evaluation": {"episodes": 2, "search_simulations": [4, 8]},
    "compute": {"jobs": 1, "threads": 1},
}
LABELS: dict[str, Any] = {**SETTINGS, "experiment": "labels", "seeds": [0], "inventory": "esconv"}


def config_file(folder: Path, settings: dict[str, Any] = SETTINGS, **sections: Any) -> Path:
    """The settings, with ``sections`` replaced (None leaves one out), as a file."""
    return settings_file(folder, {**settings, **sections})


def run(command: str, *arguments: object) -> int:
    """The exit code of a command."""
    return main([command, *map(str, arguments)], task=TASK, prog="python -m examples.aflow_esc")
