"""Splits by scene: a partition that depends on the seed and the ids, not on the order."""

import pytest

from gflowdial.dialogue.splits import split_by_scene
from gflowdial.dialogue.values import Scene


def scenes(n: int) -> list[Scene]:
    return [Scene(f"s{i}", "") for i in range(n)]


def test_a_split_is_a_partition_by_scene_whatever_the_order() -> None:
    items = scenes(50) * 2
    parts = split_by_scene(items, [0.6, 0.2, 0.2], seed=1)
    assert [len(part) for part in parts] == [60, 20, 20]
    ids = [{scene.id for scene in part} for part in parts]
    assert len(set.union(*ids)) == sum(map(len, ids)) == 50
    assert [{s.id for s in part} for part in split_by_scene(items[::-1], [0.6, 0.2, 0.2], seed=1)] == ids
    assert [{s.id for s in part} for part in split_by_scene(items, [0.6, 0.2, 0.2], seed=2)] != ids


@pytest.mark.parametrize(("n", "fractions"), [(2, [0.5, 0.3, 0.2]), (9, [0.5, 0.4]), (9, [1.5, -0.5])])
def test_an_impossible_split_is_refused(n: int, fractions: list[float]) -> None:
    with pytest.raises(ValueError, match=r"too few|add up to 1"):
        split_by_scene(scenes(n), fractions, seed=0)
