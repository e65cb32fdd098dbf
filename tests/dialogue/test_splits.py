"""Splits by scene or group: a partition that depends on the seed and the names, not on the order."""

from dataclasses import replace
from typing import Any

import pytest
import small_world
from hypothesis import given
from hypothesis import strategies as st
from small_world import TASK, Place

from gflowdial.dialogue.config import ConfigError, RunConfig
from gflowdial.dialogue.setting import Setting
from gflowdial.dialogue.splits import Parts, split_by_scene
from gflowdial.dialogue.values import Dialogue, Scene


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


@given(st.lists(st.integers(0, 30), min_size=1, max_size=60), st.integers(0, 2**32), st.sampled_from([0.0, 0.1, 0.3]))
def test_no_group_is_in_two_parts_and_nothing_is_lost(groups: list[int], seed: int, validation: float) -> None:
    items = [Scene(f"{group} {number}", "") for number, group in enumerate(groups)]
    fractions = [0.7 - validation, validation, 0.3]
    try:
        parts = split_by_scene(items, fractions, seed, lambda scene: scene.id.split()[0])
    except ValueError:
        assert len(set(groups)) < 10
        return
    of_part = [{scene.id.split()[0] for scene in part} for part in parts]
    assert sum(map(len, of_part)) == len(set(groups))
    assert sorted((s for part in parts for s in part), key=items.index) == items
    assert all(part == sorted(part, key=items.index) for part in parts)
    for fraction, found in zip(fractions, of_part, strict=True):
        assert bool(found) == (fraction > 0)
        assert abs(len(found) - fraction * len(set(groups))) <= 1


@given(st.integers(5, 40), st.integers(0, 99))
def test_a_validation_part_is_taken_off_the_training_part(n: int, seed: int) -> None:
    train, held_out = split_by_scene(scenes(n), [0.8, 0.2], seed)
    assert split_by_scene(scenes(n), [0.8, 0.0, 0.2], seed) == [train, [], held_out]
    if n >= 10:
        smaller, validation, same = split_by_scene(scenes(n), [1 - 0.2 - 0.1, 0.1, 0.2], seed)
        assert same == held_out
        assert sorted(smaller + validation, key=train.index) == train


@pytest.mark.parametrize(("n", "fractions"), [(2, [0.5, 0.3, 0.2]), (9, [0.5, 0.4]), (9, [1.5, -0.5])])
def test_an_impossible_split_is_refused(n: int, fractions: list[float]) -> None:
    with pytest.raises(ValueError, match=r"too few|add up to 1"):
        split_by_scene(scenes(n), fractions, seed=0)


def test_groups_too_few_are_told_from_scenes_too_few() -> None:
    with pytest.raises(ValueError, match="1 groups of scenes are too few"):
        split_by_scene(scenes(9), [0.5, 0.5], 0, lambda scene: scene.opening)


def test_dialogues_of_a_group_are_in_one_part() -> None:
    items = [Dialogue.begin(scene) for scene in scenes(20)] * 2
    first, second = split_by_scene(items, [0.5, 0.5], 0)
    assert {d.scene.id for d in first}.isdisjoint(d.scene.id for d in second)
    assert len(first) == len(second) == 20


def floors(n: int) -> list[Place]:
    if n > 40:
        raise ValueError(f"there are 40 scenes, not {n}: lower the number")
    return [Place(f"p{i}", f"opening {i}", f"place {i}", i % 8) for i in range(n)]


GENERATOR = replace(TASK, generate=floors, group=lambda scene: str(scene.floor))


def parts(monkeypatch: pytest.MonkeyPatch, **data: Any) -> Parts[list[Scene]]:
    monkeypatch.setattr(small_world, "GENERATOR", GENERATOR, raising=False)
    settings = {"task": "small_world:GENERATOR", "experiment": "conversation", "seeds": [0], "data": data}
    rest = {"model": {"kind": "tiny"}, "training": {"methods": ["afpo"]}}
    return Setting(RunConfig.model_validate(settings | rest)).scenes


def test_generated_scenes_are_split_by_group_and_one_of_each_is_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    found = parts(monkeypatch, source="generated", scenes=33, held_out=0.25, validation=0.125)
    by_part = [[scene.floor for scene in part] for part in found]  # type: ignore[attr-defined]
    assert [len(set(floors)) for floors in by_part] == [5, 1, 2]
    assert len(by_part[0]) >= 5 * 4
    assert all(int(scene.id[1:]) < 8 for part in (found.validation, found.held_out) for scene in part)
    fewer = parts(monkeypatch, source="generated", scenes=17, held_out=0.25, validation=0.125)
    assert (fewer.validation, fewer.held_out) == (found.validation, found.held_out)
    assert fewer.train == [scene for scene in found.train if int(scene.id[1:]) < 17]
    assert parts(monkeypatch, source="generated", scenes=33, held_out=0.25, limit=17).held_out == found.held_out


def test_the_task_s_own_scenes_are_split_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    found = parts(monkeypatch, held_out=0.3)
    expected = split_by_scene(TASK.scenes(), [0.7, 0.3], 0)
    assert [found.train, found.validation, found.held_out] == [expected[0], [], expected[1]]


@pytest.mark.parametrize(
    ("task", "data", "message"),
    [
        (GENERATOR, {"source": "generated", "scenes": 41}, "data.scenes: there are 40 scenes, not 41"),
        (TASK, {"source": "generated", "scenes": 41}, "data.source: task 'small' generates no scenes"),
        (GENERATOR, {"source": "generated", "scenes": 3}, "data.held_out: 3 groups of scenes are too few"),
        (GENERATOR, {"source": "generated"}, "scenes is the number of generated scenes"),
        (GENERATOR, {"scenes": 9}, "scenes is the number of generated scenes"),
        (GENERATOR, {"held_out": 0.5, "validation": 0.5}, "leave a share for training"),
    ],
)
def test_scenes_that_cannot_be_had_are_refused(
    monkeypatch: pytest.MonkeyPatch, task: Any, data: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(f"{__name__}.GENERATOR", task)
    with pytest.raises(ValueError, match=message) as caught:
        parts(monkeypatch, **({"held_out": 0.1} | data))
    assert isinstance(caught.value, ConfigError) or "source" in data or "scenes" in data or "validation" in data
