"""Trajectories that were read say at each edge what the estimator says of its state, and nothing of the rows around."""

import io
from dataclasses import replace

import pytest
import torch
from all_paths import ENVIRONMENTS
from test_lockstep import conditions, generator, random_estimator

from gflowdial import Forest
from gflowdial.envs import Hypergrid, enumerate_states
from gflowdial.estimators import TabularFlow
from gflowdial.sampling import Terminals, read_trajectories, sample_forward

each_environment = pytest.mark.parametrize("name", ENVIRONMENTS)


@each_environment
def test_each_edge_and_node_is_answered_by_itself(name: str) -> None:
    environment = ENVIRONMENTS[name]
    estimator = random_estimator(environment)
    condition = conditions(environment, 20)
    sampled = sample_forward(environment, estimator.forward_policy, condition, generator=generator())
    said = read_trajectories(environment, estimator, sampled)
    torch.testing.assert_close(said["log_z"], estimator.log_z.values[condition])
    edge = 0
    for node, state in enumerate(sampled.states):
        alone = estimator(state[None])
        torch.testing.assert_close(said["log_flow"][node], alone.log_flow[0])
        if sampled.forest.parent[node] >= 0:
            action = sampled.actions[edge]
            before = estimator(sampled.states[node - 1][None])
            torch.testing.assert_close(said["log_pf"][edge], before.log_pf[0, action])
            torch.testing.assert_close(said["log_pb"][edge], alone.log_pb[0, action])
            edge += 1
    assert edge == len(said["log_pf"]) == len(said["log_pb"])


@each_environment
def test_gradients_are_finite_and_stay_with_what_was_visited(name: str) -> None:
    environment = ENVIRONMENTS[name]
    estimator = random_estimator(environment)
    sampled = sample_forward(environment, estimator.forward_policy, conditions(environment, 3), generator=generator())
    said = read_trajectories(environment, estimator, sampled)
    (said["log_pf"].sum() + 2 * said["log_pb"].sum()).backward()
    rows = estimator.index(sampled.states)
    elsewhere = torch.ones(len(estimator.log_flow), dtype=torch.bool)
    elsewhere[rows] = False
    assert estimator.backward_scores is not None
    for scores, mask in (
        (estimator.forward_scores, environment.forward_mask(sampled.states)),
        (estimator.backward_scores, environment.backward_mask(sampled.states)),
    ):
        assert scores.grad is not None
        assert scores.grad.isfinite().all()
        assert (scores.grad[elsewhere] == 0).all()
        assert (scores.grad[rows][~mask] == 0).all(), "a masked action learned something"
    assert (estimator.forward_scores.grad != 0).any()  # type: ignore[union-attr]


@each_environment
def test_equal_states_are_read_once_and_answered_wherever_they_stand(name: str) -> None:
    environment = ENVIRONMENTS[name]
    estimator = random_estimator(environment)
    sampled = sample_forward(environment, estimator.forward_policy, conditions(environment, 40), generator=generator())
    read: list[int] = []
    estimator.register_forward_pre_hook(lambda _, states: read.append(len(states[0])))
    said = read_trajectories(environment, estimator, sampled)
    assert read == [], "nothing is read before it is asked for"
    flow = said["log_flow"]
    assert read == [len(set(map(tuple, sampled.states.tolist())))]
    everywhere = estimator(sampled.states)
    torch.testing.assert_close(flow, everywhere.log_flow)
    edges = torch.arange(sampled.forest.num_edges)
    before, after = sampled.forest.edge_parent, sampled.forest.edge_child
    torch.testing.assert_close(said["log_policy"], everywhere.log_pf[before])
    torch.testing.assert_close(said["log_pf"], everywhere.log_pf[before][edges, sampled.actions])
    torch.testing.assert_close(said["log_pb"], everywhere.log_pb[after][edges, sampled.actions])
    assert len(read) == 2  # this function's own reading, and one for all inputs


def test_prefixes_leave_out_the_stop() -> None:
    environment = ENVIRONMENTS["hypergrid"]
    assert isinstance(environment, Hypergrid)
    estimator = random_estimator(environment)
    sampled = sample_forward(environment, estimator.forward_policy, conditions(environment, 30), generator=generator())
    said = read_trajectories(environment, estimator, sampled)
    prefixes = said["stopping"]
    lengths = sampled.forest.offsets.diff()
    torch.testing.assert_close(prefixes["forest"].offsets.diff(), lengths - 1)
    node = edge = prefix_node = prefix_edge = 0
    for length in lengths.tolist():
        for step in range(length - 1):
            state = sampled.states[node + step][None]
            stop = torch.tensor([environment.stop_action])
            torch.testing.assert_close(prefixes["log_stop"][prefix_node], estimator(state).log_pf[0, stop[0]])
            torch.testing.assert_close(
                prefixes["log_reward"][prefix_node], environment.log_reward(environment.step(state, stop))[0]
            )
            prefix_node += 1
            if step < length - 2:
                torch.testing.assert_close(prefixes["log_pf"][prefix_edge], said["log_pf"][edge + step])
                torch.testing.assert_close(prefixes["log_pb"][prefix_edge], said["log_pb"][edge + step])
                prefix_edge += 1
        node, edge = node + length, edge + length - 1
    assert prefix_node == len(prefixes["log_stop"]) == len(prefixes["log_reward"])
    assert prefix_edge == len(prefixes["log_pf"]) == len(prefixes["log_pb"])


def test_prefixes_need_a_stop() -> None:
    environment = ENVIRONMENTS["tree"]
    estimator = random_estimator(environment)
    sampled = sample_forward(environment, estimator.forward_policy, conditions(environment, 2), generator=generator())
    with pytest.raises(ValueError, match="PerfectTree has no stop_action"):
        _ = read_trajectories(environment, estimator, sampled)["stopping"]


