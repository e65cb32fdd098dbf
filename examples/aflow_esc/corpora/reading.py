"""From a file to raw records: a JSON list, or one JSON value a line."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from gflowdial.dialogue.corpus import CorpusError


class BrokenLine(NamedTuple):
    """Stands where a line of a one-dialogue-a-line file is no JSON."""

    line: int
    reason: str


def read_records(path: Path) -> list[Any]:
    """The file's records, in order; a broken line of a one-a-line file becomes a `BrokenLine`.

    Raises:
        CorpusError: the file is missing, empty, not UTF-8, or broken JSON as a whole.
    """
    text = _read_text(path)
    if not text.strip():
        raise CorpusError(f"{path}: the file is empty; give a file with at least one dialogue")
    if text.lstrip().startswith("["):
        return _read_list(path, text)
    return [_read_line(line, number) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path}, byte {error.start}: not UTF-8; save the file in that encoding") from None
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read ({error.strerror}); check the path") from None


def _read_list(path: Path, text: str) -> list[Any]:
    try:
        records: list[Any] = json.loads(text)
    except json.JSONDecodeError as error:
        raise CorpusError(
            f"{path}, line {error.lineno}, column {error.colno}: broken JSON ({error.msg}); mend it there, "
            "or fetch the file again if it was cut off"
        ) from None
    if not records:
        raise CorpusError(f"{path}: holds no dialogues; give a file with at least one")
    return records


def _read_line(line: str, number: int) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        return BrokenLine(number, error.msg)
