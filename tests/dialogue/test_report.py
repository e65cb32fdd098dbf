"""Intervals by hand, and tables that show every row."""

import json
from itertools import product
from math import comb, prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gflowdial.dialogue.report import Estimate, as_data, as_table

SHARES = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.5, 1.0]))


def test_the_interval_over_seeds_is_students() -> None:
    estimate = Estimate.of([1.0, 2.0, 3.0])
    # t(0.975, 2 degrees) = 4.3027, standard deviation 1.
    half = 4.302653 / 3**0.5
    assert (estimate.mean, estimate.low, estimate.high) == pytest.approx((2.0, 2.0 - half, 2.0 + half), rel=1e-6)
    assert estimate.samples == (1.0, 2.0, 3.0)
    assert str(estimate) == "2.000 ±2.484"


def test_one_sample_has_no_interval() -> None:
    estimate = Estimate.of([0.25])
    assert estimate == Estimate(0.25, None, None, (0.25,))
    assert str(estimate) == "0.250"


def test_rows_become_data_and_text() -> None:
    rows = {
        "lm_prior": {"expected_return": Estimate.of([1.0, 2.0]), "total_variation": None},
        "uniform": {"expected_return": Estimate.of([0.5]), "total_variation": Estimate.of([0.1])},
    }
    data = json.loads(json.dumps(as_data(rows)))
    assert data["lm_prior"]["total_variation"] is None
    assert data["lm_prior"]["expected_return"]["samples"] == [1.0, 2.0]
    assert data["uniform"]["total_variation"] == {"mean": 0.1, "low": None, "high": None, "samples": [0.1]}
    lines = as_table(rows, "A title", "A caption").splitlines()
    assert "A title" in lines[0]
    assert "A caption" in lines[-1]
    (shown,) = [line for line in lines if "lm prior" in line]
    assert "1.500 ±" in shown
    assert "–" in shown


@given(st.lists(SHARES, min_size=1, max_size=30))
def test_the_interval_of_shares_contains_their_mean_and_stays_within_0_and_1(shares: list[float]) -> None:
    estimate = Estimate.of_shares(shares)
    assert estimate.low is not None
    assert estimate.high is not None
    assert 0 <= estimate.low <= estimate.mean <= estimate.high <= 1
    assert estimate.mean == pytest.approx(np.mean(shares))
    assert estimate.high - estimate.low > 0
    assert estimate.samples == tuple(shares)


@given(st.lists(SHARES, min_size=1, max_size=30))
def test_the_interval_of_the_other_shares_is_its_mirror_image(shares: list[float]) -> None:
    estimate, mirror = Estimate.of_shares(shares), Estimate.of_shares([1 - share for share in shares])
    assert (mirror.low, mirror.mean, mirror.high) == pytest.approx(
        (1 - estimate.high, 1 - estimate.mean, 1 - estimate.low), abs=1e-12
    )


def test_the_interval_of_shares_by_hand() -> None:
    # Wilson 1927, with z = 1.959964: 8 of 10.
    estimate = Estimate.of_shares([1.0] * 8 + [0.0] * 2)
    assert (estimate.mean, estimate.low, estimate.high) == pytest.approx((0.8, 0.490162, 0.943318), abs=1e-6)
    assert str(estimate) == "0.800 (0.490–0.943)"
    assert str(Estimate.of_shares([0.0, 1.0])) == "0.500 ±0.405"


@pytest.mark.parametrize("trials", [1, 2, 3, 5, 8, 12])
def test_the_interval_of_shares_covers_the_truth(trials: int) -> None:
    truth = np.linspace(0.0005, 0.9995, 1000)
    covered = np.zeros_like(truth)
    for k in range(trials + 1):
        estimate = Estimate.of_shares([1.0] * k + [0.0] * (trials - k))
        chance = comb(trials, k) * truth**k * (1 - truth) ** (trials - k)
        covered += chance * ((estimate.low <= truth) & (truth <= estimate.high))
    # The mean over truths is above 95%; near 0 and 1 the interval of a few trials is known to cover less.
    assert covered.mean() > 0.95
    assert covered.min() > 0.79
    assert trials == 1 or covered[(truth > 0.3) & (truth < 0.7)].min() > 0.86


@pytest.mark.parametrize("scenes", [2, 3, 5])
@pytest.mark.parametrize("chances", [(0.25, 0.5, 0.25), (0.1, 0.8, 0.1), (0.6, 0.2, 0.2)])
def test_shares_that_vary_less_than_trials_are_covered_as_well(scenes: int, chances: tuple[float, ...]) -> None:
    truth, covered = 0.5 * chances[1] + chances[2], 0.0
    for drawn in product(range(3), repeat=scenes):
        estimate = Estimate.of_shares([(0.0, 0.5, 1.0)[k] for k in drawn])
        covered += prod(chances[k] for k in drawn) * (estimate.low <= truth <= estimate.high)
    assert covered > 0.95
