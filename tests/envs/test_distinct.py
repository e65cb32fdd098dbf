"""Equal states are found, whatever their hashes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gflowdial import numerics as module
from gflowdial.numerics import distinct


@st.composite
def states(draw: st.DrawFn) -> Tensor:
    width, rows = draw(st.integers(1, 4)), draw(st.integers(1, 12))
    numbers = st.sampled_from([-1, 0, 1, 2**40, 2**62, -(2**63)])
    row = st.lists(numbers, min_size=width, max_size=width)
    return torch.tensor(draw(st.lists(row, min_size=rows, max_size=rows)))


@given(states())
def test_the_distinct_rows_are_those_of_the_set_of_rows(rows: Tensor) -> None:
    found, place = distinct(rows)
    assert torch.equal(found[place], rows)
    assert sorted(map(tuple, found.tolist())) == sorted(set(map(tuple, rows.tolist())))


def test_rows_whose_hashes_collide_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "keys", lambda rows: rows.sum(1))
    rows = torch.tensor([[0, 1], [1, 0], [0, 1], [2, 2]])
    found, place = distinct(rows)
    assert torch.equal(found[place], rows)
    assert len(found) == 3
