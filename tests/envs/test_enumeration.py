"""Enumerated environments: all states are there, in an order that flows can follow, and answers on them are exact."""

from math import comb

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from specimens import ENVIRONMENTS, MODES, TWO_ROOTS, leaves_early, numbers, worth
from torch import Tensor

from gflowdial import oracle
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
    StateGraph,
    StopAnywhere,
    enumerate_states,
)
from gflowdial.testing import dags, vectors

environments = pytest.mark.parametrize("environment", ENVIRONMENTS.values(), ids=ENVIRONMENTS)


@pytest.mark.parametrize(
    ("environment", "states", "steps", "ends"),
    [
        (Hypergrid(2, 8), 2 * 8**2, 2 * 7 * 8 + 8**2, 8**2),
        (Hypergrid(3, 4), 2 * 4**3, 3 * 3 * 4**2 + 4**3, 4**3),
        (AppendBits(MODES, 2), 1 + 4 + 16 + 64, 4 + 16 + 64, 64),
        (InsertBits(MODES, 2), 5**3, 3 * 4 * 5**2, 4**3),
        (SetBuilding(numbers(7), 3), 1 + 7 + 21 + 35, 7 + 21 * 2 + 35 * 3, comb(7, 3)),
        (PerfectTree(3, numbers(27)), 1 + 3 + 9 + 27, 3 + 9 + 27, 27),
        (MoveSequences(2, 3, 3, worth), 2 * (1 + 3 + 9 + 27), 2 * (3 + 9 + 27), 2 * 27),
        # Of the dialogues under way, strategies 0 and 1 only, three steps lead on from each.
        (MoveSequences(2, 3, 3, worth, ended=leaves_early), 2 * (1 + 3 + 6 + 12), 2 * (3 + 6 + 12), 2 * (1 + 2 + 12)),
        (StopAnywhere(SetBuilding(numbers(4), 2)), 2 * 11, 4 + 6 * 2 + 11, 11),
        (GraphEnvironment(TWO_ROOTS, numbers(4)), 9, 11, 4),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Environment) else str(value),
)
def test_all_states_and_steps_are_found(environment: Environment, states: int, steps: int, ends: int) -> None:
    graph = enumerate_states(environment)
    assert (graph.dag.num_nodes, graph.dag.num_edges, len(graph.log_reward)) == (states, steps, ends)


@environments
def test_the_graph_is_the_environment(environment: Environment) -> None:
    graph = enumerate_states(environment)
    assert graph.num_conditions == len(environment.initial_states)
    assert torch.equal(graph.states[graph.dag.roots], environment.initial_states)
    assert torch.equal(graph.dag.roots, torch.arange(graph.num_conditions))
    assert len(graph.states.unique(dim=0)) == len(graph.states)
    # Every edge is a step, no two edges are the same, and there are as many as the masks allow in either direction.
    after = environment.step(graph.states[graph.dag.source], graph.action)
    assert torch.equal(after, graph.states[graph.dag.target])
    assert len(torch.stack([graph.dag.source, graph.action]).unique(dim=1).T) == graph.dag.num_edges
    assert int(environment.forward_mask(graph.states).sum()) == graph.dag.num_edges
    assert int(environment.backward_mask(graph.states).sum()) == graph.dag.num_edges
    torch.testing.assert_close(graph.log_reward, environment.log_reward(graph.states[graph.dag.terminals]))


def distance(graph: StateGraph, log_pf: Tensor) -> Tensor:
    """Total variation per condition between what a policy ends in and R/Z."""
    ends = oracle.dag_terminating_distribution(graph.dag, log_pf).exp()
    condition = graph.dag.root_of[graph.dag.terminals]
    reward = graph.log_reward.exp()
    partition = torch.zeros(graph.num_conditions, dtype=torch.float64).index_add(0, condition, reward)
    off = (ends - reward / partition[condition]).abs() / 2
    return torch.zeros(graph.num_conditions, dtype=torch.float64).index_add(0, condition, off)


@environments
def test_the_exact_policy_samples_in_proportion_to_reward(environment: Environment) -> None:
    graph = enumerate_states(environment)
    log_flow, log_pf = oracle.dag_flows(graph.dag, oracle.uniform_backward(graph.dag), graph.log_reward)
    assert float(distance(graph, log_pf).max()) < 1e-12
    # The distance sees another policy.
    uniform = -graph.dag.num_children.double().log()[graph.dag.source]
    assert float(distance(graph, uniform).max()) > 1e-3
    condition = graph.dag.root_of[graph.dag.terminals]
    for root in range(graph.num_conditions):
        torch.testing.assert_close(log_flow[root], graph.log_reward[condition == root].logsumexp(0))


@pytest.mark.slow
def test_a_large_hypergrid_is_exact_too() -> None:
    graph = enumerate_states(Hypergrid(4, 16), limit=2 * 16**4)
    _, log_pf = oracle.dag_flows(graph.dag, oracle.uniform_backward(graph.dag), graph.log_reward)
    assert float(distance(graph, log_pf)) < 1e-11


