"""Splits by scene, so that no dialogue prefix stands on two sides."""

import hashlib
import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import TypeVar

from gflowdial.dialogue.values import Dialogue, Scene

_Item = TypeVar("_Item", Scene, Dialogue)


def split_by_scene(items: Sequence[_Item], fractions: Sequence[float], seed: int) -> list[list[_Item]]:
    """Parts of about these fractions of the scenes; all that share a scene stay together, in their order.

    Which part a scene falls into depends on the seed and the set of scene ids, not on the order of ``items``.

    Raises:
        ValueError: fractions that are not positive or do not add up to 1, or too few scenes to fill each part.
    """
    if not all(fraction > 0 for fraction in fractions) or not math.isclose(sum(fractions), 1):
        raise ValueError(f"fractions must be positive and add up to 1, not {list(fractions)}")
    scene_ids = {_scene_id(item) for item in items}
    ids: list[str] = sorted(scene_ids, key=lambda scene_id: _rank(seed, scene_id))
    cuts = [0, *(round(share * len(ids)) for share in accumulate(fractions))]
    part_of = {scene_id: part for part, (start, stop) in enumerate(pairwise(cuts)) for scene_id in ids[start:stop]}
    if len(set(part_of.values())) < len(fractions):
        raise ValueError(
            f"{len(ids)} scenes are too few for parts of {list(fractions)}: give more scenes or fewer parts"
        )
    parts: list[list[_Item]] = [[] for _ in fractions]
    for item in items:
        parts[part_of[_scene_id(item)]].append(item)
    return parts


def _scene_id(item: Scene | Dialogue) -> str:
    return item.scene.id if isinstance(item, Dialogue) else item.id


def _rank(seed: int, scene_id: str) -> bytes:
    return hashlib.sha256(f"{seed} {scene_id}".encode()).digest()
