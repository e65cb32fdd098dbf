"""From a file to raw records: a JSON list, one JSON value a line, or an object of parts that are lists."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from gflowdial.dialogue.corpus import CorpusError


class BrokenLine(NamedTuple):
    """Stands where a line of a one-dialogue-a-line file is no JSON."""

    line: int
    reason: str


_PARTS = {"train": "train", "test": "held_out", **dict.fromkeys(("valid", "validation", "val", "dev"), "validation")}


def read_parts(path: Path) -> dict[str, list[Any]]:
    """The file's records, in order, by the part that it declares: ``"train"``, ``"validation"`` or ``"held_out"``.

    A file that declares none is one part, ``""``. A broken line of a one-a-line file becomes a `BrokenLine`.

    Raises:
        CorpusError: the file is missing, empty, not UTF-8, or broken JSON as a whole.
    """
    text = _read_text(path)
    if not text.strip():
        raise CorpusError(f"{path}: the file is empty; give a file with at least one dialogue")
    if text.lstrip().startswith("["):
        return {"": _read_list(path, text)}
    with suppress(json.JSONDecodeError):
        whole = json.loads(text)
        if isinstance(whole, dict) and whole and _PARTS.keys() >= whole.keys():
            parts: dict[str, list[Any]] = {}
            for name, records in whole.items():
                if not isinstance(records, list):
                    raise CorpusError(f"{path}: the part {name!r} must be a list of dialogues")
                parts.setdefault(_PARTS[name], []).extend(records)
            return parts
        return {"": [whole]}
    return {"": _read_lines(text)}


def _read_lines(text: str) -> list[Any]:
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
