"""Every loss is zero, with zero gradient, exactly where its target is met; and a short training run gets there."""

from functools import partial

import pytest
import torch
from torch import Tensor

from gflowdial import losses, oracle
from gflowdial.dag import Dag
from gflowdial.envs import (
    Environment,
    GraphEnvironment,
    Hypergrid,
    MoveSequences,
    PerfectTree,
    SetBuilding,
    StateGraph,
    StopAnywhere,
    enumerate_states,
)
from gflowdial.estimators import TabularFlow
from gflowdial.losses import loss_on
from gflowdial.replay import Replay
from gflowdial.sampling import Terminals, Trajectories, read_trajectories, sample_forward
from gflowdial.training.loop import train


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dialogue_reward(states: Tensor) -> Tensor:
    return torch.sin((states * torch.tensor([1.0, 2.0, 3.0, 5.0])).sum(1).double()) + states[:, 0]


ENVIRONMENTS: dict[str, Environment] = {
    # Two conditions, paths of different lengths, two edges between the same nodes.
    "graph": GraphEnvironment(
        Dag.from_edges(
            torch.tensor([0, 0, 1, 1, 1, 3, 3, 4, 4, 4, 2, 2]), torch.tensor([1, 3, 3, 4, 5, 5, 6, 6, 7, 7, 8, 9]), 10
        ),
        normal(1, 5),
    ),
    "tree": PerfectTree(2, normal(2, 8)),
    "hypergrid": Hypergrid(2, 3),
    "sets": StopAnywhere(SetBuilding(normal(3, 3), 2)),
    "dialogue": MoveSequences(2, 2, 3, dialogue_reward, ended=lambda states: states[:, 1] == 1),
}
STOPS = {"hypergrid", "sets"}
KNOWS_TURNS = {"hypergrid", "sets", "dialogue"}
TREES = {"tree", "dialogue"}


TRAINED = [
    "trajectory_balance",
    "log_partition_variance",
    "detailed_balance",
    "subtrajectory_balance",
    "modified_detailed_balance",
    "modified_subtrajectory_balance",
    "forward_looking_detailed_balance",
    "forward_looking_subtrajectory_balance",
    "flow_matching",
    "relative_trajectory_balance",
    "relative_subtrajectory_balance",
    "maximum_likelihood",
    "expected_detailed_balance",
    "stochastic_detailed_balance",
    "afpo",
]


def suits(objective: str, environment: str) -> bool:
    if objective.startswith("modified"):
        return environment in STOPS
    if objective.startswith("forward_looking"):
        return environment in KNOWS_TURNS
    return objective != "expected_detailed_balance" or environment in TREES


PAIRS = [(o, e) for o in TRAINED for e in ENVIRONMENTS if suits(o, e)]
# The least value of maximum likelihood is an entropy, not zero.
each_balance = pytest.mark.parametrize(
    ("objective", "environment"), [pair for pair in PAIRS if pair[0] != "maximum_likelihood"]
)


def quick(objective: str, environment: str) -> bool:
    if objective in ("trajectory_balance", "detailed_balance", "subtrajectory_balance"):
        return environment in ("graph", "tree")
    return environment == next(e for e in ENVIRONMENTS if suits(objective, e) and e != "hypergrid")


each_run = pytest.mark.parametrize(
    ("objective", "environment"),
    [pytest.param(*pair, marks=[] if quick(*pair) else pytest.mark.slow) for pair in PAIRS],
)


def table(environment: Environment, graph: StateGraph) -> TabularFlow:
    return TabularFlow(
        environment, graph.index, len(graph.states), backward="learned", num_conditions=graph.num_conditions
    ).double()


def uniform_reference(environment: Environment, graph: StateGraph) -> Tensor:
    return -environment.forward_mask(graph.states).sum(1).double().log()[graph.dag.source]


def solved(objective: str, environment: Environment, graph: StateGraph) -> TabularFlow:
    """The estimator that meets the objective's target, for a P_B far from even (where the loss has one)."""
    dag, estimator = graph.dag, table(environment, graph)
    scores = normal(5, len(graph.states), environment.num_actions)
    log_pb = scores.masked_fill(~environment.backward_mask(graph.states), -torch.inf).log_softmax(1)
    with torch.no_grad():
        estimator.backward_scores.copy_(scores)  # type: ignore[union-attr]
        if objective.startswith("relative"):
            # Along edges weighted by the reference: the expected R of going on by it.
            reference = uniform_reference(environment, graph)
            value = torch.full((len(graph.states),), -torch.inf, dtype=torch.float64)
            value[dag.terminals] = graph.log_reward
            for edge in range(dag.num_edges - 1, -1, -1):
                source = dag.source[edge]
                value[source] = torch.logaddexp(value[source], reference[edge] + value[dag.target[edge]])
            log_flow, log_pf = value, reference + value[dag.target] - value[dag.source]
        else:
            log_flow, log_pf = oracle.dag_flows(dag, log_pb[dag.target, graph.action], graph.log_reward)
        estimator.forward_scores[dag.source, graph.action] = log_pf
        estimator.log_z.values.copy_(log_flow[dag.roots])
        if objective.startswith("forward_looking"):
            # What the turns have paid is taken off; a dialogue's turns pay from its first state on.
            paid = environment.log_reward(graph.states)
            log_flow = log_flow - paid + paid[dag.roots][dag.root_of]
        estimator.log_flow.copy_(log_flow)
    return estimator


