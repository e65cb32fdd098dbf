"""Wishes: what a policy reads of them, which are refused, and the returns of a tree under other weights."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_world import TASK, begun, environment, every

from gflowdial.dialogue import Criterion
from gflowdial.dialogue.environment import DialogueState
from gflowdial.dialogue.wishes import Wish, Wishes, reweighted
from gflowdial.search import SearchConfig, SearchTree, search

WEIGHTED = replace(TASK, turn_reward=None, weights=(0.15, 0.25))
"""The small task with a reward that is a weighted sum of sense and warmth."""
RANGE = Wishes.of(WEIGHTED, (0.02, 0.5), weighted=True)

temperatures = st.floats(0.02, 0.5)
weights = st.tuples(st.floats(0, 9), st.floats(0, 9)).filter(lambda pair: sum(pair) > 0.01)


@given(temperature=temperatures, wanted=weights, factor=st.floats(0.1, 10))
def test_the_vector_of_a_wish_is_standardised_and_knows_ratios_alone(
    temperature: float, wanted: tuple[float, float], factor: float
) -> None:
    vector = RANGE.vector(Wish(temperature, wanted))
    assert vector.shape == (RANGE.conditions,) == (3,)
    assert -1 - 1e-6 <= float(vector[0]) <= 1 + 1e-6
    assert float(vector[1:].sum()) == pytest.approx(0, abs=1e-6)
    assert vector[1:].min() >= -1
    scaled = RANGE.vector(Wish(temperature, (wanted[0] * factor, wanted[1] * factor)))
    torch.testing.assert_close(vector, scaled)


def test_the_ends_of_the_range_and_the_task_s_own_weights() -> None:
    assert RANGE.vector(Wish(0.02)).tolist() == pytest.approx([-1, 2 * 0.375 - 1, 2 * 0.625 - 1])
    assert float(RANGE.vector(Wish(0.5))[0]) == pytest.approx(1)
    assert float(RANGE.vector(Wish(0.1))[0]) == pytest.approx(0, abs=1e-6)
    assert Wishes.of(WEIGHTED, (0.1, 0.1), weighted=False).vector(Wish(0.1)).tolist() == [0]


def test_drawn_wishes_cover_the_range_evenly() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = [RANGE.draw(generator) for _ in range(4000)]
    places = np.array([(math.log(wish.temperature / 0.02)) / math.log(25) for wish in drawn])
    shares = np.array([RANGE.normalised(wish) for wish in drawn])
    for column in (places, shares[:, 0]):
        # Both are uniform on [0, 1] with two criteria.
        assert np.histogram(column, 4, (0, 1))[0] == pytest.approx(1000, abs=130)
    for wish in drawn[:100]:
        RANGE.check(wish)
    again = torch.Generator().manual_seed(0)
    assert [RANGE.draw(again) for _ in range(3)] == drawn[:3]
    assert Wishes.of(TASK, (0.1, 0.2), weighted=False).draw(again).weights is None


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        (Wish(0.01), "temperature 0.01 is outside of what the policy was trained for: choose one from 0.02 to 0.5"),
        (Wish(math.nan), "temperature nan is outside"),
        (Wish(0.1, (1.0,)), "there are 1 weights: give one for each of sense, warmth"),
        (Wish(0.1, (-1.0, 2.0)), "the weights are (-1.0, 2.0): give numbers from 0"),
        (Wish(0.1, (0.0, 0.0)), "not all of them 0"),
        (Wish(0.1, (math.nan, 1.0)), "give numbers from 0"),
    ],
)
def test_a_wish_that_was_not_trained_is_refused(wish: Wish, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        RANGE.vector(wish)


def test_ranges_that_cannot_be_are_refused() -> None:
    for bounds in ((0.0, 1.0), (0.2, 0.1), (0.1, math.inf)):
        with pytest.raises(ValueError, match="give a range above 0"):
            Wishes.of(WEIGHTED, bounds, weighted=True)
    with pytest.raises(ValueError, match="has a turn_reward and no weights"):
        Wishes.of(TASK, (0.1, 0.2), weighted=True)
    with pytest.raises(ValueError, match="has one criterion, sense: weights need two or more"):
        Wishes.of(replace(WEIGHTED, criteria=(Criterion("sense"),), weights=None), (0.1, 0.2), weighted=True)
    with pytest.raises(ValueError, match="trained for the task's own weights alone"):
        Wishes.of(WEIGHTED, (0.1, 0.2), weighted=False).vector(Wish(0.1, (1.0, 1.0)))


def test_weights_are_read_by_name() -> None:
    assert RANGE.read_weights("warmth=2, Sense=0.5") == (0.5, 2.0)
    assert RANGE.read_weights("warmth=2") == (0.0, 2.0)
    for text, message in (
        ("wit=1", "there is no criterion 'wit': name sense, warmth"),
        ("", "there is no criterion ''"),
        ("sense=1,sense=2", "criterion sense comes twice"),
        ("sense", "'sense' is no weight: write sense=1"),
        ("sense=much", "'sense=much' is no weight"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            RANGE.read_weights(text)


def test_tasks_check_their_weights() -> None:
    for wrong, message in (((1.0,), "has 1 weights and 2 criteria"), ((0.0, 0.0), "give numbers from 0")):
        with pytest.raises(ValueError, match=message):
            replace(WEIGHTED, weights=wrong)
    with pytest.raises(ValueError, match="has weights and a turn_reward"):
        replace(TASK, weights=(1.0, 1.0))
    scores = np.array([[2.0, 0.5], [3.0, 1.0]])
    assert replace(WEIGHTED, weights=None).reward(scores) == pytest.approx([1.25, 2.0])
    assert WEIGHTED.reward(scores, (3.0, 1.0)) == pytest.approx(0.4 * np.array([1.625, 2.5]))


def same(found: SearchTree[DialogueState], expected: SearchTree[DialogueState]) -> None:
    for name in ("reward", "value"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("stochastic", [False, True])
def test_under_the_task_s_own_weights_an_enumerated_tree_is_itself(stochastic: bool) -> None:
    tree = every(environment(WEIGHTED, stochastic=stochastic), 2)
    same(reweighted(WEIGHTED, tree)(None), tree)
    same(reweighted(WEIGHTED, tree)((3.0, 5.0)), tree)
    same(reweighted(TASK, every(environment(), 1))(None), every(environment(), 1))


@given(wanted=weights)
def test_under_other_weights_a_tree_is_that_of_a_world_with_these(wanted: tuple[float, float]) -> None:
    total = sum(WEIGHTED.own_weights) / sum(wanted)
    other = replace(WEIGHTED, weights=(wanted[0] * total, wanted[1] * total))
    same(reweighted(WEIGHTED, every(environment(WEIGHTED), 1))(wanted), every(environment(other), 1))


@pytest.mark.parametrize("stochastic", [False, True])
def test_the_rewards_and_ends_of_a_searched_tree_are_its_own(stochastic: bool) -> None:
    config = SearchConfig(simulations=40, max_depth=3, rollout_length=3, keep_rollouts=True)
    tree = search(environment(WEIGHTED, stochastic=stochastic), begun(2), range(2), config)
    found = reweighted(WEIGHTED, tree)(None)
    ends = tree.forest.leaves[tree.ended[tree.forest.leaves]]
    assert len(ends) > 10
    torch.testing.assert_close(found.reward, tree.reward)
    torch.testing.assert_close(found.value[ends], tree.value[ends])


def test_trees_without_scores_are_refused() -> None:
    tree = every(environment(WEIGHTED), 1)
    old = replace(tree, states=tuple(replace(state, scores=()) for state in tree.states))
    with pytest.raises(ValueError, match="exchanges without scores: search its scene anew to change the weights"):
        reweighted(WEIGHTED, old)
