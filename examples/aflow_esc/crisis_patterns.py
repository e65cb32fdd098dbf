"""The words of crisis as tables of regular expressions, read from ``crisis_patterns.yaml``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml

Category = Literal["suicide", "medical emergency", "self-harm", "violence", "abuse"]

_TABLES: dict[str, Any] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))


def _whole(pattern: str) -> str:
    """The pattern with its named parts put in."""
    for name, part in _TABLES["parts"].items():
        pattern = pattern.replace(f"<{name}>", part)
    return pattern


SPELLINGS: tuple[tuple[str, str], ...] = tuple((slip, spelling) for slip, spelling in _TABLES["spellings"])
PATTERNS: Mapping[Category, tuple[str, ...]] = {
    category: tuple(map(_whole, patterns)) for category, patterns in _TABLES["patterns"].items()
}
IDIOMS: tuple[str, ...] = tuple(map(_whole, _TABLES["idioms"]))
DENIALS: tuple[str, ...] = tuple(map(_whole, _TABLES["denials"]))
DOUBT: str = _whole(_TABLES["doubt"])
