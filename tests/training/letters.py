"""A world of letters, whose trajectories a policy on a language model can sample."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from random_trees import ACTIONS

from gflowdial.estimators.language_model import LanguageModelPolicy
from gflowdial.estimators.packing import pack_prefixes
from gflowdial.search import SearchTree, Transition

State = tuple[int, ...]
BRANCH = [5, 9]


class Letters:
    """A state is a root and the actions so far; ``turns`` of them end it, and one action pays."""

    num_actions = ACTIONS

    def __init__(self, turns: int) -> None:
        self.turns, self.steps = turns, 0

    def log_prior(self, states: Sequence[State]) -> NDArray[np.float64]:
        return np.full((len(states), ACTIONS), -np.log(ACTIONS))

    def step(self, states: Sequence[State], actions: NDArray[np.int64]) -> list[Transition[State]]:
        self.steps += len(states)
        after = [(*state, int(action)) for state, action in zip(states, actions, strict=True)]
        return [Transition(state, float(state[-1] == 2), len(state) == 1 + self.turns) for state in after]

    def trajectory_return(self, rewards: Sequence[float], state: State) -> float:  # noqa: ARG002
        return float(np.mean(rewards))


def tokens(tree: SearchTree[State]) -> list[list[int]]:
    """What each node adds to its parent's prefix: a token for its last letter."""
    return [[20 + state[-1]] for state in tree.states]


def acting(model: LanguageModelPolicy) -> Callable[[Sequence[State]], NDArray[np.float64]]:
    """log P_F of the policy at states, each read alone."""

    @torch.no_grad()
    def act(states: Sequence[State]) -> NDArray[np.float64]:
        packed = [
            pack_prefixes(range(-1, len(s) - 1), [[20 + x] for x in s], [False] * (len(s) - 1) + [True], BRANCH)
            for s in states
        ]
        return np.concatenate([model(each).log_policy.double().log_softmax(-1).numpy() for each in packed])

    return act
