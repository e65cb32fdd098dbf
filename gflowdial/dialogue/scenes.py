"""Scenes as data: the loader of scene files, for any class of scenes, and draws for generators."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from gflowdial.dialogue.values import Scene

SceneType = TypeVar("SceneType", bound=Scene)
_Choice = TypeVar("_Choice")
_KINDS = {str: "text that is not empty", int: "a whole number", float: "a number", bool: "true or false"}


class SceneError(ValueError):
    """A scene file that cannot be used; the message names the file, the place and the way out."""


def drawn(choices: Sequence[_Choice], count: int, salt: str = "") -> list[_Choice]:
    """The first ``count`` of the choices, in an order that depends on their number and the salt alone: fewer are the
    beginning of more.

    Raises:
        ValueError: there are fewer choices.
    """
    if count > len(choices):
        raise ValueError(f"there are {len(choices)} choices, not {count}: ask for fewer")
    order = sorted(range(len(choices)), key=lambda k: hashlib.sha256(f"{salt} {k}".encode()).digest())
    return [choices[k] for k in order[:count]]


def load_scenes(path: Path, kind: type[SceneType]) -> list[SceneType]:
    """The scenes of a JSON file: a list of objects, each with the fields of ``kind`` and no others.

    Raises:
        SceneError: broken JSON, no scenes, a missing or unknown field, a value of the wrong kind, or an id used twice.
        OSError: the file cannot be read.
    """
    text = path.read_text(encoding="utf-8")
    names = ", ".join(field.name for field in fields(kind))
    try:
        records = json.loads(text)
    except json.JSONDecodeError as error:
        raise SceneError(f"{path}, line {error.lineno}: broken JSON ({error.msg}); mend that line") from None
    if not isinstance(records, list) or not records:
        raise SceneError(f"{path}: expected a JSON list of at least one scene with the fields {names}")
    scenes = [scene_from_json(record, kind, f"{path}, scene {index}") for index, record in enumerate(records)]
    first_seen: dict[str, int] = {}
    for index, scene in enumerate(scenes):
        if first_seen.setdefault(scene.id, index) != index:
            raise SceneError(
                f"{path}, scene {index}: id {scene.id!r} is taken by scene {first_seen[scene.id]}; rename one"
            )
    return scenes


def scene_from_json(record: Any, kind: type[SceneType], place: str) -> SceneType:
    """The scene of an object that has its fields; ``place`` is where it is, for the message.

    Raises:
        SceneError: as `load_scenes`.
    """
    known = {field.name: field.type for field in fields(kind)}
    if not isinstance(record, dict):
        raise SceneError(f"{place}: expected an object with the fields {', '.join(known)}, not {record!r:.60}")
    if odd := sorted(record.keys() ^ known.keys()):
        raise SceneError(f"{place}: missing or unknown fields {odd}; a scene has {', '.join(known)}")
    for name, value in record.items():
        wanted = next((kind for kind in _KINDS if known[name] in (kind, kind.__name__)), None)
        fits = wanted is None or type(value) is wanted or (wanted is float and type(value) is int)
        if not fits or (wanted is str and not value.strip()):
            assert wanted is not None
            raise SceneError(f"{place}: field {name!r} must be {_KINDS[wanted]}, not {value!r:.60}")
    return kind(**record)