@given(st.data())
def test_a_graph_enumerated_is_the_graph(data: st.DataObject) -> None:
    dag = data.draw(dags())
    log_reward = data.draw(vectors(len(dag.terminals)))
    graph = enumerate_states(GraphEnvironment(dag, log_reward))
    node = graph.states[:, 0]
    assert torch.equal(node.sort().values, torch.arange(dag.num_nodes))
    assert torch.equal(graph.action.sort().values, torch.arange(dag.num_edges))
    assert torch.equal(node[graph.dag.source], dag.source[graph.action])
    assert torch.equal(node[graph.dag.target], dag.target[graph.action])
    log_flow, _ = oracle.dag_flows(graph.dag, oracle.uniform_backward(graph.dag), graph.log_reward)
    expected, _ = oracle.dag_flows(dag, oracle.uniform_backward(dag), log_reward)
    torch.testing.assert_close(log_flow, expected[node])


@environments
def test_states_are_found_again(environment: Environment) -> None:
    graph = enumerate_states(environment)
    rows = torch.randint(len(graph.states), (300,), generator=torch.Generator().manual_seed(0))
    assert torch.equal(graph.index(graph.states[rows]), rows)
    assert len(graph.index(graph.states[:0])) == 0


def test_wide_states_are_found_again() -> None:
    graph = enumerate_states(SetBuilding(numbers(150), 2))
    assert torch.equal(graph.index(graph.states), torch.arange(1 + 150 + comb(150, 2)))


class Boards:
    """Two boards of 64 squares, of which the last two of each can be occupied, in any order; a board is its bits."""

    num_actions = 4
    num_features = 4
    initial_states = torch.zeros(1, 2, dtype=torch.int64)
    column, bit = torch.tensor([0, 0, 1, 1]), torch.tensor([62, 63, 62, 63])

    def features(self, states: Tensor) -> Tensor:
        return self.backward_mask(states).float()

    def forward_mask(self, states: Tensor) -> Tensor:
        return ~self.backward_mask(states)

    def backward_mask(self, states: Tensor) -> Tensor:
        return (states[:, self.column] >> self.bit) & 1 == 1

    def step(self, states: Tensor, actions: Tensor) -> Tensor:
        square = torch.ones_like(actions) << self.bit[actions]
        return states.scatter(
            1, self.column[actions, None], states.gather(1, self.column[actions, None]) ^ square[:, None]
        )

    step_back = step

    def log_reward(self, states: Tensor) -> Tensor:
        return states.sum(1).double() * 1e-19


def test_states_that_differ_in_bit_63_are_found_again() -> None:
    graph = enumerate_states(Boards())
    assert graph.dag.num_nodes == 16
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(graph.index(graph.states[order]), order)
    with pytest.raises(ValueError, match=r"the state \[0, 1\] \(row 1\)"):
        graph.index(torch.tensor([[0, 0], [0, 1]]))


def test_strange_states_are_named() -> None:
    graph = enumerate_states(SetBuilding(numbers(4), 2))
    with pytest.raises(ValueError, match=r"the state \[1, 1, 1, 0\] \(row 1\) is none that the environment can reach"):
        graph.index(torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0]]))
    with pytest.raises(ValueError, match=r"states must be rows of 4 integers; got \[1, 3\]"):
        graph.index(torch.zeros(1, 3, dtype=torch.int64))


def test_an_environment_beyond_the_limit_is_refused() -> None:
    assert enumerate_states(Hypergrid(2, 8), limit=128).dag.num_nodes == 128
    with pytest.raises(ValueError, match="more than 127 states"):
        enumerate_states(Hypergrid(2, 8), limit=127)
    with pytest.raises(ValueError, match="more than 1,000 states"):
        enumerate_states(Hypergrid(40, 40), limit=1000)


class Walk:
    """States are numbers; the only action leads where ``to`` says, -1 is an end."""

    num_actions = num_features = 1

    def __init__(self, to: list[int], initial: list[int]) -> None:
        self.to = torch.tensor(to)
        self.initial_states = torch.tensor(initial)[:, None]

    def features(self, states: Tensor) -> Tensor:
        return states.float()

    def forward_mask(self, states: Tensor) -> Tensor:
        return self.to[states] >= 0

    def backward_mask(self, states: Tensor) -> Tensor:
        return (self.to == states).any(1, keepdim=True)

    def step(self, states: Tensor, actions: Tensor) -> Tensor:  # noqa: ARG002
        return self.to[states]

    def step_back(self, states: Tensor, actions: Tensor) -> Tensor:  # noqa: ARG002
        return (self.to == states).long().argmax(1, keepdim=True)

    def log_reward(self, states: Tensor) -> Tensor:
        return -1 / (3 - states[:, 0].double())


@pytest.mark.parametrize(
    ("to", "initial", "complaint"),
    [
        ([1, 0], [0], "close a circle"),
        ([1, 2, 1], [0], "close a circle on the way to node 1"),
        ([1, 2, -1], [0, 1], r"the initial state \[1\] can be reached from another state"),
        ([1, -1], [0, 0], "two initial states are alike"),
        ([2, 2, -1], [0, 1], "lies below the roots 0 and 1"),
        ([3, -1, -1, -1], [0], r"log_reward must be finite; it is -inf at the state \[3\]"),
    ],
)
def test_what_breaks_the_protocol_is_named(to: list[int], initial: list[int], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        enumerate_states(Walk(to, initial))


def test_longer_paths_come_first() -> None:
    # Node 3 is found in the first step and lies three steps away.
    environment = GraphEnvironment(Dag.from_adjacency([[3, 1], [2], [3], [4], []]), torch.zeros(1))
    assert enumerate_states(environment).states[:, 0].tolist() == [0, 1, 2, 3, 4]
