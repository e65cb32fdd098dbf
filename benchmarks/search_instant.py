"""An environment that answers at once: what is left is the search itself."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gflowdial.search import SearchConfig, Transition, search

ACTIONS = 8
SIZES = ((1, 10), (1, 100), (1, 1000), (8, 10), (32, 10), (128, 10), (512, 10))
"""Trees, and simulations a tree."""
REPEATS = 5


class Instant:
    """Eight actions, a uniform prior, a reward from a table; a state is its depth; over after ten turns."""

    num_actions = ACTIONS

    def __init__(self) -> None:
        rewards = np.random.default_rng(0).uniform(0.2, 1.0, (11, ACTIONS)).tolist()
        self.transitions = [
            [Transition(depth + 1, reward, depth == 9) for reward in row] for depth, row in enumerate(rewards)
        ]

    def log_prior(self, states: Sequence[int]) -> NDArray[np.float64]:
        return np.full((len(states), ACTIONS), -np.log(ACTIONS))

    def step(self, states: Sequence[int], actions: NDArray[np.int64]) -> list[Transition[int]]:
        return [self.transitions[state][action] for state, action in zip(states, actions.tolist(), strict=True)]

    def trajectory_return(self, rewards: Sequence[float], state: int) -> float:  # noqa: ARG002
        return sum(rewards) / (len(rewards) or 1)


def measure() -> list[dict[str, Any]]:
    """Simulations per second of processor time, the median of some runs, by trees and simulations."""
    found = []
    for trees, simulations in SIZES:
        seconds = []
        for _ in range(REPEATS):
            start = time.process_time()
            search(Instant(), [0] * trees, range(trees), SearchConfig(simulations=simulations))
            seconds.append(time.process_time() - start)
        rates = sorted(trees * simulations / taken for taken in seconds)
        found.append(
            {
                "trees": trees,
                "simulations": simulations,
                "per second": rates[REPEATS // 2],
                "least": rates[0],
                "most": rates[-1],
            }
        )
    return found
