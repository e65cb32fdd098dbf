"""What `benchmarks.convergence` trains: every loss, the environments it is trained in, and the target it leads to.

Most losses lead to R. Those that lead elsewhere are measured against what they say: the relative ones against
``P_ref(x)·R(x)``, length-normalised trajectory balance against ``(R/Z)^T``. Forward-looking losses need the rewards of
unfinished states, modified ones an action that stops anywhere, expected detailed balance a tree: they are trained where
that is given. In these environments an action has one outcome, so that the two losses for chance, expected and
stochastic detailed balance, come down to detailed balance.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from gflowdial import Forest, losses, oracle, segments
from gflowdial.dag import Dag
from gflowdial.envs import (
    AppendBits,
    Environment,
    GraphEnvironment,
    Hypergrid,
    MoveSequences,
    PerfectTree,
    StateGraph,
    StopAnywhere,
)
from gflowdial.losses import LOSSES, Loss
from gflowdial.numerics import uniform_log_probabilities
from gflowdial.segments import Segments

EPSILON = 0.2
"""Chance of a uniform action while sampling."""


class NodeRewards:
    """Rewards of unfinished states too, by the number of the node: what forward-looking and modified losses read."""

    values: Tensor

    def log_reward(self, states: Tensor) -> Tensor:
        return self.values[states[:, 0]]


class RewardedTree(NodeRewards, PerfectTree):
    """A perfect tree whose every node has a reward, the root's 1."""

    def __init__(self, branching: int, depth: int, generator: torch.Generator) -> None:
        self.values = node_values((branching ** (depth + 1) - 1) // (branching - 1), generator)
        super().__init__(branching, self.values[-(branching**depth) :])


class RewardedGraph(NodeRewards, GraphEnvironment):
    """A graph whose every node has a reward, the root's 1; paths of two lengths lead to node 7."""

    def __init__(self, generator: torch.Generator) -> None:
        dag = Dag.from_adjacency([[1, 2, 3], [4, 5], [4, 6], [5, 6, 7], [7, 8], [8], [9], [], [], []])
        self.values = node_values(dag.num_nodes, generator)
        super().__init__(dag, self.values[dag.terminals])


def node_values(nodes: int, generator: torch.Generator) -> Tensor:
    """log R of each node, with standard deviation 2."""
    values = 2 * torch.randn(nodes, generator=generator, dtype=torch.float64)
    values[0] = 0.0
    return values


def dialogue(generator: torch.Generator) -> MoveSequences:
    """Two scenes of three turns with three strategies, in which each pair of turns has a value of its own."""
    value = torch.randn(2, 3, 3, 3, generator=generator, dtype=torch.float64)

    def log_reward(states: Tensor) -> Tensor:
        scene, first, second, third = states.T
        return value[scene, 0, first, second] + value[scene, 1, second, third] + value[scene, 2, first, third]

    return MoveSequences(2, 3, 3, log_reward)


class Place(NamedTuple):
    """An environment by its seed, how many steps training takes, and the total variation that must be reached."""

    build: Callable[[torch.Generator], Environment]
    steps: int
    bar: float


def stopping(build: Callable[[torch.Generator], Environment]) -> Callable[[torch.Generator], Environment]:
    return lambda generator: StopAnywhere(build(generator))


def tree(generator: torch.Generator) -> Environment:
    return RewardedTree(3, 3, generator)


PLACES = {
    "hypergrid 8×8": Place(lambda _: Hypergrid(2, 8), 1000, 0.05),
    "tree": Place(tree, 500, 0.02),
    "graph": Place(RewardedGraph, 500, 0.02),
    "tree, stop anywhere": Place(stopping(tree), 500, 0.02),
    "graph, stop anywhere": Place(stopping(RewardedGraph), 500, 0.02),
    "bits": Place(lambda generator: AppendBits(torch.randint(2, (3, 5), generator=generator)), 500, 0.02),
    "dialogue": Place(dialogue, 500, 0.02),
}


def rewarded(environment: Environment, graph: StateGraph) -> Tensor:  # noqa: ARG001 (targets have one signature)
    """R(x)."""
    return graph.log_reward


def rewarded_reference(environment: Environment, graph: StateGraph) -> Tensor:
    """P_ref(x)·R(x) with the uniform policy as reference."""
    log_reference = uniform_log_probabilities(environment.forward_mask(graph.states), torch.float64)
    ends = oracle.dag_terminating_distribution(graph.dag, log_reference[graph.dag.source, graph.action])
    return graph.log_reward + ends


def sharpened_by_length(environment: Environment, graph: StateGraph) -> Tensor:  # noqa: ARG001
    """(R(x)/Z)^T for states whose paths all have T actions, with the Z for which it sums to 1."""
    length = graph.dag.level[graph.dag.terminals]
    low, high = graph.log_reward.min() - 50, graph.log_reward.max() + 50
    for _ in range(100):
        log_z = (low + high) / 2
        too_much = torch.logsumexp(length * (graph.log_reward - log_z), 0) > 0
        low, high = torch.where(too_much, log_z, low), torch.where(too_much, high, log_z)
    return length * (graph.log_reward - low)


def conditions_of_ends(graph: StateGraph) -> Segments:
    """Which initial state each terminal follows."""
    return Segments.from_ids(graph.dag.root_of[graph.dag.terminals], graph.num_conditions)


def normalised(log_target: Tensor, conditions: Segments) -> Tensor:
    return log_target - segments.logsumexp(log_target, conditions)[conditions.ids]


def clipped_trajectory_balance(
    log_z: Tensor, log_pf: Tensor, log_pb: Tensor, log_reward: Tensor, log_policy: Tensor, forest: Forest
) -> Tensor:
    """`losses.clipped_trajectory_balance` for trajectories sampled from the policy with `EPSILON`."""
    choices = (log_policy > -torch.inf).sum(1)
    behaviour = (1 - EPSILON) * log_pf.detach().exp() + EPSILON / choices
    return losses.clipped_trajectory_balance(log_z, log_pf, log_pb, log_reward, forest, log_behaviour=behaviour.log())


@dataclass(frozen=True)
class Case:
    """A loss, where it is trained, and the target it leads to.

    Attributes:
        loss: as `train` takes it.
        places: three of `PLACES`.
        target: log of the distribution over terminals, up to a constant per condition.
        from_data: whether it learns from ends drawn from the target instead of its own trajectories.
        patience: how many times the usual steps it is given.
    """

    loss: Loss
    places: tuple[str, str, str] = ("hypergrid 8×8", "tree", "graph")
    target: Callable[[Environment, StateGraph], Tensor] = rewarded
    from_data: bool = False
    patience: int = 1


TERMS = {"behaviour_cloning", "dynamics_likelihood", "ranking_hinge", "reference_kl"}
"""Losses without a policy to reach in an environment: terms beside a loss, and those of search trees."""
STOPPING = ("hypergrid 8×8", "tree, stop anywhere", "graph, stop anywhere")
TREES = ("tree", "bits", "dialogue")
ONE_LENGTH = ("hypergrid 8×8", "tree", "bits")

CASES = {
    "trajectory_balance": Case("trajectory_balance"),
    "trajectory_balance, log_cosh": Case(partial(losses.trajectory_balance, penalty=losses.log_cosh)),
    "clipped_trajectory_balance": Case(clipped_trajectory_balance),
    # Its target is so sharp, and far corners so unlikely under the first policies, that they are found late.
    "length_normalised_trajectory_balance": Case(
        "length_normalised_trajectory_balance", ONE_LENGTH, target=sharpened_by_length, patience=6
    ),
    "relative_trajectory_balance": Case("relative_trajectory_balance", target=rewarded_reference),
    "log_partition_variance": Case("log_partition_variance"),
    "detailed_balance": Case("detailed_balance"),
    # The exponential side of its first residuals overshadows all that follow for a while.
    "detailed_balance, linex": Case(partial(losses.detailed_balance, penalty=losses.linex), patience=3),
    "modified_detailed_balance": Case("modified_detailed_balance", STOPPING),
    "forward_looking_detailed_balance": Case("forward_looking_detailed_balance"),
    "expected_detailed_balance": Case("expected_detailed_balance", TREES),
    "stochastic_detailed_balance": Case("stochastic_detailed_balance"),
    "subtrajectory_balance, decay 0.9": Case("subtrajectory_balance"),
    "subtrajectory_balance, decay 1": Case(partial(losses.subtrajectory_balance, decay=1.0)),
    "subtrajectory_balance, huber": Case(partial(losses.subtrajectory_balance, penalty=losses.huber)),
    "modified_subtrajectory_balance": Case("modified_subtrajectory_balance", STOPPING),
    "forward_looking_subtrajectory_balance": Case("forward_looking_subtrajectory_balance"),
    "relative_subtrajectory_balance": Case("relative_subtrajectory_balance", target=rewarded_reference),
    "afpo, anchored": Case("afpo"),
    "flow_matching": Case("flow_matching"),
    # The noise of its data falls with the root of their number.
    "maximum_likelihood": Case("maximum_likelihood", from_data=True, patience=4),
}
CASES |= {name: Case(name) for name in LOSSES if name not in TERMS | {case.split(", ")[0] for case in CASES}}
