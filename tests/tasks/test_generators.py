"""The generators of the three tasks: as many scenes as wanted, always the same, with no group in two parts."""

from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples import haggling, tutoring
from examples.aflow_esc import task as support
from gflowdial.dialogue.environment import DialogueEnvironment, DialogueState
from gflowdial.dialogue.scenes import drawn
from gflowdial.dialogue.splits import first_of_each, split_by_scene
from gflowdial.dialogue.values import Scene
from gflowdial.search import enumerate_tree

MODULES = (support, haggling, tutoring)
GROUPS = {support: 64, haggling: 128, tutoring: 9}
tasks = pytest.mark.parametrize("task", MODULES, ids=lambda module: module.TASK.name)


def generated(task: ModuleType, count: int) -> list[Scene]:
    return list(task.TASK.generate(count))


@tasks
@given(counts=st.lists(st.integers(0, 300), min_size=2, max_size=2))
def test_fewer_scenes_are_the_beginning_of_more(task: ModuleType, counts: list[int]) -> None:
    few, many = sorted(counts)
    found = generated(task, many)
    assert len(found) == many
    assert found[:few] == generated(task, few)
    assert len({scene.id for scene in found}) == many


@tasks
@given(seed=st.integers(0, 99), count=st.integers(200, 300))
def test_no_group_is_in_two_parts(task: ModuleType, seed: int, count: int) -> None:
    group = task.TASK.group
    parts = split_by_scene(generated(task, count), [0.7, 0.1, 0.2], seed, group)
    groups = [{group(scene) for scene in part} for part in parts]
    assert len(set.union(*groups)) == sum(map(len, groups)) > 0.7 * GROUPS[task]
    assert [len(first_of_each(part, group)) for part in parts] == [len(found) for found in groups]


@tasks
def test_more_scenes_than_there_are_are_refused(task: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"\d+ (scenes|choices), not 1000000: ask for fewer"):
        generated(task, 10**6)


@tasks
def test_generated_scenes_are_none_of_the_bundled_ones_and_can_be_played(task: ModuleType) -> None:
    own, found = task.TASK, generated(task, 40)
    inventory = own.inventory()
    world = DialogueEnvironment.of(own, own.roles["simulated"](inventory), inventory, 1)
    for scene in found:
        assert type(scene) is own.scene
        tree = enumerate_tree(world, [DialogueState.begin(scene)])
        assert tree.forest.num_nodes > len(inventory) / 2
    if task is not tutoring:
        assert {scene.id for scene in own.scenes()}.isdisjoint(scene.id for scene in found)


def test_tutoring_generates_its_own_scenes_among_others() -> None:
    assert set(tutoring.scenes()) < set(generated(tutoring, len(tutoring.LESSONS)))


@given(st.integers(0, 50), st.integers(0, 50), st.text(max_size=3))
def test_a_draw_is_a_prefix_of_a_shuffle(size: int, count: int, salt: str) -> None:
    whole = drawn(range(size), size, salt)
    assert sorted(whole) == list(range(size))
    if count <= size:
        assert drawn(range(size), count, salt) == whole[:count]
        assert drawn([str(k) for k in range(size)], count, salt) == [str(k) for k in whole[:count]]


def test_the_order_of_a_draw_depends_on_the_salt() -> None:
    assert drawn(range(20), 20, "a") != drawn(range(20), 20, "b") != list(range(20))
    assert "".join(drawn("abcdefgh", 8)) == "efhgdbca"  # the same in every process
