"""Certificates: never below the exact total variation, and as tight as they are said to be."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gflowdial import Forest, oracle, segments
from gflowdial.metrics import (
    Certificate,
    StoppingRule,
    certificate,
    eubo,
    kl_divergence,
    sampled_certificate,
    total_variation,
)
from gflowdial.segments import Segments
from gflowdial.testing import Flow
from gflowdial.testing.certificate_laws import policies

TWO_LEAVES = Forest.from_parents(torch.tensor([-1, 0, 0]))


def certified(policy: Flow, log_flow: Tensor | None = None) -> Certificate:
    return certificate(policy.log_pf, policy.log_reward, policy.forest, log_flow=log_flow)


def leaf_distributions(policy: Flow) -> tuple[Tensor, Tensor, Segments]:
    trees = Segments.from_ids(policy.forest.leaf_tree, policy.forest.num_trees)
    log_p = oracle.terminating_distribution(policy.forest, policy.log_pf)
    return log_p, policy.log_reward - policy.log_z[policy.forest.leaf_tree], trees


@given(policy=policies())
def test_no_policy_violates_it_and_the_average_case_is_the_sharper(policy: Flow) -> None:
    found, distance = certified(policy), total_variation(*leaf_distributions(policy))
    assert (found.average_case >= distance - 1e-12).all()
    assert (found.worst_case >= found.average_case - 1e-9).all()
    assert (found.bound <= 1).all()
    assert (found.outside.abs() < 1e-12).all()


@given(policy=policies())
def test_the_divergences_are_those_of_the_distances(policy: Flow) -> None:
    found, (log_p, log_q, trees) = certified(policy), leaf_distributions(policy)
    torch.testing.assert_close(found.kl_policy, kl_divergence(log_p, log_q, trees), atol=1e-12, rtol=1e-9)
    torch.testing.assert_close(found.kl_target, kl_divergence(log_q, log_p, trees), atol=1e-12, rtol=1e-9)


@given(policy=policies(), learned=st.booleans(), seed=st.integers(0, 1000))
def test_the_edges_of_the_two_extreme_paths_spend_the_range(policy: Flow, learned: bool, seed: int) -> None:
    forest = policy.forest
    flow = torch.randn(forest.num_nodes, generator=torch.Generator().manual_seed(seed)).double() if learned else None
    found = certified(policy, flow)
    spent = segments.sum(found.spending, Segments.from_ids(forest.edge_tree, forest.num_trees))
    torch.testing.assert_close(spent, found.spread, atol=1e-9, rtol=0)
    log_p, log_q, _ = leaf_distributions(policy)
    zeta = log_q - log_p
    torch.testing.assert_close(zeta[found.highest] - zeta[found.lowest], found.spread, atol=1e-9, rtol=0)
    for tree in range(forest.num_trees):
        lowest, highest = torch.aminmax(zeta[forest.leaf_tree == tree])
        assert float(found.spread[tree]) == pytest.approx(float(highest - lowest), abs=1e-9)


@given(policy=policies(), seed=st.integers(0, 1000))
def test_a_state_whose_probabilities_are_right_spends_nothing(policy: Flow, seed: int) -> None:
    forest = policy.forest
    right = torch.rand(forest.num_nodes, generator=torch.Generator().manual_seed(seed)) < 0.5
    exact = oracle.exact_flows(forest, policy.log_reward)[1]
    log_pf = torch.where(right[forest.edge_parent], exact, policy.log_pf)
    found = certificate(log_pf, policy.log_reward, forest)
    assert (found.spending[right[forest.edge_parent]].abs() < 1e-9).all()


@pytest.mark.parametrize("spread", [0.1, 1.0, 4.0])
def test_two_leaves_attain_both_bounds(spread: float) -> None:
    log_p = torch.log_softmax(torch.tensor([-spread / 4, spread / 4]).double(), 0)
    found = certificate(log_p, log_p.flip(0), TWO_LEAVES)
    distance = float(total_variation(log_p, log_p.flip(0)))
    assert float(found.spread) == pytest.approx(spread)
    assert float(found.worst_case) == pytest.approx(distance) == pytest.approx(math.tanh(spread / 4))
    assert float(found.average_case) == pytest.approx(distance)
    assert (int(found.highest), int(found.lowest)) == (0, 1)


def test_an_excluded_leaf_costs_its_share_of_the_target_and_no_more() -> None:
    log_p = torch.tensor([0.0, -torch.inf]).double()
    found = certificate(log_p, torch.tensor([0.0, -5.0]).double(), TWO_LEAVES)
    share = 1 / (1 + math.exp(5))
    assert float(found.spread) == math.inf
    assert float(found.worst_case) == 1
    assert float(found.kl_target) == math.inf
    assert share <= float(found.bound) == pytest.approx(math.sqrt(-math.log1p(-share) / 2))
    # The other edge's residual is log(1 - share), on the path to the lowest ζ.
    assert found.spending.tolist() == pytest.approx([-math.log1p(-share), math.inf])


def test_a_policy_that_leaves_the_tree_is_judged_on_what_stays() -> None:
    log_p, log_reward = torch.tensor([0.6, 0.3]).double().log(), torch.tensor([2.0, 1.0]).double().log()
    found = certificate(log_p, log_reward, TWO_LEAVES)
    assert float(found.outside) == pytest.approx(0.1)
    assert float(found.bound) < 1e-7


def test_what_is_no_policy_is_refused() -> None:
    log_reward = torch.zeros(2).double()
    with pytest.raises(ValueError, match="tree 0 sum to 2: give the log-probabilities"):
        certificate(torch.zeros(2).double(), log_reward, TWO_LEAVES)
    with pytest.raises(ValueError, match="tree 0 sum to 0"):
        certificate(torch.full((2,), -torch.inf).double(), log_reward, TWO_LEAVES)
    with pytest.raises(ValueError, match=r"log_reward must be finite; log_reward\[1\]"):
        certificate(torch.full((2,), 0.5).double().log(), torch.tensor([0.0, -torch.inf]).double(), TWO_LEAVES)


def population(seed: int, outcomes: int, noise: float) -> tuple[Tensor, Tensor]:
    """log P_F and log R of the outcomes of one policy; P_F is unlike R by ``noise`` nats each."""
    generator = torch.Generator().manual_seed(seed)
    log_reward = torch.randn(outcomes, generator=generator).double()
    log_p = log_reward + noise * torch.randn(outcomes, generator=generator).double()
    return torch.log_softmax(log_p, 0), log_reward


@pytest.mark.parametrize(("outcomes", "noise"), [(2, 0.5), (5, 1.0), (300, 0.05), (300, 1.0), (2000, 2.0)])
@pytest.mark.parametrize("draws", [2, 20, 500])
@pytest.mark.parametrize("log_z_known", [False, True])
def test_sampled_bounds_fail_no_more_often_than_they_say(
    outcomes: int, noise: float, draws: int, log_z_known: bool
) -> None:
    log_p, log_reward = population(outcomes, outcomes, noise)
    zeta, log_z = log_reward - log_p, torch.logsumexp(log_reward, 0)
    runs, confidence = 1000, 0.8
    generator = torch.Generator().manual_seed(draws)
    drawn = torch.multinomial(log_p.exp(), runs * draws, replacement=True, generator=generator)
    each = Segments.from_ids(torch.arange(runs).repeat_interleave(draws), runs)
    known = log_z.expand(runs) if log_z_known else None
    found = sampled_certificate(zeta[drawn], each, confidence=confidence, log_z=known)
    assert found.complete is log_z_known
    samples = zeta[drawn].view(runs, draws)
    # Without log Z the target keeps the outcomes that are no more under-sampled than the worst one observed.
    kept = torch.ones(runs, outcomes, dtype=torch.bool) if log_z_known else zeta <= samples.amax(1, keepdim=True)
    target = torch.where(kept, log_reward, -torch.inf).log_softmax(1)
    exact = (target.exp() - log_p.exp()).abs().sum(1) / 2
    # Three standard errors above 0.2.
    assert float((found.bound < exact - 1e-12).double().mean()) <= 0.2 + 3 * math.sqrt(0.16 / runs)
    unseen = (zeta < samples.amin(1, keepdim=True)) | (zeta > samples.amax(1, keepdim=True))
    beyond = (unseen * log_p.exp()).sum(1) > found.outside
    assert float(beyond.double().mean()) <= 0.2 + 3 * math.sqrt(0.16 / runs)


def test_samples_of_a_good_policy_bring_the_bound_down() -> None:
    log_p, log_reward = population(0, 300, 0.05)
    generator = torch.Generator().manual_seed(0)
    bounds = []
    for draws in (30, 300, 3000):
        drawn = torch.multinomial(log_p.exp(), draws, replacement=True, generator=generator)
        bounds.append(float(sampled_certificate((log_reward - log_p)[drawn]).bound))
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[-1] < 0.08


def test_a_mode_that_the_policy_never_visits_is_seen_through_log_z_alone() -> None:
    log_p = torch.tensor([1.0, 1e-12]).double().log()
    log_reward = torch.tensor([0.0, 3.0]).double()
    weights = (log_reward - log_p)[:1].expand(1000)
    assert float(sampled_certificate(weights).bound) < 0.01
    whole = sampled_certificate(weights, log_z=torch.logsumexp(log_reward, 0)[None])
    assert float(whole.bound) >= float(total_variation(log_p.log_softmax(0), log_reward.log_softmax(0))) - 1e-9


def test_the_gap_of_the_evidence_bounds_is_the_divergence_that_is_certified() -> None:
    forest = Forest.from_lengths([1, 1])
    log_p, log_reward = torch.tensor([0.25, 0.75]).double().log(), torch.tensor([0.5, 0.5]).double().log()
    found = certificate(log_p, log_reward, TWO_LEAVES)
    torch.testing.assert_close(eubo(log_p, None, log_reward, forest), found.kl_target)


@pytest.mark.parametrize("confidence", [0.0, 1.0])
def test_impossible_confidences_are_refused(confidence: float) -> None:
    with pytest.raises(ValueError, match="confidence is"):
        sampled_certificate(torch.zeros(2).double(), confidence=confidence)
    with pytest.raises(ValueError, match="confidence is"):
        StoppingRule(0.1, confidence)


def test_a_stopping_rule_stops_at_its_bar_and_its_errors_add_up() -> None:
    rule = StoppingRule(bar=0.1, confidence=0.9)
    errors = []
    for _ in range(2000):
        errors.append(1 - rule.next_confidence)
        assert not rule.stops(torch.tensor([0.05, 0.11]))
    assert 0.099 < sum(errors) < 0.1
    assert rule.stops(torch.tensor([0.05, 0.1], dtype=torch.float64))
    with pytest.raises(ValueError, match=r"bar is 0.0: give"):
        StoppingRule(0.0)


def test_a_bound_of_log_z_without_a_number_is_named() -> None:
    with pytest.raises(ValueError, match=r"log_z\[0\] is nan"):
        sampled_certificate(torch.zeros(3), log_z=torch.tensor([torch.nan]))
