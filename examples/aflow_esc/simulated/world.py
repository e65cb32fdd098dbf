"""The simulated seeker's hidden state and how it moves: a finite, replayable world."""

import hashlib
from functools import cache
from typing import Literal, NamedTuple, get_args

from examples.aflow_esc.scenes import SupportScene
from examples.aflow_esc.simulated import tables
from examples.aflow_esc.strategies import AFLOW

Mode = Literal["deterministic", "stochastic"]
Path = tuple[int, ...]
"""The supporter's actions so far, as indices into AFlow's inventory."""

NO_STRATEGY = -1


class Hidden(NamedTuple):
    """What the seeker never says outright; ``last`` is the supporter's last action, or `NO_STRATEGY`."""

    distress: int
    trust: int
    clarity: int
    readiness: int
    last: int = NO_STRATEGY


class Temper(NamedTuple):
    """All that the dynamics take from a scene: the initial state and the problem's quirk."""

    start: Hidden
    welcome: int
    unwelcome: int


class Scores(NamedTuple):
    """The rewarder's four scores, integers from 1 to 5, in the order of `CRITERIA`."""

    empathy: int
    information: int
    naturalness: int
    efficacy: int


def temper(scene: SupportScene) -> Temper:
    """The scene's initial state and quirk, read off its emotion and its problem; unlisted names share one row."""
    emotion, problem = scene.emotion.casefold(), scene.problem.casefold()
    distress, trust = tables.EMOTIONS.get(emotion, tables.OTHER_EMOTION)
    clarity, readiness = tables.PROBLEMS.get(problem, tables.OTHER_PROBLEM)
    quirk = tables.QUIRKS.get(problem)
    return Temper(
        Hidden(distress, trust, clarity, readiness),
        AFLOW.names.index(quirk.welcome) if quirk else NO_STRATEGY,
        AFLOW.names.index(quirk.unwelcome) if quirk else NO_STRATEGY,
    )


@cache
def step(temper: Temper, hidden: Hidden, action: int, falls_flat: bool = False) -> Hidden:
    """The hidden state after ``action``; one that ``falls_flat`` does what harm it does and none of the good."""
    levels = hidden[:4]
    rules = tables.RULES[AFLOW.names[action]]
    change = list(next(rule.change for rule in rules if _holds(rule, levels)))
    good = change[tables.DISTRESS] < 0 or max(change[1:]) > 0
    if action == temper.welcome and good:
        change[tables.DISTRESS] -= 1
    if action == temper.unwelcome:
        change[tables.TRUST] -= 1
    if falls_flat or action == hidden.last:
        change = [max(change[0], 0), *(min(delta, 0) for delta in change[1:])]
    if action == hidden.last:
        change[tables.TRUST] -= 1
    moved = [min(max(x + d, 0), top) for x, d, top in zip(levels, change, tables.CEILING, strict=True)]
    distress, trust, clarity, readiness = moved
    return Hidden(distress, trust, clarity, readiness, action)


def status(hidden: Hidden) -> str:
    """Whether the seeker ``"continues"``, ends the talk ``"helped"``, or has ``"left"``."""
    if hidden.distress <= tables.HELPED_AT_DISTRESS and hidden.trust > 0:
        return "helped"
    if hidden.trust == 0 and hidden.distress >= tables.LEAVES_AT_DISTRESS:
        return "left"
    return "continues"


@cache
def scores(before: Hidden, after: Hidden) -> Scores:
    """How the exchange that led from ``before`` to ``after`` scores; the action is ``after.last``."""
    name, repeated = AFLOW.names[after.last], after.last == before.last
    relief = before.distress - after.distress
    closer = after.trust - before.trust
    insight = after.clarity - before.clarity
    resolve = after.readiness - before.readiness
    progress = 2 * relief + closer + insight + resolve
    missed = progress <= 0
    return Scores(
        empathy=_clip(tables.WARMTH[name] + closer - missed),
        information=_clip(tables.CONTENT[name] + insight - missed),
        naturalness=_clip(4 + (relief > 0) - 2 * missed - repeated),
        efficacy=5 if status(after) == "helped" else _clip(1 + progress),
    )


class World:
    """The seeker's hidden state along a path, recomputed from the scene and the supporter's actions alone.

    In mode ``"stochastic"`` the good that a strategy does fails to happen in one case of `FLAT_ONE_IN`, drawn from a
    hash of (seed, draw, scene id, path): so a run can be replayed, and another ``draw`` is another world.

    Args:
        seed: chooses wordings, and with ``draw`` the failures of the stochastic mode.
        mode: ``"deterministic"`` or ``"stochastic"``.
        draw: numbers the worlds of the stochastic mode; without effect in the other.

    Raises:
        ValueError: an unknown mode.
    """

    FLAT_ONE_IN = 4

    def __init__(self, seed: int = 0, mode: Mode = "deterministic", draw: int = 0) -> None:
        if mode not in get_args(Mode):
            raise ValueError(f"unknown mode {mode!r} of the simulated roles; choose one of {get_args(Mode)}")
        self.seed, self.mode, self.draw = seed, mode, draw
        self._hidden: dict[tuple[SupportScene, Path], Hidden] = {}

    def hidden(self, scene: SupportScene, path: Path) -> Hidden:
        """The state after ``path`` in ``scene``."""
        if (scene, path) not in self._hidden:
            self._hidden[scene, path] = self._replay(scene, path)
        return self._hidden[scene, path]

    def _replay(self, scene: SupportScene, path: Path) -> Hidden:
        if not path:
            return temper(scene).start
        lot = stable_hash(self.seed, self.draw, "flat", scene.id, path)
        falls_flat = self.mode == "stochastic" and lot % self.FLAT_ONE_IN == 0
        return step(temper(scene), self.hidden(scene, path[:-1]), path[-1], falls_flat)

    def choose(self, variants: tuple[str, ...], purpose: str, scene: SupportScene, path: Path) -> str:
        """One of the variants, the same at every call."""
        return variants[stable_hash(self.seed, purpose, scene.id, path) % len(variants)]


def stable_hash(*parts: object) -> int:
    """A hash that is the same in every process, unlike Python's own."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


def _holds(rule: tables.Rule, levels: tuple[int, ...]) -> bool:
    return all(lo <= x <= hi for lo, x, hi in zip(rule.least, levels, rule.most, strict=True))


def _clip(score: int) -> int:
    return min(max(score, 1), 5)
