"""A search is the same whatever the unit and the offset of returns, and never takes what a prior forbids."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from test_mcts import State, Toy
from worlds import Chancy, Masked, same

from gflowdial.search import SearchConfig, SearchTree, count_steps, grow, search
from gflowdial.search.environment import ReturnRange

ROOTS: list[State] = [(0,), (1,), (2,)]
CONFIG = SearchConfig(simulations=24, max_depth=3, rollout_length=2)


@dataclass
class Scaled(Masked):
    """`Masked` with returns in another unit, with an offset."""

    unit: float = 1.0
    offset: float = 0.0
    return_range: ReturnRange = (0.0, 1.0)

    def trajectory_return(self, rewards: Sequence[float], state: State) -> float:
        return self.unit * super().trajectory_return(rewards, state) + self.offset


@dataclass
class ScaledChance(Chancy):
    unit: float = 1.0
    offset: float = 0.0
    return_range: ReturnRange = None

    def trajectory_return(self, rewards: Sequence[float], state: State) -> float:
        return self.unit * super().trajectory_return(rewards, state) + self.offset


def equal_up_to_scale(one: SearchTree[State], other: SearchTree[State], unit: float, offset: float) -> None:
    tolerance = 1e-9 * (1 + abs(unit) + abs(offset))
    torch.testing.assert_close(other.value, unit * one.value + offset, rtol=0, atol=tolerance)
    same(one, replace(other, value=one.value))


@settings(max_examples=25)
@given(unit=st.floats(0.01, 100), offset=st.floats(-100, 100), seed=st.integers(0, 100), kept=st.booleans())
@pytest.mark.parametrize("known", [True, False])
def test_the_unit_and_the_offset_of_returns_do_not_count(
    known: bool, unit: float, offset: float, seed: int, kept: bool
) -> None:
    config, seeds = replace(CONFIG, keep_rollouts=kept), [seed, seed + 1, seed + 2]
    plain = search(Scaled(return_range=(0.0, 1.0) if known else None), ROOTS, seeds, config)
    there = (offset, unit + offset) if known else None
    equal_up_to_scale(
        plain, search(Scaled(unit=unit, offset=offset, return_range=there), ROOTS, seeds, config), unit, offset
    )


@settings(max_examples=10)
@given(unit=st.floats(0.01, 100), offset=st.floats(-100, 100), seed=st.integers(0, 100))
def test_nor_do_they_where_the_world_answers_by_chance(unit: float, offset: float, seed: int) -> None:
    seeds = [seed, seed + 1, seed + 2]
    scaled = search(ScaledChance(unit=unit, offset=offset), ROOTS, seeds, CONFIG)
    equal_up_to_scale(search(ScaledChance(), ROOTS, seeds, CONFIG), scaled, unit, offset)


def test_returns_between_0_and_1_are_read_as_they_are_where_no_range_is_told() -> None:
    seeds = [5, 6, 7]
    without = search(Masked(), ROOTS, seeds, CONFIG)
    same(without, search(Scaled(), ROOTS, seeds, CONFIG))
    same(without, search(Scaled(return_range=(0, 1)), ROOTS, seeds, CONFIG))
    # The range that was seen is another scale, on which the search is another one.
    unknown = search(Scaled(return_range=None), ROOTS, seeds, replace(CONFIG, simulations=200))
    raw = search(Scaled(), ROOTS, seeds, replace(CONFIG, simulations=200))
    assert not torch.equal(unknown.visits, raw.visits)


def test_a_counted_environment_has_the_same_range() -> None:
    world = Scaled(unit=7.0, offset=-3.0, return_range=(-3.0, 4.0))
    counted, _ = count_steps(world, key=lambda state: state[0])
    same(search(world, ROOTS, [0, 1, 2], CONFIG), search(counted, ROOTS, [0, 1, 2], CONFIG))


@pytest.mark.parametrize("wrong", [(1.0, 1.0), (1.0, 0.0), (0.0, float("inf")), (float("nan"), 1.0)])
def test_a_range_that_is_none_is_refused(wrong: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=r"return_range is .*: give the least and the greatest return, or None"):
        search(Scaled(return_range=wrong), ROOTS, [0, 1, 2], CONFIG)


class Even(Toy):
    """Actions 1 and 3 of four are forbidden."""

    def log_prior(self, states: Sequence[State]) -> NDArray[np.float64]:
        row = np.array([np.log(0.5), -np.inf, np.log(0.5), -np.inf])
        return np.tile(row, (len(states), 1))


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("kappa", [0.0, 0.1, 100.0])
def test_a_forbidden_move_is_never_taken(keep: bool, kappa: float) -> None:
    world = Even(ending=0.1)
    config = SearchConfig(simulations=100, max_depth=4, rollout_length=3, kappa=kappa, keep_rollouts=keep)
    tree = search(world, ROOTS, [1, 2, 3], config)
    assert world.stepped
    assert {action for _, action in world.stepped} == {0, 2}
    assert not bool(tree.root_visits()[:, [1, 3]].any())


def flat(states: Sequence[State]) -> NDArray[np.float64]:
    return np.full((len(states), 4), np.log(0.25))


def test_a_policy_that_knows_no_mask_takes_nothing_that_the_prior_of_a_node_forbids() -> None:
    world = Even(ending=0.0)
    tree = search(world, ROOTS, [1, 2, 3], SearchConfig(simulations=60, max_depth=2, rollout_length=0))
    known, before = set(tree.states), len(world.stepped)
    grown = grow(world, tree, flat, 200, [1, 2, 3], epsilon=0.3, max_depth=3)
    taken = world.stepped[before:]
    assert {action for state, action in taken if state in known} <= {0, 2}
    for node, above in zip(grown.forest.edge_child.tolist(), grown.forest.edge_parent.tolist(), strict=True):
        assert grown.log_prior[above, grown.action[node]] > -torch.inf


def test_a_policy_with_nothing_that_is_allowed_is_refused() -> None:
    world = Even(ending=0.0)
    tree = search(world, ROOTS, [1, 2, 3], SearchConfig(simulations=10))

    def forbidden(states: Sequence[State]) -> NDArray[np.float64]:
        return np.tile(np.array([-np.inf, 0.0, -np.inf, -np.inf]), (len(states), 1))

    def nothing(states: Sequence[State]) -> NDArray[np.float64]:
        return np.full((len(states), 4), -np.inf)

    with pytest.raises(ValueError, match=r"takes nothing but what the prior forbids in .*: restrict it to the allowed"):
        grow(world, tree, forbidden, 1, [1, 2, 3])
    with pytest.raises(ValueError, match=r"the policy forbids every action in .*, which has not ended"):
        grow(world, SearchTree.begin(ROOTS, 4), nothing, 1, [1, 2, 3])
    with pytest.raises(ValueError, match=r"the policy answered in shape .*: expected"):
        grow(world, tree, lambda states: flat(states)[:, :3], 1, [1, 2, 3])