class LateStop(Hypergrid):
    """A hypergrid where one must leave the origin first."""

    def forward_mask(self, states: torch.Tensor) -> torch.Tensor:
        mask = super().forward_mask(states)
        mask[:, -1] &= states.sum(1) > 0
        return mask


def test_prefixes_need_a_stop_everywhere() -> None:
    environment = LateStop(2, 3)
    estimator = random_estimator(environment)
    sampled = sample_forward(environment, estimator.forward_policy, conditions(environment, 2), generator=generator())
    with pytest.raises(ValueError, match=r"there is none in \[0, 0, 0\]"):
        _ = read_trajectories(environment, estimator, sampled)["stopping"]


@each_environment
def test_state_flows_list_every_edge_of_the_graph(name: str) -> None:
    environment = ENVIRONMENTS[name]
    estimator = random_estimator(environment)
    graph = enumerate_states(environment)
    sampled = sample_forward(environment, estimator.forward_policy, conditions(environment, 8), generator=generator())
    flows = read_trajectories(environment, estimator, sampled)["states"]
    everything = estimator(graph.states)
    edge_flow = everything.log_flow[graph.dag.source] + everything.log_pf[graph.dag.source, graph.action]
    terminal = {int(node): float(reward) for node, reward in zip(graph.dag.terminals, graph.log_reward, strict=True)}
    for position, node in enumerate(graph.index(sampled.states).tolist()):
        for listed, owner, end in (
            (flows["log_in_flow"], flows["in_state"], graph.dag.target),
            (flows["log_out_flow"], flows["out_state"], graph.dag.source),
        ):
            torch.testing.assert_close(listed[owner == position].sort().values, edge_flow[end == node].sort().values)
        assert float(flows["log_reward"][position]) == terminal.get(node, -torch.inf)


def test_references_are_even_or_one_s_own_and_have_no_gradient() -> None:
    environment = ENVIRONMENTS["graph"]
    estimator = random_estimator(environment)
    sampled = sample_forward(environment, estimator.forward_policy, conditions(environment, 9), generator=generator())
    before = sampled.states[sampled.forest.edge_parent]
    even = read_trajectories(environment, estimator, sampled)
    torch.testing.assert_close(even["log_reference"], -environment.forward_mask(before).sum(1).double().log())
    own = read_trajectories(environment, estimator, sampled, estimator.forward_policy)
    torch.testing.assert_close(own["log_reference"], own["log_pf"].detach())
    torch.testing.assert_close(own["log_reference_policy"], own["log_policy"].detach())
    assert not own["log_reference"].requires_grad
    assert torch.equal(own["tree"].ids, sampled.forest.edge_tree)


def test_the_estimator_s_table_is_read_by_state() -> None:
    """Rows in an order of their own change nothing: what a state is decides, not where it stands."""
    environment = ENVIRONMENTS["hypergrid"]
    graph = enumerate_states(environment)
    estimator = random_estimator(environment)
    shuffle = torch.randperm(len(graph.states), generator=generator())
    moved = TabularFlow(environment, lambda states: shuffle[graph.index(states)], len(graph.states)).double()
    with torch.no_grad():
        moved.forward_scores[shuffle] = estimator.forward_scores
    torch.testing.assert_close(moved.forward_policy(graph.states), estimator.forward_policy(graph.states))


@pytest.mark.parametrize("wrong", [-1, 3])
def test_actions_that_the_environment_does_not_have_are_named(wrong: int) -> None:
    environment = ENVIRONMENTS["hypergrid"]
    estimator = random_estimator(environment)
    sampled = sample_forward(environment, estimator.forward_policy, conditions(environment, 3), generator=generator())
    actions = sampled.actions.clone()
    actions[1] = wrong
    with pytest.raises(ValueError, match=rf"actions\[1\] is {wrong}, out of range: actions are 0 to 2"):
        read_trajectories(environment, estimator, replace(sampled, actions=actions))


def test_trajectories_that_do_not_fit_their_forest_are_named() -> None:
    environment = ENVIRONMENTS["hypergrid"]
    policy = random_estimator(environment).forward_policy
    sampled = sample_forward(environment, policy, conditions(environment, 3), generator=generator())
    for name in ("actions", "log_reward", "condition"):
        with pytest.raises(ValueError, match=f"{name} must have one entry per"):
            replace(sampled, **{name: getattr(sampled, name)[1:]})
    with pytest.raises(ValueError, match="states must have one row per node"):
        replace(sampled, states=sampled.states[1:])
    with pytest.raises(ValueError, match="one leaf a tree"):
        replace(sampled, forest=Forest.from_parents(torch.tensor([-1, 0, 0])))
    # Where shapes are checked at run time, as here, that check comes first.
    with pytest.raises((ValueError, TypeError), match="log_reward"):
        Terminals(sampled.states, sampled.log_reward, sampled.condition)


def test_trajectories_of_inference_can_be_trained_on_and_loaded() -> None:
    environment = ENVIRONMENTS["hypergrid"]
    estimator = random_estimator(environment)
    with torch.inference_mode():
        sampled = sample_forward(
            environment, estimator.forward_policy, conditions(environment, 3), generator=generator()
        )
    file = io.BytesIO()
    torch.save(sampled, file)
    file.seek(0)
    for trajectories in (sampled, torch.load(file, weights_only=True)):
        said = read_trajectories(environment, estimator, trajectories)
        loss = (said["log_pf"].sum() * trajectories.log_reward.sum() - said["log_pb"].sum()).square()
        assert all(
            bool(x.grad_fn is None and x.isfinite().all()) for x in torch.autograd.grad(loss, estimator.forward_scores)
        )
