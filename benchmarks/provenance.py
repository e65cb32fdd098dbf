"""What a measured number needs beside it: the command, the versions, the machine and the revision."""

import json
import os
import platform
import subprocess
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def results_path(name: str, kind: str = "json") -> Path:
    """``benchmarks/results/NAME.KIND``; results of a GPU carry its name as well."""
    gpu = f"-{torch.cuda.get_device_name().replace(' ', '-')}" if torch.cuda.is_available() else ""
    return RESULTS / f"{name}{gpu}.{kind}"


def write_results(name: str, content: dict[str, Any], packages: Iterable[str] = ()) -> Path:
    """Write ``content`` and where it comes from to `results_path`.

    ``packages`` are further distributions whose versions matter: those that the library is measured against.
    """
    RESULTS.mkdir(exist_ok=True)
    path = results_path(name)
    cpu = f"CPU, {platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} thread(s) used"
    origin = {
        "command": f"python -m benchmarks {name}",
        "revision": _revision(),
        "torch": torch.__version__,
        **{package: version(package) for package in packages},
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else cpu,
    }
    path.write_text(json.dumps({"origin": origin, **content}, indent=2) + "\n")
    return path


def write_table(name: str, markdown: str) -> None:
    """Write the table that a page of the docs includes to ``benchmarks/results/NAME.md``."""
    results_path(name, "md").write_text(markdown + "\n")


def _revision() -> str | None:
    """The commit that was checked out, "-dirty" if files differed from it; None outside a git checkout."""
    describe = ["git", "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty"]
    found = subprocess.run(describe, cwd=RESULTS.parent, capture_output=True, text=True, check=False)
    return found.stdout.strip() or None
