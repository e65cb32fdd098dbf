"""The library's own environments, losses and estimators keep the laws that users are asked to keep."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from gflowdial import envs, losses
from gflowdial.dag import Dag
from gflowdial.envs import Environment
from gflowdial.estimators import MLPTrunk, NetworkFlow, NetworkLogZ, TabularFlow, TabularLogZ, TransformerTrunk
from gflowdial.forest import Forest
from gflowdial.testing import check_environment, check_estimator, check_loss, from_log_z


def rewards(size: int) -> Tensor:
    return torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def of_dialogue(states: Tensor) -> Tensor:
    return states.double() @ torch.arange(1.0, 5.0).double() / 7


ENVIRONMENTS: dict[str, Environment] = {
    "hypergrid": envs.Hypergrid(2, 4),
    "hypergrid in 4 dimensions": envs.Hypergrid(4, 12),
    "append bits": envs.AppendBits(torch.tensor([[0, 1, 1, 0], [1, 1, 1, 1]]), word=2),
    "insert bits": envs.InsertBits(torch.tensor([[0, 1, 1], [1, 1, 1]])),
    "sets": envs.SetBuilding(rewards(6), 3),
    "perfect tree": envs.PerfectTree(3, rewards(27)),
    "graph of two components": envs.GraphEnvironment(
        Dag.from_adjacency([[1, 2, 2], [3], [3], [], [5, 6], [], []]), rewards(3)
    ),
    "dialogue": envs.MoveSequences(2, 3, 3, of_dialogue, ended=lambda states: states[:, 1] == 2),
    "stop anywhere": envs.StopAnywhere(envs.SetBuilding(rewards(4), 2)),
}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_environments(name: str) -> None:
    check_environment(ENVIRONMENTS[name], max_states=300)


LOSSES: dict[str, Callable[..., Tensor]] = {
    "detailed balance": losses.detailed_balance,
    "trajectory balance": from_log_z(losses.trajectory_balance),
    "subtrajectory balance": losses.subtrajectory_balance,
    "subtrajectory balance by path": partial(losses.subtrajectory_balance, decay=1.0, pair_weight="path"),
    "subtrajectory balance, linex": partial(losses.subtrajectory_balance, penalty=losses.linex),
    "detailed balance, huber": partial(losses.detailed_balance, penalty=losses.huber),
    "trajectory balance, log cosh": from_log_z(partial(losses.trajectory_balance, penalty=losses.log_cosh)),
    "afpo, anchored": losses.afpo,
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses(name: str) -> None:
    check_loss(LOSSES[name], max_examples=5)


def forward_looking(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """With turn rewards that fit: F̃ is the flow without them, and log R holds their sum."""

    def with_whole_flow(log_flow: Tensor, log_pf: Tensor, log_pb: Tensor, log_reward: Tensor, forest: Forest) -> Tensor:
        turns = torch.cos(torch.arange(forest.num_edges, dtype=torch.float64))
        return loss(log_flow - forest.root_sum(turns), log_pf, log_pb, log_reward, forest, log_turn_reward=turns)

    return with_whole_flow


def modified(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Every state is worth R = 1, so stopping has log-probability -log F."""

    def with_stop(log_flow: Tensor, log_pf: Tensor, log_pb: Tensor, log_reward: Tensor, forest: Forest) -> Tensor:
        below = forest.leaves[forest.parent[forest.leaves] >= 0]
        at_leaves = log_reward[forest.parent[forest.leaves] >= 0]
        log_stop = -log_flow.index_copy(0, below, at_leaves)
        return loss(log_stop, log_pf, log_pb, torch.zeros_like(log_flow), forest)

    return with_stop


def relative(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The reference stands where log P_B does, and at temperature 2 the rewards of the target are doubled."""

    def at_two(log_flow: Tensor, log_pf: Tensor, log_pb: Tensor, log_reward: Tensor, forest: Forest) -> Tensor:
        return loss(log_flow, log_pf, log_pb, 2 * log_reward, forest, temperature=2.0)

    return at_two


def stochastic(log_flow: Tensor, log_pf: Tensor, log_pb: Tensor, log_reward: Tensor, forest: Forest) -> Tensor:
    answers = -torch.arange(forest.num_edges, dtype=torch.float64)
    return losses.stochastic_detailed_balance(
        log_flow, log_pf - answers, log_pb, log_reward, forest, log_dynamics=answers
    )


def variance(
    log_flow: Tensor,  # noqa: ARG001 (it needs none)
    log_pf: Tensor,
    log_pb: Tensor,
    log_reward: Tensor,
    forest: Forest,
    group: Tensor,
) -> Tensor:
    return losses.log_partition_variance(log_pf, log_pb, log_reward, forest, group=group)


@pytest.mark.parametrize(
    "loss",
    [
        forward_looking(losses.forward_looking_detailed_balance),
        forward_looking(losses.forward_looking_subtrajectory_balance),
        modified(losses.modified_detailed_balance),
        modified(losses.modified_subtrajectory_balance),
        from_log_z(relative(losses.relative_trajectory_balance)),
        relative(losses.relative_subtrajectory_balance),
        stochastic,
    ],
    ids=lambda loss: loss.__qualname__,
)
def test_losses_that_take_more(loss: Callable[..., Tensor]) -> None:
    # Numbers that depend on a node's number would make these adapters depend on it.
    check_loss(loss, over_trees="other", max_examples=5)


def test_log_partition_variance() -> None:
    check_loss(variance, group="group", max_examples=5)


def estimators(environment: Environment, graph: envs.StateGraph) -> dict[str, Callable[[], object]]:
    features, conditions = environment.num_features, len(environment.initial_states)
    table = partial(TabularFlow, environment, graph.index, len(graph.states), num_conditions=conditions)
    return {
        "table": table,
        "table, learned P_B": partial(table, backward="learned"),
        "perceptron": lambda: NetworkFlow(
            environment, MLPTrunk(features, width=16), log_z=TabularLogZ(conditions), backward="learned"
        ),
        "transformer": lambda: NetworkFlow(
            environment, TransformerTrunk(features, 1, width=16, depth=1, heads=2), log_z=TabularLogZ(conditions)
        ),
    }


@pytest.mark.parametrize("kind", ["table", "table, learned P_B", "perceptron", "transformer"])
@pytest.mark.parametrize("name", ["hypergrid", "graph of two components", "dialogue"])
def test_estimators(name: str, kind: str) -> None:
    environment = ENVIRONMENTS[name]
    torch.manual_seed(0)
    estimator = estimators(environment, envs.enumerate_states(environment))[kind]()
    check_estimator(estimator, environment, max_states=30)  # type: ignore[arg-type]


def test_log_z_of_a_network() -> None:
    environment = ENVIRONMENTS["dialogue"]
    torch.manual_seed(0)
    trunk = MLPTrunk(environment.num_features, width=16)
    log_z = NetworkLogZ(trunk, environment.features(environment.initial_states))
    check_estimator(NetworkFlow(environment, trunk, log_z=log_z), environment, max_states=30)
