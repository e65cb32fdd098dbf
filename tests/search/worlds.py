"""Small random worlds for tests of the search: with forbidden actions, and with chance."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from test_mcts import State, Toy, noise

from gflowdial.search import SearchTree, Transition

COLUMNS = ("action", "reward", "visits", "value", "log_prior", "ended", "expanded", "chance", "log_chance")


def same(one: SearchTree[State], other: SearchTree[State]) -> None:
    assert torch.equal(one.forest.parent, other.forest.parent)
    assert one.states == other.states
    for name in COLUMNS:
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=0, atol=0, equal_nan=True)


@dataclass
class Masked(Toy):
    """Every action is forbidden with probability ``masking``, but one at least is allowed."""

    masking: float = 0.5

    def allowed(self, state: State) -> NDArray[np.bool_]:
        draws = np.array([noise((*state, action), 4) for action in range(self.num_actions)])
        return (draws >= self.masking) | (draws == draws.max())

    def log_prior(self, states: Sequence[State]) -> NDArray[np.float64]:
        log_prior = super().log_prior(states)
        log_prior = np.where([self.allowed(state) for state in states], log_prior, -np.inf)
        return log_prior - np.log(np.exp(log_prior).sum(axis=1, keepdims=True))


@dataclass
class Chancy(Masked):
    """An action has up to three outcomes; ``certain``: one, with which the world is `Masked`."""

    certain: bool = False

    def outcomes(self, states: Sequence[State], actions: NDArray[np.int64]) -> list[list[Transition[State]]]:
        self.calls["outcomes"] += 1
        assert not any(map(self.ends, states)), "an ended state was expanded"
        self.stepped += zip(states, actions.tolist(), strict=True)
        answers = []
        for state, action in zip(states, actions.tolist(), strict=True):
            count = 1 if self.certain else 1 + int(3 * noise((*state, action), 5))
            weight = np.array([0.1 + noise((*state, action, k), 6) for k in range(count)])
            after = [(*state, action + 10 * k) for k in range(count)]
            answers.append(
                [
                    Transition(next_state, noise(next_state, 3), self.ends(next_state), float(p))
                    for next_state, p in zip(after, weight / weight.sum(), strict=True)
                ]
            )
        return answers

    def step(self, states: Sequence[State], actions: NDArray[np.int64]) -> list[Transition[State]]:  # noqa: ARG002
        raise AssertionError("chance answers, not step")
