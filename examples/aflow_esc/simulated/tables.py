"""The simulated world as integer tables: where a scene starts, what a strategy does, how an exchange scores.

Strategies appear by their name in AFlow's inventory. The tables encode three plain ideas: being heard comes before
being asked, being asked comes before being advised, and saying the same thing twice wears thin.
"""

from collections.abc import Mapping
from typing import NamedTuple

DISTRESS, TRUST, CLARITY, READINESS = range(4)
CEILING = (4, 3, 3, 3)
"""Highest level of distress, trust, clarity and readiness; the lowest is 0."""


class Rule(NamedTuple):
    """What a strategy changes where the state lies within bounds, in the order of `CEILING`."""

    change: tuple[int, int, int, int]
    least: tuple[int, int, int, int] = (0, 0, 0, 0)
    most: tuple[int, int, int, int] = CEILING


# The first rule whose bounds hold applies; the last of each strategy has none.
RULES: Mapping[str, tuple[Rule, ...]] = {
    "Reflective Statements": (
        Rule((-1, 0, 1, 0), least=(3, 2, 0, 0), most=(4, 3, 1, 3)),
        Rule((0, 0, 1, 0), least=(0, 1, 0, 0), most=(3, 3, 2, 3)),
        Rule((0, 0, 0, 0)),
    ),
    "Clarification": (
        Rule((0, -1, 0, 0), least=(4, 0, 0, 0), most=(4, 2, 3, 3)),
        Rule((0, 0, 2, 0), least=(0, 2, 0, 0), most=(4, 3, 1, 3)),
        Rule((0, 0, 1, 0), least=(0, 1, 0, 0), most=(4, 3, 2, 3)),
        Rule((0, 0, 0, 0)),
    ),
    "Emotional Validation": (
        Rule((-1, 1, 0, 0), least=(4, 0, 0, 0)),
        Rule((-1, 0, 0, 0), least=(3, 0, 0, 0)),
        Rule((0, 0, 0, 1), most=(2, 3, 3, 1)),
        Rule((0, 0, 0, 0)),
    ),
    "Empathetic Statements": (
        Rule((0, 2, 0, 0), most=(4, 1, 3, 3)),
        Rule((0, 1, 0, 0), most=(4, 2, 3, 3)),
        Rule((0, 0, 0, 0)),
    ),
    "Affirmation": (
        Rule((0, 0, 0, 0), least=(4, 0, 0, 0)),
        Rule((-1, 0, 0, 1), least=(0, 2, 2, 0)),
        Rule((0, 0, 0, 1), least=(0, 1, 1, 0)),
        Rule((0, 0, 0, 0)),
    ),
    "Collaborative Planning": (
        Rule((-2, 0, 0, 1), least=(0, 2, 2, 1)),
        Rule((-1, 0, 0, 1), least=(0, 2, 2, 0), most=(3, 3, 3, 3)),
        Rule((0, 0, 0, 1), least=(0, 2, 1, 0), most=(3, 3, 3, 3)),
        Rule((0, 0, 0, 0), least=(0, 1, 1, 0)),
        Rule((0, -1, 0, 0)),
    ),
    "Suggest Options": (
        Rule((-2, 0, 0, 0), least=(0, 1, 2, 2)),
        Rule((-1, 0, 0, 0), least=(0, 1, 2, 1)),
        Rule((0, -1, 0, 0)),
    ),
    "Share Information": (
        Rule((-1, 0, 1, 0), least=(0, 2, 1, 0), most=(3, 3, 2, 3)),
        Rule((-1, 0, 0, 0), least=(0, 1, 3, 0)),
        Rule((0, -1, 0, 0), least=(3, 0, 0, 0), most=(4, 3, 0, 3)),
        Rule((0, 0, 0, 0)),
    ),
}


class Quirk(NamedTuple):
    """What people with one kind of problem need more, and what they can bear less."""

    welcome: str
    unwelcome: str


class Start(NamedTuple):
    """Half of a scene's initial state."""

    first: int
    second: int


# Distress and trust at the opening.
EMOTIONS: Mapping[str, Start] = {
    "anger": Start(3, 1),
    "anxiety": Start(3, 2),
    "depression": Start(4, 2),
    "disgust": Start(2, 1),
    "fear": Start(4, 3),
    "nervousness": Start(2, 2),
    "sadness": Start(3, 2),
    "shame": Start(3, 1),
}
OTHER_EMOTION = Start(3, 1)

# Clarity and readiness at the opening.
PROBLEMS: Mapping[str, Start] = {
    "academic pressure": Start(1, 0),
    "breakup with partner": Start(0, 0),
    "family conflict": Start(1, 0),
    "grief": Start(1, 0),
    "health worries": Start(0, 1),
    "job crisis": Start(1, 1),
    "ongoing depression": Start(0, 0),
    "problems with friends": Start(0, 1),
}
OTHER_PROBLEM = Start(0, 0)

QUIRKS: Mapping[str, Quirk] = {
    "academic pressure": Quirk("Collaborative Planning", "Share Information"),
    "breakup with partner": Quirk("Reflective Statements", "Suggest Options"),
    "family conflict": Quirk("Clarification", "Affirmation"),
    "grief": Quirk("Empathetic Statements", "Collaborative Planning"),
    "health worries": Quirk("Share Information", "Reflective Statements"),
    "job crisis": Quirk("Suggest Options", "Empathetic Statements"),
    "ongoing depression": Quirk("Emotional Validation", "Clarification"),
    "problems with friends": Quirk("Affirmation", "Emotional Validation"),
}

HELPED_AT_DISTRESS = 1
"""The seeker ends the talk helped once distress is this low and trust is above 0."""
LEAVES_AT_DISTRESS = 3
"""The seeker leaves once trust is 0 while distress is this high."""

# Empathy and information that a strategy carries by itself, before what it achieved counts.
WARMTH: Mapping[str, int] = {
    "Reflective Statements": 3,
    "Clarification": 3,
    "Emotional Validation": 4,
    "Empathetic Statements": 4,
    "Affirmation": 3,
    "Collaborative Planning": 3,
    "Suggest Options": 2,
    "Share Information": 2,
}
CONTENT: Mapping[str, int] = {
    "Reflective Statements": 2,
    "Clarification": 2,
    "Emotional Validation": 1,
    "Empathetic Statements": 1,
    "Affirmation": 2,
    "Collaborative Planning": 3,
    "Suggest Options": 3,
    "Share Information": 4,
}

# Weights of the imperfect supporter's prior, by how much distress shows: well meant, but too quick to ask and advise.
_ALL = tuple(RULES)
PRIOR: Mapping[str, Mapping[str, int]] = {
    "overwhelmed": dict(zip(_ALL, (2, 4, 3, 3, 2, 1, 3, 2), strict=True)),
    "upset": dict(zip(_ALL, (2, 4, 2, 3, 2, 2, 4, 3), strict=True)),
    "uneasy": dict(zip(_ALL, (1, 3, 1, 1, 2, 3, 4, 3), strict=True)),
    "calm": dict(zip(_ALL, (1, 1, 1, 1, 2, 3, 3, 2), strict=True)),
}
PRIOR_WHEN_CLEAR = ("Collaborative Planning", "Suggest Options")
PRIOR_CLEAR_BONUS = 2
