"""What a command may not do with input that it cannot use: change anything, or say more than one line."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml


def settings_file(folder: Path, settings: dict[str, object]) -> Path:
    """The settings as ``mini.yaml``; a section that is None is left out."""
    path = folder / "mini.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in settings.items() if value is not None}))
    return path


def contents(folder: Path) -> dict[str, bytes | None]:
    """Everything in a folder, to be compared; None stands for a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def refused(capsys: pytest.CaptureFixture[str], folder: Path, message: str, command: Callable[[], int]) -> None:
    """The command ends with 2 and one line of error, and leaves everything in ``folder`` as it is."""
    before = contents(folder)
    capsys.readouterr()
    assert command() == 2
    printed = capsys.readouterr()
    last = printed.err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last, last
    assert printed.err.count("error: ") == 1
    assert "Traceback" not in printed.err
    assert contents(folder) == before
