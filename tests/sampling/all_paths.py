"""Small environments of every kind, and all trajectories of one, found by plain recursion."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from gflowdial.dag import Dag
from gflowdial.envs import Environment, GraphEnvironment, Hypergrid, InsertBits, MoveSequences, PerfectTree

Path = tuple[tuple[int, ...], ...]
"""The states of a trajectory."""


def scores(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dialogue_reward(states: Tensor) -> Tensor:
    return torch.sin((states * torch.tensor([1.0, 2.0, 3.0, 5.0])).sum(1).double())


ENVIRONMENTS: dict[str, Environment] = {
    "hypergrid": Hypergrid(2, 3),
    # Node 7 is a root and an end at once; two edges lead from 4 to 6; paths to 5 differ in length.
    "graph": GraphEnvironment(
        Dag.from_edges(torch.tensor([0, 0, 1, 1, 2, 2, 4, 4, 8, 8]), torch.tensor([1, 2, 3, 5, 3, 4, 5, 6, 9, 10]), 11),
        scores(1, 6),
    ),
    "tree": PerfectTree(2, scores(2, 8)),
    "bits": InsertBits(torch.tensor([[0, 1, 1], [1, 1, 0]])),
    "dialogue": MoveSequences(3, 2, 3, dialogue_reward, ended=lambda states: states[:, 1] == 1),
}


def all_paths(
    environment: Environment, policy: Callable[[Tensor], Tensor], start: Tensor
) -> Iterator[tuple[Path, float]]:
    """Each trajectory from ``start`` with its probability under ``policy`` (log-probabilities of actions)."""
    state = tuple(start.tolist())
    mask = environment.forward_mask(start[None])[0]
    if not mask.any():
        yield (state,), 1.0
        return
    log_p = policy(start[None])[0]
    for action in range(environment.num_actions):
        if mask[action]:
            after = environment.step(start[None], torch.tensor([action]))[0]
            for rest, probability in all_paths(environment, policy, after):
                yield (state, *rest), math.exp(log_p[action]) * probability


def summed(pairs: Iterator[tuple[Path, float]]) -> dict[Path, float]:
    """Probabilities of equal state sequences added up: parallel edges are different actions between the same states."""
    total: dict[Path, float] = {}
    for path, probability in pairs:
        total[path] = total.get(path, 0.0) + probability
    return total


def deviation_bound(categories: int, samples: int, error: float = 1e-6) -> float:
    """With probability 1 - ``error`` the total variation between ``samples`` draws and their distribution is below it.

    Bretagnolle, Huber and Carol: ``P(L1 ≥ ε) ≤ 2^k exp(-n ε² / 2)``.
    """
    return math.sqrt(2 * (categories * math.log(2) - math.log(error)) / samples) / 2
