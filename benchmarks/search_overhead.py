"""What the search itself costs: simulations a second in an environment that answers at once.

Run with ``python -m benchmarks search_overhead``.
"""

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gflowdial.search import SearchConfig, Transition, search

ACTIONS = 8


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


def simulations_per_second(trees: int, simulations: int, repeats: int = 5) -> float:
    """The best of a few runs."""
    config = SearchConfig(simulations=simulations)
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        search(Instant(), [0] * trees, range(trees), config)
        seconds.append(time.perf_counter() - begin)
    return trees * simulations / min(seconds)


def main() -> None:
    print("trees | simulations a tree | simulations/s")
    for trees, simulations in ((1, 10), (1, 100), (8, 10), (32, 10), (128, 10), (512, 10), (128, 100)):
        print(f"{trees:5d} | {simulations:18d} | {simulations_per_second(trees, simulations):13,.0f}")


if __name__ == "__main__":
    main()
