"""Intervals by hand, and tables that show every row."""

import json

import pytest
from examples.aflow_esc.report import Estimate, as_data, as_table


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
