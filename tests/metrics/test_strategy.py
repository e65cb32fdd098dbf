"""Strategy metrics against numbers worked out by hand, and the bias against its own equation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from gflowdial.metrics.strategy import (
    accuracy,
    macro_f1,
    measures_of_confusions,
    preference_bias,
    strategy_preferences,
)

TRUE = [0, 0, 0, 1, 1, 2]
PREDICTED = [0, 0, 1, 1, 2, 2]


def labels(confusion: NDArray[np.int64]) -> tuple[list[int], list[int]]:
    """True and predicted labels with ``confusion[i, j]`` states where i is true and j predicted."""
    cells = [(i, j) for (i, j), count in np.ndenumerate(confusion) for _ in range(count)]
    return [i for i, _ in cells], [j for _, j in cells]


def test_accuracy_by_hand() -> None:
    assert accuracy(TRUE, PREDICTED) == pytest.approx(4 / 6)


def test_macro_f1_by_hand() -> None:
    # F1 = 2 TP / (true + predicted): 4/5, 2/4 and 2/3; a fourth action that nobody takes counts 0.
    assert macro_f1(TRUE, PREDICTED, 3) == pytest.approx((4 / 5 + 2 / 4 + 2 / 3) / 3)
    assert macro_f1(TRUE, PREDICTED, 4) == pytest.approx((4 / 5 + 2 / 4 + 2 / 3) / 4)


@given(rows=st.lists(st.lists(st.integers(0, 5), min_size=4, max_size=4), min_size=4, max_size=4))
def test_the_preferences_satisfy_their_equation(rows: list[list[int]]) -> None:
    confusion = np.array(rows)
    confusion[0, 0] += 1
    true, predicted = labels(confusion)
    p = strategy_preferences(true, predicted, 4)
    assert p.mean() == pytest.approx(1)
    assert (p > 0).all()
    for i in range(4):
        others = [j for j in range(4) if j != i]
        won = sum((confusion[j, i] + 1) * p[j] / (p[i] + p[j]) for j in others)
        lost = sum((confusion[i, j] + 1) / (p[i] + p[j]) for j in others)
        assert p[i] == pytest.approx(won / lost, rel=1e-6)


@given(rows=st.lists(st.lists(st.integers(0, 5), min_size=4, max_size=4), min_size=4, max_size=4))
def test_symmetric_confusions_show_no_bias(rows: list[list[int]]) -> None:
    confusion = np.array(rows)
    true, predicted = labels(confusion + confusion.T + np.eye(4, dtype=int))
    assert preference_bias(true, predicted, 4) == pytest.approx(0, abs=1e-8)


def test_a_favourite_shows() -> None:
    true = [0, 1, 2, 3] * 10
    assert preference_bias(true, true, 4) == pytest.approx(0, abs=1e-8)
    always = [1] * 40
    preferences = strategy_preferences(true, always, 4)
    assert preferences.argmax() == 1
    assert preferences[[0, 2, 3]] == pytest.approx(preferences[0])
    often = [1, 1, 2, 3] * 10
    assert preference_bias(true, always, 4) > preference_bias(true, often, 4) > 0.1


def test_two_actions_by_hand() -> None:
    # Bradley–Terry of two: p1 / p0 = w10 / w01, here (3 + 1) / (0 + 1), and the mean is 1. It is also where updating
    # all preferences at once never settles.
    assert strategy_preferences([0, 0, 0, 1], [1, 1, 1, 1], 2) == pytest.approx([0.4, 1.6])


@given(cells=st.lists(st.integers(0, 5), min_size=32, max_size=32))
def test_many_confusions_at_once_have_the_measures_of_each(cells: list[int]) -> None:
    confusions = np.array(cells).reshape(2, 4, 4)
    confusions[:, 0, 0] += 1
    for confusion, found in zip(confusions, measures_of_confusions(confusions), strict=True):
        true, predicted = labels(confusion)
        wanted = [accuracy(true, predicted), macro_f1(true, predicted, 4), preference_bias(true, predicted, 4)]
        assert found == pytest.approx(wanted, abs=1e-10)


def test_actions_out_of_range_are_named() -> None:
    for measure in (macro_f1, preference_bias, strategy_preferences):
        for wrong in (-1, 3):
            with pytest.raises(ValueError, match=rf"predicted\[1\] is {wrong}, out of range: actions are 0 to 2"):
                measure([0, 1], [0, wrong], 3)