def anywhere(environment: Environment) -> Trajectories:
    condition = torch.arange(24) % len(environment.initial_states)
    return sample_forward(
        environment,
        lambda states: torch.where(environment.forward_mask(states), 0.0, -torch.inf).log_softmax(1),
        condition,
        generator=torch.Generator().manual_seed(0),
    )


@each_balance
def test_an_objective_is_zero_exactly_at_its_target(objective: str, environment: str) -> None:
    here = ENVIRONMENTS[environment]
    graph = enumerate_states(here)
    estimator = solved(objective, here, graph)
    trajectories = anywhere(here)
    loss = loss_on(objective, read_trajectories(here, estimator, trajectories))
    gradients = torch.autograd.grad(loss, list(estimator.parameters()), allow_unused=True)
    assert loss < 1e-20
    assert all((gradient.abs() < 1e-9).all() for gradient in gradients if gradient is not None)
    with torch.no_grad():
        estimator.forward_scores += normal(7, *estimator.forward_scores.shape)
    assert loss_on(objective, read_trajectories(here, estimator, trajectories)) > 1e-3


def trained(objective: str, name: str, graph: StateGraph) -> TabularFlow:
    environment = ENVIRONMENTS[name]
    estimator = TabularFlow(environment, graph.index, len(graph.states), num_conditions=graph.num_conditions).double()
    steps, rate, batch_size, replay = (120, 0.5, 16, None) if quick(objective, name) else (250, 0.3, 24, None)
    if name == "dialogue":
        # Detailed balance carries rewards up one turn after another.
        steps = 400
    if objective == "maximum_likelihood":
        ends = graph.dag.terminals
        replay = Replay(1000, priority="reward")
        replay.add(Terminals(graph.states[ends], graph.log_reward, graph.dag.root_of[ends]))
        # Data are a sample: this loss is noisy at its minimum, where the others are still.
        steps, rate, batch_size = 200, 0.3, 256
    optimiser = torch.optim.Adam(estimator.parameters(), lr=rate)
    for done in train(
        environment,
        estimator,
        objective,
        optimiser,
        steps=steps,
        batch_size=batch_size,
        generator=torch.Generator().manual_seed(0),
        epsilon=0.5,
        per_condition=8,
        replay=replay,
        replay_share=1.0,
    ):
        optimiser.param_groups[0]["lr"] = rate * 0.01 ** ((done.step + 1) / steps)
    return estimator


@each_run
def test_training_reaches_the_exact_distribution(objective: str, environment: str) -> None:
    here = ENVIRONMENTS[environment]
    graph = enumerate_states(here)
    estimator = trained(objective, environment, graph)
    ends = graph.dag.root_of[graph.dag.terminals]
    with torch.no_grad():
        log_pf = estimator(graph.states).log_pf[graph.dag.source, graph.action]
    found = oracle.dag_terminating_distribution(graph.dag, log_pf)
    target = graph.log_reward.clone()
    if objective.startswith("relative"):
        target += oracle.dag_terminating_distribution(graph.dag, uniform_reference(here, graph))
    for condition in range(graph.num_conditions):
        p, q = found[ends == condition].exp(), target[ends == condition].softmax(0)
        assert (p - q).abs().sum() / 2 < (0.05 if environment == "hypergrid" else 0.02)


def test_options_reach_the_loss() -> None:
    environment = ENVIRONMENTS["tree"]
    estimator = table(environment, enumerate_states(environment))
    reading = read_trajectories(environment, estimator, anywhere(environment))
    plain = loss_on("subtrajectory_balance", reading)
    other = loss_on(partial(losses.subtrajectory_balance, decay=0.3, penalty=losses.huber), reading)
    assert not torch.isclose(plain, other)
    assert other == loss_on("subtrajectory_balance", reading, decay=0.3, penalty=losses.huber)


def test_a_reference_of_one_s_own() -> None:
    environment = ENVIRONMENTS["graph"]
    estimator = solved("trajectory_balance", environment, enumerate_states(environment))
    trajectories = anywhere(environment)
    reading = read_trajectories(environment, estimator, trajectories, estimator.forward_policy)
    loss = loss_on("relative_trajectory_balance", reading, temperature=1e12)
    # At no reward the policy is the reference, and Z is 1.
    torch.testing.assert_close(loss, estimator.log_z(trajectories.condition).square().mean(), rtol=1e-6, atol=0.0)


def test_losses_refuse_what_they_cannot_do() -> None:
    def loss(objective: str, environment: Environment) -> Tensor:
        estimator = table(environment, enumerate_states(environment))
        return loss_on(objective, read_trajectories(environment, estimator, anywhere(environment)))

    with pytest.raises(ValueError, match="GraphEnvironment has no stop_action"):
        loss("modified_detailed_balance", ENVIRONMENTS["graph"])
    with pytest.raises(ValueError, match="does not know the rewards of single turns"):
        loss("forward_looking_detailed_balance", ENVIRONMENTS["graph"])
    with pytest.raises(ValueError, match="can be reached in several ways"):
        loss("expected_detailed_balance", ENVIRONMENTS["hypergrid"])
    with pytest.raises(
        ValueError, match="ranking_hinge needs log_value, which this reading has not; it has forest, log_z"
    ):
        loss("ranking_hinge", ENVIRONMENTS["tree"])
