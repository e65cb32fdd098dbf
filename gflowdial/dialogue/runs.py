"""A run's folder: its resolved settings, where everything came from, and what each stage writes."""

import json
import platform
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from gflowdial.dialogue.config import RunConfig, load_config

_CONFIG = "config.yaml"
_ORIGIN = "origin.json"
_SEARCHED = ("experiment", "task", "inventory", "data", "roles", "search")
"""The settings that search trees depend on."""
_PACKAGES = ("gflowdial", "torch", "numpy", "transformers", "peft", "accelerate", "scikit-learn", "scipy")


class RunError(ValueError):
    """A run's folder that cannot be used; the message names it and the way out."""


@dataclass(frozen=True)
class Run:
    """A folder and the settings it was begun with."""

    folder: Path
    config: RunConfig

    @staticmethod
    def begin(folder: Path, config: RunConfig, *, resume: bool = False) -> "Run":
        """Make the folder and write the settings; or go on in it, with ``resume`` and the very same settings.

        Raises:
            RunError: the folder cannot be made, holds something already, or was begun with other settings.
        """
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            if not resume:
                raise RunError(
                    f"{folder} already holds a run or other files: name another --output, or add --resume to go on "
                    "where it stopped; nothing was changed"
                )
            run = Run.open(folder)
            if run.config != config:
                raise RunError(
                    f"{folder} was begun with other settings: resume it with those, or name another --output"
                )
            return run
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{folder} cannot be made ({error.strerror}): name another --output") from None
        (folder / _CONFIG).write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), encoding="utf-8")
        write_json(folder / _ORIGIN, _origin(config))
        return Run(folder, config)

    @staticmethod
    def open(folder: Path) -> "Run":
        """The run that a folder holds.

        Raises:
            RunError: it holds none.
        """
        if not (folder / _CONFIG).is_file():
            raise RunError(f"{folder} holds no run ({_CONFIG} is missing): begin one with the command `run`")
        return Run(folder, load_config(folder / _CONFIG))

    @property
    def config_file(self) -> Path:
        """The settings that the run was begun with."""
        return self.folder / _CONFIG

    def check_searched_with(self, config: RunConfig) -> None:
        """
        Raises:
            RunError: the search trees of this run are not those of ``config``.
        """
        for name in _SEARCHED:
            mine, theirs = getattr(self.config, name), getattr(config, name)
            if mine != theirs:
                raise RunError(
                    f"{self.folder} was searched with {name} ({mine}), not ({theirs}): its trees do not fit; search "
                    "anew"
                )

    def copy_trees(self, other: "Run") -> None:
        """Take the search trees of another run; see `check_searched_with`."""
        for seed in self.config.seeds:
            if not self.trees(seed).exists():
                self.trees(seed).parent.mkdir(exist_ok=True)
                for source, target in (
                    (other.validation_trees(seed), self.validation_trees(seed)),
                    (other.trees(seed), self.trees(seed)),
                ):
                    if source.exists():
                        # A killed copy leaves no half of a file under the final name.
                        shutil.copyfile(source, partial := target.with_suffix(".partial"))
                        partial.rename(target)

    def trees(self, seed: int) -> Path:
        """The file of a seed's search trees."""
        return self._seed(seed) / "trees.jsonl"

    def validation_trees(self, seed: int) -> Path:
        """The file of a seed's search trees of the validation scenes."""
        return self._seed(seed) / "validation.jsonl"

    @property
    def base(self) -> Path:
        """The folder of the language model of all policies, where the run trains one."""
        return self.folder / "language_model"

    def policy(self, seed: int, method: str) -> Path:
        """The folder of a trained policy."""
        return self._seed(seed) / "policies" / method

    def write_results(self, results: dict[str, Any], table: str, name: str = "results") -> Path:
        """Write ``NAME.json`` and the printed table; return the path of the first.

        Raises:
            RunError: the run has results of this name already.
        """
        self.check_no_results(name)
        path = self.folder / f"{name}.json"
        path.with_suffix(".txt").write_text(table, encoding="utf-8")
        write_json(path, results)
        return path

    def check_no_results(self, name: str = "results") -> None:
        """
        Raises:
            RunError: the run has results of this name, which are kept.
        """
        if (self.folder / f"{name}.json").exists():
            raise RunError(
                f"{self.folder} has results {name!r} already: they are kept; give these another "
                "--name, or begin a new run"
            )

    def _seed(self, seed: int) -> Path:
        return self.folder / f"seed-{seed}"


def _origin(config: RunConfig) -> dict[str, Any]:
    return {
        "seeds": config.seeds,
        "git_revision": _git("rev-parse", "HEAD"),
        "git_changes": bool(_git("status", "--porcelain")),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "versions": {name: _version(name) for name in _PACKAGES},
    }


def _git(*arguments: str) -> str | None:
    """What git answers about the project, or None outside a checkout."""
    folder = Path(__file__).parent
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def write_json(path: Path, content: Any) -> None:
    """Write a file that appears when it is complete."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    partial.rename(path)


def whole(folder: Path, save: Callable[[Path], None]) -> None:
    """Save into a folder that appears when it is complete, so that a killed run leaves no half of one."""
    save(partial_folder(folder))
    partial_folder(folder).rename(folder)


def partial_folder(folder: Path) -> Path:
    """Where a folder is before it is complete."""
    return folder.with_name(f".{folder.name}.partial")
