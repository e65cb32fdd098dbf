"""Splits by scene, so that no dialogue prefix, and no group of like scenes, is in two parts."""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Generic, TypeVar

from gflowdial.dialogue.values import Dialogue, Scene

_Part = TypeVar("_Part")
_Item = TypeVar("_Item", Scene, Dialogue)


@dataclass(frozen=True)
class Parts(Generic[_Part]):
    """The parts of a data set, in the order of the attributes.

    Attributes:
        train: what policies learn from.
        validation: what settings and the length of training are chosen on; it may be empty.
        held_out: what policies are evaluated on, and nothing else.
    """

    train: _Part
    validation: _Part
    held_out: _Part

    def __iter__(self) -> Iterator[_Part]:
        return iter((self.train, self.validation, self.held_out))


def split_by_scene(
    items: Sequence[_Item], fractions: Sequence[float], seed: int, group: Callable[[Scene], str] | None = None
) -> list[list[_Item]]:
    """Parts of about these fractions of the groups; all items of one group are in one part, in their order.

    The part of a group depends on the seed and the set of groups, not on the order of ``items``.

    Args:
        items: scenes, or dialogues with their scenes.
        fractions: the share of each part; one of 0 is an empty part.
        seed: of the shuffle.
        group: the group of a scene; None: each scene id is a group.

    Raises:
        ValueError: fractions that are negative or do not add up to 1, or too few groups to fill each part.
    """
    if not all(fraction >= 0 for fraction in fractions) or not math.isclose(sum(fractions), 1):
        raise ValueError(f"fractions must not be negative and must add up to 1, not {list(fractions)}")
    group_of = [(group or _id)(item.scene if isinstance(item, Dialogue) else item) for item in items]
    names: list[str] = sorted(set(group_of), key=lambda name: _rank(seed, name))
    cuts = [0, *(round(share * len(names)) for share in accumulate(fractions))]
    part_of = {name: part for part, (start, stop) in enumerate(pairwise(cuts)) for name in names[start:stop]}
    if len(set(part_of.values())) < sum(fraction > 0 for fraction in fractions):
        what = "scenes" if group is None else "groups of scenes"
        raise ValueError(
            f"{len(names)} {what} are too few for parts of {list(fractions)}: give more scenes or fewer parts"
        )
    parts: list[list[_Item]] = [[] for _ in fractions]
    for item, name in zip(items, group_of, strict=True):
        parts[part_of[name]].append(item)
    return parts


def first_of_each(scenes: Sequence[Scene], group: Callable[[Scene], str]) -> list[Scene]:
    """The first scene of each group, in their order."""
    first: dict[str, Scene] = {}
    for scene in scenes:
        first.setdefault(group(scene), scene)
    return list(first.values())


def _id(scene: Scene) -> str:
    return scene.id


def _rank(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed} {name}".encode()).digest()
