"""All words of the simulated roles. Every supporter's phrase belongs to one strategy, so the words alone name it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from examples.aflow_esc.simulated.world import Hidden

_PHRASES = json.loads(Path(__file__).with_name("phrases.json").read_text(encoding="utf-8"))
SUPPORTER: Mapping[str, tuple[str, ...]] = {name: tuple(phrases) for name, phrases in _PHRASES["supporter"].items()}
# By coarse level: distress and trust, clarity and readiness.
_FEELING, _THINKING = (
    {tuple(shown.split(", ")): tuple(phrases) for shown, phrases in _PHRASES[table].items()}
    for table in ("feeling", "thinking")
)
_HELPED, _LEAVING = tuple(_PHRASES["helped"]), tuple(_PHRASES["leaving"])

STRATEGY_OF: Mapping[str, str] = {phrase: name for name, phrases in SUPPORTER.items() for phrase in phrases}


class Surface(NamedTuple):
    """What shows of the hidden state: its coarse levels."""

    distress: str
    trust: str
    clarity: str
    readiness: str


def surface(hidden: Hidden) -> Surface:
    """The coarse levels that the seeker's words give away."""
    return Surface(
        ("calm", "calm", "uneasy", "upset", "overwhelmed")[hidden.distress],
        "open" if hidden.trust >= 2 else "guarded",
        ("lost", "groping", "clear", "clear")[hidden.clarity],
        "ready" if hidden.readiness else "waiting",
    )


def feelings(hidden: Hidden) -> tuple[str, ...]:
    """Variants of the sentence that shows distress and trust."""
    shown = surface(hidden)
    return _FEELING[shown.distress, shown.trust]


def thoughts(hidden: Hidden, status: str) -> tuple[str, ...]:
    """Variants of the sentence that shows clarity and readiness, or that the seeker goes."""
    if status == "helped":
        return _HELPED
    if status == "left":
        return _LEAVING
    shown = surface(hidden)
    return _THINKING[shown.clarity, shown.readiness]


def all_phrases() -> list[str]:
    """Every phrase that the simulated roles can say; a seeker's turn is two of them."""
    seeker = [phrase for table in (_FEELING, _THINKING) for phrases in table.values() for phrase in phrases]
    return [*STRATEGY_OF, *seeker, *_HELPED, *_LEAVING]
