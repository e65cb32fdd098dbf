"""The exact flow samples in proportion to reward, on forests and on graphs; all of it against brute force."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gflowdial import Forest, oracle, segments
from gflowdial.dag import Dag
from gflowdial.segments import Segments
from gflowdial.testing import dags, forests, log_rewards, vectors

DIAMOND = Dag.from_adjacency([[1, 2], [3, 3, 4], [4], [], []])
"""Two ends; node 3 is entered twice from node 1."""


def paths(dag: Dag, node: int) -> Iterator[list[int]]:
    """The edges of each path from a node to a terminal."""
    out = torch.nonzero(dag.source == node).squeeze(1).tolist()
    if not out:
        yield []
    for edge in out:
        for rest in paths(dag, int(dag.target[edge])):
            yield [edge, *rest]


def normalised(logits: Tensor, node: Tensor, num_nodes: int) -> Tensor:
    """Log-probabilities over the edges that share a node."""
    return logits - segments.logsumexp(logits, Segments.from_ids(node, num_nodes))[node]


@st.composite
def backward_policies(draw: st.DrawFn, dag: Dag) -> Tensor:
    return normalised(draw(vectors(dag.num_edges)), dag.target, dag.num_nodes)


@given(st.data())
def test_exact_policy_samples_in_proportion_to_reward(data: st.DataObject) -> None:
    forest = data.draw(forests())
    log_reward = data.draw(log_rewards(forest, -300.0, 300.0))
    log_flow, log_pf = oracle.exact_flows(forest, log_reward)
    ends = oracle.terminating_distribution(forest, log_pf)
    for tree in range(forest.num_trees):
        here = forest.leaf_tree == tree
        torch.testing.assert_close(ends[here], torch.log_softmax(log_reward[here], 0))
        torch.testing.assert_close(log_flow[forest.roots[tree]], torch.logsumexp(log_reward[here], 0))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_reward_without_a_number_is_named(bad: float) -> None:
    with pytest.raises(ValueError, match=r"log_reward\[1\] is"):
        oracle.exact_flows(Forest.from_lengths([1, 1]), torch.tensor([0.0, bad]))


@given(st.data())
def test_dag_flows_are_sums_over_paths(data: st.DataObject) -> None:
    dag = data.draw(dags())
    log_pb = data.draw(backward_policies(dag))
    log_reward = data.draw(vectors(len(dag.terminals)))
    log_flow, log_pf = oracle.dag_flows(dag, log_pb, log_reward)
    reward = torch.zeros(dag.num_nodes, dtype=torch.float64).index_copy(0, dag.terminals, log_reward)
    for node in range(dag.num_nodes):
        ends = [(path, int(dag.target[path[-1]]) if path else node) for path in paths(dag, node)]
        by_paths = torch.logsumexp(torch.stack([log_pb[path].sum() + reward[end] for path, end in ends]), 0)
        torch.testing.assert_close(log_flow[node], by_paths)
    # What a policy's step carries is what P_B sends back, edge by edge.
    torch.testing.assert_close(log_flow[dag.source] + log_pf, log_flow[dag.target] + log_pb)
    torch.testing.assert_close(normalised(log_pf, dag.source, dag.num_nodes), log_pf)


@given(st.data())
def test_terminating_distribution_is_a_sum_over_paths(data: st.DataObject) -> None:
    dag = data.draw(dags())
    log_pf = normalised(data.draw(vectors(dag.num_edges)), dag.source, dag.num_nodes)
    by_paths = torch.zeros(dag.num_nodes, dtype=torch.float64)
    for root in dag.roots.tolist():
        for path in paths(dag, root):
            by_paths[int(dag.target[path[-1]]) if path else root] += log_pf[path].sum().exp()
    ends = oracle.dag_terminating_distribution(dag, log_pf)
    torch.testing.assert_close(ends.exp(), by_paths[dag.terminals])


@given(st.data())
def test_exact_policy_of_a_dag_samples_in_proportion_to_reward(data: st.DataObject) -> None:
    dag = data.draw(dags())
    log_reward = data.draw(vectors(len(dag.terminals), -300.0, 300.0))
    log_flow, log_pf = oracle.dag_flows(dag, data.draw(backward_policies(dag)), log_reward)
    ends = oracle.dag_terminating_distribution(dag, log_pf)
    for root, node in enumerate(dag.roots.tolist()):
        here = dag.root_of[dag.terminals] == root
        torch.testing.assert_close(ends[here], torch.log_softmax(log_reward[here], 0))
        torch.testing.assert_close(log_flow[node], torch.logsumexp(log_reward[here], 0))


@given(st.data())
def test_a_forest_is_a_dag(data: st.DataObject) -> None:
    forest = data.draw(forests())
    log_reward = data.draw(log_rewards(forest))
    dag = Dag.from_edges(forest.edge_parent, forest.edge_child, forest.num_nodes)
    log_pb = oracle.uniform_backward(dag)
    assert bool((log_pb == 0).all())
    log_flow, log_pf = oracle.dag_flows(dag, log_pb, log_reward)
    expected_flow, expected_pf = oracle.exact_flows(forest, log_reward)
    torch.testing.assert_close(log_flow, expected_flow)
    torch.testing.assert_close(log_pf, expected_pf)
    ends = oracle.dag_terminating_distribution(dag, log_pf)
    torch.testing.assert_close(ends, oracle.terminating_distribution(forest, log_pf))


def test_uniform_backward_by_hand() -> None:
    in_order = torch.tensor([1, 1, 1 / 2, 1 / 2, 1 / 2, 1 / 2], dtype=torch.float64)
    torch.testing.assert_close(oracle.uniform_backward(DIAMOND).exp(), in_order)


def test_dag_quantities_are_differentiable() -> None:
    def ends(logits: Tensor, log_reward: Tensor) -> Tensor:
        log_pb = normalised(logits, DIAMOND.target, DIAMOND.num_nodes)
        log_flow, log_pf = oracle.dag_flows(DIAMOND, log_pb, log_reward)
        mixed = normalised(log_pf + logits, DIAMOND.source, DIAMOND.num_nodes)
        return torch.cat([log_flow, oracle.dag_terminating_distribution(DIAMOND, mixed)])

    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, dtype=torch.float64, generator=generator, requires_grad=True)
    log_reward = torch.randn(2, dtype=torch.float64, generator=generator, requires_grad=True)
    assert torch.autograd.gradcheck(ends, (logits, log_reward))


def test_edges_that_are_never_taken_carry_nothing() -> None:
    # P_B never comes from node 2, so no flow leads there, and none of the numbers is NaN.
    log_pb = torch.tensor([1, 1, 1 / 2, 1 / 2, 1, 0], dtype=torch.float64).log().requires_grad_()
    log_flow, log_pf = oracle.dag_flows(DIAMOND, log_pb, torch.tensor([0.0, 1.0]))
    assert log_flow[2] == log_pf[1] == log_pf[5] == -torch.inf
    ends = oracle.dag_terminating_distribution(DIAMOND, log_pf)
    torch.testing.assert_close(ends, torch.log_softmax(torch.tensor([0.0, 1.0], dtype=torch.float64), 0))
    (log_flow[0] + ends.sum()).backward()
    assert log_pb.grad is not None
    assert bool(log_pb.grad.isfinite().all())


def test_dag_flows_are_computed_in_float64() -> None:
    log_flow, log_pf = oracle.dag_flows(DIAMOND, oracle.uniform_backward(DIAMOND).float(), torch.tensor([0.0, 1.0]))
    assert log_flow.dtype == log_pf.dtype == torch.float64
    assert oracle.dag_terminating_distribution(DIAMOND, log_pf.float()).dtype == torch.float64


def test_what_does_not_fit_a_dag_is_named() -> None:
    log_pb, log_reward = oracle.uniform_backward(DIAMOND), torch.zeros(2)
    with pytest.raises(ValueError, match=r"log_pb must have one entry per edge, shape \[6\]; got \[5\]"):
        oracle.dag_flows(DIAMOND, log_pb[:5], log_reward)
    with pytest.raises(ValueError, match=r"log_reward must have one entry per terminal, shape \[2\]"):
        oracle.dag_flows(DIAMOND, log_pb, torch.zeros(3))
    with pytest.raises(ValueError, match=r"log_reward\[1\] is inf"):
        oracle.dag_flows(DIAMOND, log_pb, torch.tensor([0.0, torch.inf]))
    with pytest.raises(ValueError, match=r"exp\(log_pb\) sums to 2 over those into node 3"):
        oracle.dag_flows(DIAMOND, torch.zeros(6), log_reward)
    with pytest.raises(ValueError, match=r"exp\(log_pf\) sums to 2 over those out of node 0"):
        oracle.dag_terminating_distribution(DIAMOND, torch.zeros(6))
    with pytest.raises(ValueError, match="log_pf must have one entry per edge"):
        oracle.dag_terminating_distribution(DIAMOND, torch.zeros(5))
    with pytest.raises(ValueError, match="node 2 lies below the roots 0 and 1"):
        oracle.dag_terminating_distribution(Dag.from_adjacency([[2], [2], []]), torch.zeros(2))


@given(st.data())
def test_expected_flows_by_recursion(data: st.DataObject) -> None:
    forest = data.draw(forests(max_nodes=20))
    log_reward = data.draw(log_rewards(forest))
    chance = torch.tensor(data.draw(st.lists(st.booleans(), min_size=forest.num_nodes, max_size=forest.num_nodes)))
    log_chance = normalised(data.draw(vectors(forest.num_edges)), forest.edge_parent, forest.num_nodes)
    # What is said of the policy's own edges is not read.
    given_chance = torch.where(chance[forest.edge_parent], log_chance, torch.nan)
    log_flow, log_pf = oracle.expected_flows(forest, log_reward, chance=chance, log_chance=given_chance)
    edges_below = [torch.nonzero(forest.edge_parent == node).squeeze(1).tolist() for node in range(forest.num_nodes)]
    reward = dict(zip(forest.leaves.tolist(), log_reward.exp().tolist(), strict=True))

    def flow(node: int) -> float:
        if node in reward:
            return reward[node]
        weights = {edge: float(log_chance[edge].exp()) if chance[node] else 1.0 for edge in edges_below[node]}
        return sum(weight * flow(int(forest.edge_child[edge])) for edge, weight in weights.items())

    flows = torch.tensor([flow(node) for node in range(forest.num_nodes)], dtype=torch.float64)
    torch.testing.assert_close(log_flow.exp(), flows)
    shares = flows[forest.edge_child] / flows[forest.edge_parent]
    torch.testing.assert_close(log_pf.exp(), torch.where(chance[forest.edge_parent], log_chance.exp(), shares))


@given(st.data())
def test_without_chance_expected_flows_are_the_exact_ones(data: st.DataObject) -> None:
    forest = data.draw(forests())
    log_reward = data.draw(log_rewards(forest, -300.0, 300.0))
    nowhere = torch.zeros(forest.num_nodes, dtype=torch.bool)
    nothing = torch.zeros(forest.num_edges)
    log_flow, log_pf = oracle.expected_flows(forest, log_reward, chance=nowhere, log_chance=nothing)
    expected_flow, expected_pf = oracle.exact_flows(forest, log_reward)
    torch.testing.assert_close(log_flow, expected_flow)
    torch.testing.assert_close(log_pf, expected_pf)


def test_what_does_not_fit_chance_is_named() -> None:
    forest = Forest.from_parents(torch.tensor([-1, 0, 0]))
    reward, here, half = torch.zeros(2), torch.tensor([True, False, False]), torch.full((2,), 0.5).log()
    with pytest.raises(ValueError, match=r"chance must have one entry per node, shape \[3\]"):
        oracle.expected_flows(forest, reward, chance=here[:2], log_chance=half)
    with pytest.raises(ValueError, match="log_chance must have one entry per edge"):
        oracle.expected_flows(forest, reward, chance=here, log_chance=half[:1])
    with pytest.raises(ValueError, match=r"log_chance\[1\] is -inf"):
        oracle.expected_flows(forest, reward, chance=here, log_chance=torch.tensor([0.0, -torch.inf]))
    with pytest.raises(ValueError, match=r"exp\(log_chance\) sums to 2 over those out of node 0"):
        oracle.expected_flows(forest, reward, chance=here, log_chance=torch.zeros(2))
    with pytest.raises(ValueError, match=r"log_reward\[0\] is nan"):
        oracle.expected_flows(forest, torch.tensor([torch.nan, 0.0]), chance=here, log_chance=half)


@pytest.mark.parametrize(
    "forest", [Forest.from_parents(torch.tensor([-1, 0, 0])), Forest.from_lengths([2, 2])], ids=str
)
def test_one_value_a_node_is_refused_where_edges_are_meant(forest: Forest) -> None:
    for length in (forest.num_nodes, 1):
        with pytest.raises(ValueError, match=rf"log_pf must have one entry per edge, shape \[{forest.num_edges}\]"):
            oracle.terminating_distribution(forest, torch.zeros(length))
        with pytest.raises(
            ValueError, match=rf"log_reward must have one entry per leaf, shape \[{forest.num_leaves}\]"
        ):
            oracle.exact_flows(forest, torch.zeros(length))


def test_nan_reaches_the_ends_below_it() -> None:
    forest = Forest.from_parents(torch.tensor([-1, 0, 0, 1, 1]))
    found = oracle.terminating_distribution(forest, torch.tensor([torch.nan, -1.0, -1.0, -2.0]))
    assert found.isnan().tolist() == [False, True, True]
    assert forest.subtree_logsumexp(torch.tensor([0, 0, 0, torch.nan, 0])).isnan().tolist() == [1, 1, 0, 1, 0]
