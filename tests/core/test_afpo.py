"""AFPO's readings against listed pairs, its extra terms against their formulas, and what `anchored` learns."""

import brute_force
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from benchmarks import afpo_study
from gflowdial import Forest, losses
from gflowdial.segments import Segments
from gflowdial.testing import forests, vectors


def listed(log_flow: Tensor, log_pf: Tensor, forest: Forest, decay: float) -> Tensor:
    """The mean over trees of the weighted mean over pairs of edges."""
    m, n, _ = brute_force.pairs(forest, 1.0, "unique")
    distance = forest.depth[n] - forest.depth[m]
    along = brute_force.root_sums(forest, log_pf)
    residual = log_flow[m] + along[n] - along[m] - log_flow[n]
    weight = torch.where(forest.parent[m] >= 0, (decay**distance).double(), 0.0)
    trees = forest.tree[n]
    sums = [x.new_zeros(forest.num_trees).index_add(0, trees, x) for x in (weight * residual.square(), weight)]
    return (sums[0] / torch.where(sums[1] > 0, sums[1], 1.0)).mean()


@given(data=st.data())
def test_the_edge_flow_equals_every_pair_listed(data: st.DataObject) -> None:
    forest = data.draw(forests())
    decay = data.draw(st.sampled_from([0.5, 1.0]))
    log_flow = data.draw(vectors(forest.num_nodes)).requires_grad_()
    log_pf = data.draw(vectors(forest.num_edges)).requires_grad_()
    loss = losses.afpo(log_flow, log_pf, None, None, forest, variant="paper", decay=decay)
    expected = listed(log_flow, log_pf, forest, decay)
    torch.testing.assert_close(loss, expected)
    inputs = (log_flow, log_pf)
    found, exact = (torch.autograd.grad(x, inputs, allow_unused=True, materialize_grads=True) for x in (loss, expected))
    torch.testing.assert_close(found, exact)


@given(data=st.data())
def test_state_flow_is_subtb_with_free_leaves(data: st.DataObject) -> None:
    forest = data.draw(forests())
    log_flow, log_pf = data.draw(vectors(forest.num_nodes)), data.draw(vectors(forest.num_edges))
    loss = losses.afpo(log_flow, log_pf, None, None, forest, variant="paper", flow="state")
    torch.testing.assert_close(loss, brute_force.subtb(log_flow, log_pf, forest, 1.0, "unique"))


def test_kl_is_exact_over_all_actions() -> None:
    generator = torch.Generator().manual_seed(0)
    policy, reference = torch.log_softmax(torch.randn(2, 5, 4, generator=generator), -1)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=policy), torch.distributions.Categorical(logits=reference)
    )
    torch.testing.assert_close(losses.reference_kl(policy, reference), 0.1 * expected.mean())
    by_tree = torch.stack([expected[:2].mean(), expected[2:].mean()])
    tree = Segments.from_ids(torch.tensor([0, 0, 1, 1, 1]), 2)
    torch.testing.assert_close(losses.reference_kl(policy, reference, tree), 0.1 * by_tree.mean())
    assert losses.reference_kl(policy, policy) == 0


def test_masked_actions_add_nothing_to_the_kl() -> None:
    logits = torch.tensor([[0.3, -0.4, -torch.inf]], requires_grad=True)
    policy = torch.log_softmax(logits, 1)
    reference = torch.log_softmax(torch.tensor([[0.0, 0.0, -torch.inf]]), 1)
    loss = losses.reference_kl(policy, reference, weight=1.0)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_hinge_ranks_siblings_and_leaves_equals_alone() -> None:
    # Node 0 has three children, node 1 one, which no sibling can outrank.
    forest = Forest.from_parents(torch.tensor([-1, 0, 0, 0, 1]))
    search = torch.tensor([0.9, 0.5, 0.5, 0.1])
    right = torch.tensor([3.0, 1.0, 2.0, -9.0])
    assert losses.ranking_hinge(right, search, forest, margin=0.5) == 0
    wrong = torch.tensor([1.0, 3.0, 1.0, 0.0])
    # Pairs (0, 1) and (0, 2): margin - (1 - 3) and margin - 0.
    torch.testing.assert_close(losses.ranking_hinge(wrong, search, forest, margin=0.5), torch.tensor(1.5))


def test_anchored_learns_the_exact_policy() -> None:
    rng = afpo_study.np.random.default_rng(3)
    tree = afpo_study.random_tree(rng, 40, 4, "sparse")
    leaves = int((~afpo_study.np.isin(afpo_study.np.arange(40), tree[0])).sum())
    problem = afpo_study.build([tree], [rng.uniform(0.2, 1.0, leaves)], power=4.0, repeats=2)
    log_pf = afpo_study.train(problem, afpo_study.OBJECTIVES["anchored"], actions=4, seed=0, steps=800)
    result = afpo_study.measure(problem, log_pf)
    assert result["distance"].max() < 0.01
    assert result["between seeds"].max() < 0.01


def test_bad_options_are_named() -> None:
    forest = Forest.from_lengths([1])
    with pytest.raises(ValueError, match="log_reward"):
        losses.afpo(torch.zeros(2), torch.zeros(1), None, None, forest)
    with pytest.raises(Exception, match="variant"):
        losses.afpo(torch.zeros(2), torch.zeros(1), None, None, forest, variant="other")  # type: ignore[arg-type]
