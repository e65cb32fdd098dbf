"""What the protocol promises, on random walks through every environment, forwards and backwards."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from specimens import ENVIRONMENTS
from torch import Tensor

from gflowdial.envs import Environment, enumerate_states

environments = pytest.mark.parametrize("environment", ENVIRONMENTS.values(), ids=ENVIRONMENTS)
# A longer walk goes round in a circle.
LONGEST = 20


def any_valid(mask: Tensor, generator: torch.Generator) -> Tensor:
    return torch.multinomial(mask.double(), 1, generator=generator).squeeze(1)


def walk(environment: Environment, seed: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Walkers from random initial states to the ends: the states before and after each step, and its actions."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randint(len(environment.initial_states), (8,), generator=generator)
    states, steps = environment.initial_states[start], []
    while len(states):
        assert len(steps) < LONGEST, "the walk does not end"
        mask = environment.forward_mask(states)
        states, mask = states[mask.any(1)], mask[mask.any(1)]
        if len(states):
            actions = any_valid(mask, generator)
            after = environment.step(states, actions)
            steps.append((states, actions, after))
            states = after
    return steps


@environments
def test_is_an_environment(environment: Environment) -> None:
    assert isinstance(environment, Environment)


@environments
@given(seed=st.integers(0, 2**32))
def test_a_step_back_undoes_a_step(environment: Environment, seed: int) -> None:
    for before, actions, after in walk(environment, seed):
        kept = before.clone()
        rows = torch.arange(len(actions))
        assert bool(environment.backward_mask(after)[rows, actions].all())
        assert torch.equal(environment.step_back(after, actions), before)
        assert torch.equal(environment.step(before, actions), after)
        assert torch.equal(before, kept), "a step changed the states it was given"
        assert after.dtype == torch.int64


@environments
@given(seed=st.integers(0, 2**32))
def test_a_step_undoes_a_step_back(environment: Environment, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    states = torch.cat([after for _, _, after in walk(environment, seed)])
    for _ in range(LONGEST):
        mask = environment.backward_mask(states)
        states, mask = states[mask.any(1)], mask[mask.any(1)]
        if not len(states):
            return
        actions = any_valid(mask, generator)
        before = environment.step_back(states, actions)
        assert bool(environment.forward_mask(before)[torch.arange(len(actions)), actions].all())
        assert torch.equal(environment.step(before, actions), states)
        states = before
    pytest.fail("the walk back does not end")


@environments
@given(seed=st.integers(0, 2**32))
def test_walks_start_at_initial_states_and_end_with_a_reward(environment: Environment, seed: int) -> None:
    assert not bool(environment.backward_mask(environment.initial_states).any())
    steps = walk(environment, seed)
    for _, _, after in steps:
        assert bool(environment.backward_mask(after).any(1).all())
        ends = after[~environment.forward_mask(after).any(1)]
        log_reward = environment.log_reward(ends)
        assert log_reward.dtype == torch.float64
        assert bool(log_reward.isfinite().all())
    # No end but an initial state is left behind: the last walkers all end.
    assert not bool(environment.forward_mask(steps[-1][2]).any())


@environments
@given(seed=st.integers(0, 2**32))
def test_rows_are_answered_one_by_one(environment: Environment, seed: int) -> None:
    before, actions, after = walk(environment, seed)[0]
    for row in range(len(actions)):
        one = slice(row, row + 1)
        assert torch.equal(environment.step(before[one], actions[one]), after[one])
        assert torch.equal(environment.step_back(after[one], actions[one]), before[one])
        for answer in (environment.forward_mask, environment.backward_mask, environment.features):
            assert torch.equal(answer(after[one]), answer(after)[one])
            assert torch.equal(answer(before[one]), answer(before)[one])


@environments
def test_no_states_have_answers_too(environment: Environment) -> None:
    none = environment.initial_states[:0]
    no_actions = torch.zeros(0, dtype=torch.int64)
    assert environment.step(none, no_actions).shape == none.shape
    assert environment.step_back(none, no_actions).shape == none.shape
    assert environment.forward_mask(none).shape == environment.backward_mask(none).shape == (0, environment.num_actions)
    assert environment.features(none).shape == (0, environment.num_features)


@environments
def test_features_tell_states_apart(environment: Environment) -> None:
    states = enumerate_states(environment).states
    features = environment.features(states)
    assert features.shape == (len(states), environment.num_features)
    assert features.dtype == torch.float32
    assert len(features.unique(dim=0)) == len(states)
