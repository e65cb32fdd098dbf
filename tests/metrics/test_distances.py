"""Distances between distributions, against scipy and brute force."""

from itertools import chain, combinations

import numpy as np
import pytest
import torch
from groupings import distributions, each, groupings
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.special import rel_entr
from torch import Tensor

from gflowdial.metrics.distances import jensen_shannon_divergence, kl_divergence, l1_distance, total_variation
from gflowdial.segments import Segments

DISTANCES = (total_variation, l1_distance, kl_divergence, jensen_shannon_divergence)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Tensor, Tensor, Segments]:
    groups = draw(groupings())
    return draw(distributions(groups)), draw(distributions(groups)), groups


def largest_disagreement(log_p: np.ndarray, log_q: np.ndarray) -> float:
    """max over all events A of |p(A) - q(A)|."""
    gap = np.exp(log_p) - np.exp(log_q)
    events = chain.from_iterable(combinations(range(len(gap)), size) for size in range(len(gap) + 1))
    return max(abs(gap[list(event)].sum()) for event in events)


@given(drawn=pairs())
def test_total_variation_is_the_largest_disagreement_on_an_event(drawn: tuple[Tensor, Tensor, Segments]) -> None:
    log_p, log_q, groups = drawn
    found = total_variation(log_p, log_q, groups)
    torch.testing.assert_close(found, each(groups, largest_disagreement, log_p, log_q))
    torch.testing.assert_close(l1_distance(log_p, log_q, groups), 2 * found)


@given(drawn=pairs())
def test_kl_equals_scipy(drawn: tuple[Tensor, Tensor, Segments]) -> None:
    log_p, log_q, groups = drawn
    expected = each(groups, lambda p, q: rel_entr(np.exp(p), np.exp(q)).sum(), log_p, log_q)
    torch.testing.assert_close(kl_divergence(log_p, log_q, groups), expected, rtol=1e-9, atol=1e-9)


@given(drawn=pairs())
def test_jensen_shannon_equals_scipy(drawn: tuple[Tensor, Tensor, Segments]) -> None:
    log_p, log_q, groups = drawn
    expected = each(groups, lambda p, q: jensenshannon(np.exp(p), np.exp(q)) ** 2, log_p, log_q)
    torch.testing.assert_close(
        jensen_shannon_divergence(log_p, log_q, groups), expected.nan_to_num(), rtol=1e-9, atol=1e-9
    )


@given(drawn=pairs())
def test_bounds_between_the_distances(drawn: tuple[Tensor, Tensor, Segments]) -> None:
    log_p, log_q, groups = drawn
    tv = total_variation(log_p, log_q, groups)
    jsd = jensen_shannon_divergence(log_p, log_q, groups)
    slack = 1e-9
    assert (kl_divergence(log_p, log_q, groups) >= 2 * tv.square() - slack).all()  # Pinsker
    assert (jsd <= np.log(2) * tv + slack).all()
    torch.testing.assert_close(jsd, jensen_shannon_divergence(log_q, log_p, groups))


@pytest.mark.parametrize("distance", DISTANCES)
@given(data=st.data())
def test_a_distribution_lies_at_no_distance_from_itself(distance, data) -> None:
    groups = data.draw(groupings())
    log_p = data.draw(distributions(groups))
    torch.testing.assert_close(distance(log_p, log_p, groups), torch.zeros(groups.count, dtype=torch.float64))


@pytest.mark.parametrize(
    ("distance", "expected"),
    [(total_variation, 1.0), (l1_distance, 2.0), (kl_divergence, np.inf), (jensen_shannon_divergence, np.log(2))],
)
def test_distributions_that_share_nothing_are_as_far_apart_as_can_be(distance, expected: float) -> None:
    p, q = torch.tensor([1.0, 0.0]).log(), torch.tensor([0.0, 1.0]).log()
    torch.testing.assert_close(distance(p, q), torch.tensor([expected], dtype=torch.float64))


@pytest.mark.parametrize("distance", DISTANCES)
def test_log_rewards_in_the_place_of_probabilities_are_refused(distance) -> None:
    p, log_reward = torch.tensor([0.5, 0.5]).log(), torch.tensor([1.0, 2.0])
    with pytest.raises(ValueError, match=r"log_q must be log-probabilities; those of group 0 sum to 10\.1"):
        distance(p, log_reward)
    with pytest.raises(ValueError, match="log_p must be log-probabilities; those of group 0 sum to nan"):
        distance(torch.tensor([torch.nan, 0.0]), p)


def test_shapes_and_groups_that_do_not_fit_are_refused() -> None:
    p = torch.tensor([0.5, 0.5]).log()
    # jaxtyping's check of the same shape, a TypeError, comes first where it is installed.
    with pytest.raises((ValueError, TypeError), match="log_q"):
        total_variation(p, torch.zeros(1))
    with pytest.raises(ValueError, match="of each of 2 items"):
        total_variation(p, p, Segments.from_ids(torch.tensor([0]), 1))
    with pytest.raises(ValueError, match="group 1 is empty"):
        total_variation(p, p, Segments.from_ids(torch.tensor([0, 0]), 2))
