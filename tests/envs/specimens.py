"""One small specimen of each environment."""

import torch
from torch import Tensor

from gflowdial.dag import Dag
from gflowdial.envs import (
    AppendBits,
    Environment,
    GraphEnvironment,
    Hypergrid,
    InsertBits,
    MoveSequences,
    PerfectTree,
    SetBuilding,
    StopAnywhere,
)

MODES = torch.tensor([[0, 0, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0]])


def numbers(count: int) -> Tensor:
    return torch.randn(count, dtype=torch.float64, generator=torch.Generator().manual_seed(count))


def worth(states: Tensor) -> Tensor:
    """What a dialogue is worth: its strategies' numbers, by scene and turn, as far as it went."""
    scene, turns = states[:, 0], states[:, 1:]
    weight = numbers(2 * turns.shape[1] * 3).reshape(2, turns.shape[1], 3)
    turn = torch.arange(turns.shape[1])
    return torch.where(turns >= 0, weight[scene[:, None], turn, turns.clamp(min=0)], 0.0).sum(1)


def leaves_early(states: Tensor) -> Tensor:
    """Strategy 2 ends a dialogue."""
    return (states[:, 1:] == 2).any(1)


# Nodes 0 and 1 are two conditions; node 6 lies one step from node 1 and three.
TWO_ROOTS = Dag.from_adjacency([[2, 3], [4, 6, 6], [3, 7], [], [5, 5], [6, 8], [], [], []])

ENVIRONMENTS: dict[str, Environment] = {
    "Hypergrid": Hypergrid(2, 4, r0=1e-3),
    "Hypergrid, long": Hypergrid(1, 7),
    "AppendBits": AppendBits(MODES, 2),
    "InsertBits": InsertBits(MODES, 2),
    "SetBuilding": SetBuilding(numbers(5), 3),
    "PerfectTree": PerfectTree(3, numbers(27)),
    "GraphEnvironment": GraphEnvironment(TWO_ROOTS, numbers(4)),
    "MoveSequences": MoveSequences(2, 3, 3, worth),
    "MoveSequences, ended": MoveSequences(2, 3, 4, worth, ended=leaves_early),
    "StopAnywhere": StopAnywhere(SetBuilding(numbers(4), 3)),
    "StopAnywhere, dialogue": StopAnywhere(MoveSequences(2, 3, 3, worth, ended=leaves_early)),
}
