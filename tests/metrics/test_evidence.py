"""The bounds of log Z: exact at balance, on the right side of it in expectation, and what their gap is."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gflowdial import Forest, oracle, segments
from gflowdial.metrics.distances import kl_divergence
from gflowdial.metrics.evidence import elbo, eubo, log_weights
from gflowdial.segments import Segments
from gflowdial.testing import Flow, balanced_flows, chains, log_rewards, trees, vectors


@given(flow=balanced_flows(chains()))
def test_every_log_weight_is_log_z_at_balance(flow: Flow) -> None:
    args = (flow.log_pf, flow.log_pb, flow.log_reward, flow.forest)
    torch.testing.assert_close(log_weights(*args), flow.log_z)
    for bound in (elbo, eubo):
        torch.testing.assert_close(bound(*args), flow.log_z.mean()[None])
        own = Segments.from_ids(torch.arange(flow.forest.num_trees), flow.forest.num_trees)
        torch.testing.assert_close(bound(*args, own), flow.log_z)


def paths(forest: Forest) -> tuple[Forest, Tensor]:
    """Every root-to-leaf path of a tree as a chain, and the tree's edge (by its child) that each of its edges is."""
    rows = []
    for leaf in forest.leaves.tolist():
        row, node = [], leaf
        while forest.parent[node] >= 0:
            row.append(node)
            node = int(forest.parent[node])
        rows.append(row[::-1])
    return Forest.from_lengths([len(row) for row in rows]), torch.tensor(
        [n for row in rows for n in row], dtype=torch.int64
    )


@given(data=st.data())
def test_the_bounds_miss_log_z_by_the_two_divergences(data: st.DataObject) -> None:
    """In expectation over all paths of a tree, where the distribution over paths is that over leaves."""
    tree = data.draw(trees(max_nodes=12))
    log_reward = data.draw(log_rewards(tree))
    logits = data.draw(vectors(tree.num_edges))
    siblings = Segments.from_ids(tree.edge_parent, tree.num_nodes)
    log_pf = logits - segments.logsumexp(logits, siblings)[tree.edge_parent]
    forest, child = paths(tree)
    edge_of = torch.full((tree.num_nodes,), -1).index_copy(0, tree.edge_child, torch.arange(tree.num_edges))
    weights = log_weights(log_pf[edge_of[child]], None, log_reward, forest)
    log_p = oracle.terminating_distribution(tree, log_pf)
    log_z = torch.logsumexp(log_reward, 0)
    target = log_reward - log_z
    lower, upper = (log_p.exp() * weights).sum(), (target.exp() * weights).sum()
    torch.testing.assert_close(log_z - lower, kl_divergence(log_p, target)[0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(upper - log_z, kl_divergence(target, log_p)[0], rtol=1e-9, atol=1e-9)
    assert lower <= log_z + 1e-9
    assert upper >= log_z - 1e-9


def test_by_hand() -> None:
    """Two conditions; trajectories of two, one and no actions."""
    forest = Forest.from_lengths([2, 1, 0])
    log_pf, log_pb = torch.tensor([-1.0, -2.0, -4.0]), torch.tensor([-0.5, 0.0, -1.0])
    log_reward = torch.tensor([1.0, 2.0, 7.0])
    torch.testing.assert_close(log_weights(log_pf, log_pb, log_reward, forest), torch.tensor([3.5, 5.0, 7.0]).double())
    conditions = Segments.from_ids(torch.tensor([1, 0, 1]), 2)
    torch.testing.assert_close(elbo(log_pf, log_pb, log_reward, forest, conditions), torch.tensor([5.0, 5.25]).double())
    torch.testing.assert_close(eubo(log_pf, None, log_reward, forest), torch.tensor([17.0 / 3]).double())


def test_trajectories_may_interleave() -> None:
    """Trees 0 and 1 end in the leaves 3 and 2: leaves ascend, trajectories keep the order of their roots."""
    forest = Forest.from_parents(torch.tensor([-1, -1, 1, 0]))
    weights = log_weights(torch.tensor([-1.0, -2.0]), None, torch.tensor([10.0, 20.0]), forest)
    torch.testing.assert_close(weights, torch.tensor([22.0, 11.0]).double())


def test_the_upper_bound_sees_what_the_policy_never_does() -> None:
    found = eubo(torch.tensor([-torch.inf]), None, torch.tensor([0.0]), Forest.from_lengths([1]))
    assert found.tolist() == [torch.inf]


def test_a_search_tree_is_no_sample() -> None:
    tree = Forest.from_parents(torch.tensor([-1, 0, 0]))
    with pytest.raises(ValueError, match="one leaf a tree"):
        elbo(torch.zeros(2), None, torch.zeros(2), tree)
    with pytest.raises(ValueError, match="log_pf must have one entry per edge"):
        elbo(torch.zeros(3), None, torch.zeros(1), Forest.from_lengths([1]))
