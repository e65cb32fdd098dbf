"""Modes, the best samples and their diversity, against sets and loops."""

import math
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gflowdial.metrics.discovery import modes_found, top_k, top_k_diversity, top_k_log_reward

rows = st.lists(st.tuples(*[st.integers(0, 2)] * 3), min_size=1, max_size=12)


@st.composite
def rewarded(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Samples with repetitions; equal samples have equal rewards."""
    samples = draw(rows)
    reward = {row: draw(st.floats(-800.0, 800.0)) for row in sorted(set(samples))}
    return torch.tensor(samples), torch.tensor([reward[row] for row in samples], dtype=torch.float64)


def hamming(a: Tensor, b: Tensor) -> int:
    return sum(x != y for x, y in zip(a.tolist(), b.tolist(), strict=True))


@given(samples=rows, modes=rows, radius=st.integers(0, 3))
def test_a_mode_is_found_by_a_sample_close_to_it(samples: list, modes: list, radius: int) -> None:
    samples, modes = torch.tensor(samples), torch.tensor(modes)
    expected = [min(hamming(sample, mode) for sample in samples) <= radius for mode in modes]
    assert modes_found(samples, modes, radius).tolist() == expected


def test_without_samples_no_mode_is_found() -> None:
    modes = torch.tensor([[0, 1]])
    assert modes_found(modes[:0], modes).tolist() == [False]
    assert modes_found(modes, modes[:0]).tolist() == []


@given(drawn=rewarded(), data=st.data())
def test_the_best_are_distinct_and_sorted(drawn: tuple[Tensor, Tensor], data: st.DataObject) -> None:
    samples, log_reward = drawn
    distinct = {tuple(row): value for row, value in zip(samples.tolist(), log_reward.tolist(), strict=True)}
    k = data.draw(st.integers(1, len(distinct)))
    best = top_k(samples, log_reward, k)
    assert len({tuple(row) for row in samples[best].tolist()}) == k
    assert log_reward[best].tolist() == sorted(distinct.values(), reverse=True)[:k]
    # The first of equal rows stands for them.
    assert all((samples[: int(i)] != samples[i]).any(1).all() for i in best)


@given(drawn=rewarded(), data=st.data())
def test_reward_and_diversity_are_those_of_the_best(drawn: tuple[Tensor, Tensor], data: st.DataObject) -> None:
    samples, log_reward = drawn
    k = data.draw(st.integers(1, len({tuple(row) for row in samples.tolist()})))
    best = top_k(samples, log_reward, k)
    top = float(log_reward[best].max())
    expected = top + math.log(sum(math.exp(float(x) - top) for x in log_reward[best]) / k)
    assert float(top_k_log_reward(samples, log_reward, k)) == pytest.approx(expected)
    if k > 1:
        gaps = [hamming(a, b) for a, b in combinations(samples[best], 2)]
        assert float(top_k_diversity(samples, log_reward, k)) == pytest.approx(sum(gaps) / len(gaps))


def test_what_cannot_be_had_is_refused() -> None:
    samples, log_reward = torch.tensor([[0, 1], [0, 1], [1, 1]]), torch.tensor([1.0, 1.0, 2.0])
    for k in (0, 3):
        with pytest.raises(ValueError, match=f"the 2 distinct samples; got {k}"):
            top_k(samples, log_reward, k)
    with pytest.raises(ValueError, match="k must be at least 2; got 1"):
        top_k_diversity(samples, log_reward, 1)


def test_what_does_not_fit_the_samples_is_named() -> None:
    samples = torch.tensor([[0], [1]])
    with pytest.raises(ValueError, match=r"log_reward\[1\] is nan"):
        top_k(samples, torch.tensor([0.0, torch.nan]), 1)
    # Where shapes are checked at run time, as here, that check comes first.
    with pytest.raises((ValueError, TypeError), match="log_reward"):
        top_k(samples, torch.zeros(3), 1)
    with pytest.raises((ValueError, TypeError), match="modes"):
        modes_found(samples.expand(2, 2), torch.tensor([[0]]))
