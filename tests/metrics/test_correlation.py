"""Correlations within groups, against scipy one group at a time."""

import warnings

import numpy as np
import pytest
import torch
from groupings import each, groupings
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from gflowdial.metrics.correlation import pearson, spearman
from gflowdial.segments import Segments
from gflowdial.testing import vectors


@st.composite
def measured(draw: st.DrawFn) -> tuple[Tensor, Tensor, Segments]:
    """Numbers on a coarse grid, so that ties are common and no spread is lost to rounding."""
    groups = draw(groupings(least=2, most=8))
    x, y = ((4 * draw(vectors(len(groups.ids), -2.0, 2.0))).round() / 4 for _ in range(2))
    return x, y, groups


def with_scipy(correlate):
    def plain(x: np.ndarray, y: np.ndarray) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", stats.ConstantInputWarning)
            return correlate(x, y).statistic

    return plain


@given(drawn=measured())
def test_pearson_equals_scipy(drawn: tuple[Tensor, Tensor, Segments]) -> None:
    x, y, groups = drawn
    expected = each(groups, with_scipy(stats.pearsonr), x, y)
    torch.testing.assert_close(pearson(x, y, groups), expected, equal_nan=True, rtol=1e-9, atol=1e-9)


@given(drawn=measured())
def test_spearman_equals_scipy_with_ties(drawn: tuple[Tensor, Tensor, Segments]) -> None:
    x, y, groups = drawn
    expected = each(groups, with_scipy(stats.spearmanr), x, y)
    torch.testing.assert_close(spearman(x, y, groups), expected, equal_nan=True, rtol=1e-9, atol=1e-9)


@given(drawn=measured(), scale=st.floats(0.1, 10.0), shift=st.floats(-100.0, 100.0))
def test_log_z_does_not_matter_to_either(drawn: tuple[Tensor, Tensor, Segments], scale: float, shift: float) -> None:
    x, y, groups = drawn
    for correlation in (pearson, spearman):
        moved = correlation(scale * x + shift, y, groups)
        torch.testing.assert_close(moved, correlation(x, y, groups), equal_nan=True, rtol=1e-6, atol=1e-6)


def test_a_perfect_sampler_has_correlation_one_in_each_condition_but_not_across() -> None:
    log_reward = torch.tensor([0.0, 1.0, 10.0, 12.0])
    groups = Segments.from_offsets(torch.tensor([0, 2, 4]))
    log_p = torch.cat([log_reward[:2].log_softmax(0), log_reward[2:].log_softmax(0)])
    torch.testing.assert_close(pearson(log_p, log_reward, groups), torch.ones(2, dtype=torch.float64))
    assert pearson(log_p, log_reward) < 0.5
    assert spearman(log_p, log_reward) < 0.9


def test_a_constant_side_has_no_correlation() -> None:
    """Also where the mean of equal numbers misses them by a rounding error, as that of six times 0.1 does."""
    for size in range(2, 20):
        constant, rising = torch.full((size,), 0.1, dtype=torch.float64), torch.arange(float(size)).double()
        for correlation in (pearson, spearman):
            assert correlation(constant, rising).isnan().all()
            assert correlation(rising, constant).isnan().all()


def test_what_is_never_reached_ranks_last_but_has_no_line() -> None:
    log_p, log_reward = torch.tensor([-torch.inf, -1.0, -0.5]), torch.tensor([0.0, 3.0, 4.0])
    assert float(spearman(log_p, log_reward)) == pytest.approx(1)
    with pytest.raises(ValueError, match=r"log_p\[0\] is -inf"):
        pearson(log_p, log_reward)


def test_nan_is_named() -> None:
    for correlation in (pearson, spearman):
        with pytest.raises(ValueError, match=r"log_reward\[1\] is (nan|NaN)"):
            correlation(torch.zeros(2), torch.tensor([0.0, torch.nan]))
