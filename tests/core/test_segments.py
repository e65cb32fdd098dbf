"""Segment reductions against one segment at a time, and the two backends against each other."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gflowdial import segments
from gflowdial.segments import Segments
from gflowdial.testing import vectors

REDUCTIONS: dict[str, tuple[Callable[..., Tensor], Callable[[Tensor], Tensor], float]] = {
    "sum": (segments.sum, torch.sum, 0.0),
    "mean": (segments.mean, torch.mean, 0.0),
    "max": (segments.max, torch.max, -torch.inf),
    "logsumexp": (segments.logsumexp, lambda x: torch.logsumexp(x, 0), -torch.inf),
}


@st.composite
def segmented(draw: st.DrawFn) -> tuple[Tensor, Segments]:
    sizes = draw(st.lists(st.integers(0, 4), min_size=1, max_size=6))
    values = draw(vectors(sum(sizes), -900.0, 900.0))
    masked = draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values)))
    values = torch.where(torch.tensor(masked, dtype=torch.bool), -torch.inf, values)
    if draw(st.booleans()):
        return values, Segments.from_offsets(torch.tensor([0, *sizes]).cumsum(0))
    ids = draw(st.permutations([i for i, size in enumerate(sizes) for _ in range(size)]))
    return values, Segments.from_ids(torch.tensor(ids, dtype=torch.int64), len(sizes))


@pytest.mark.parametrize("name", REDUCTIONS)
@given(drawn=segmented())
def test_reductions_equal_one_segment_at_a_time(name: str, drawn: tuple[Tensor, Segments]) -> None:
    values, where = drawn
    reduce, plain, empty = REDUCTIONS[name]
    expected = [plain(part) if len(part) else torch.tensor(empty).double() for part in parts(values, where)]
    torch.testing.assert_close(reduce(values, where), torch.stack(expected))


@given(drawn=segmented())
def test_softmax_equals_one_segment_at_a_time(drawn: tuple[Tensor, Segments]) -> None:
    values, where = drawn
    found = parts(segments.softmax(values, where), where)
    for part, expected in zip(found, parts(values, where), strict=True):
        torch.testing.assert_close(part, torch.softmax(expected, 0), equal_nan=True)


def parts(values: Tensor, where: Segments) -> list[Tensor]:
    return [values[where.ids == i] for i in range(where.count)]


def test_ties_share_the_gradient_and_empty_segments_have_none() -> None:
    values = torch.tensor([1.0, 3.0, 3.0], requires_grad=True)
    segments.max(values, Segments.from_ids(torch.tensor([0, 0, 0]), 2))[0].backward()
    assert values.grad is not None
    assert values.grad.tolist() == [0.0, 0.5, 0.5]
    nothing = torch.tensor([-torch.inf, -torch.inf], requires_grad=True)
    segments.logsumexp(nothing, Segments.from_ids(torch.tensor([0, 0]), 1)).sum().backward()
    assert nothing.grad is not None
    assert nothing.grad.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("name", [*REDUCTIONS, "softmax"])
@given(drawn=segmented())
def test_torch_scatter_gives_the_same_values_and_gradients(name: str, drawn: tuple[Tensor, Segments]) -> None:
    pytest.importorskip("torch_scatter", reason="needs the extra `scatter`, which builds from source")
    function = segments.softmax if name == "softmax" else REDUCTIONS[name][0]
    values, where = drawn
    results = []
    for backend in ("torch", "torch_scatter"):
        leaf = values.clone().requires_grad_()
        out = function(leaf, where, backend)
        results.append((out, torch.autograd.grad(torch.where(out.isfinite(), out, 0.0).square().sum(), leaf)[0]))
    torch.testing.assert_close(results[0], results[1], equal_nan=True)


def test_a_maximum_does_not_hide_nan() -> None:
    values = torch.tensor([torch.nan, 1.0, 2.0])
    found = segments.max(values, Segments.from_ids(torch.tensor([0, 0, 1]), 2))
    torch.testing.assert_close(found, torch.tensor([torch.nan, 2.0]), equal_nan=True)


@pytest.mark.parametrize("name", [*REDUCTIONS, "softmax"])
def test_nan_is_not_hidden(name: str) -> None:
    function = segments.softmax if name == "softmax" else REDUCTIONS[name][0]
    for poisoned in ([torch.nan, 1.0], [1.0, torch.nan], [torch.nan, -torch.inf], [torch.inf, torch.nan]):
        values = torch.tensor([*poisoned, 2.0])
        found = function(values, Segments.from_ids(torch.tensor([0, 0, 1]), 2))
        assert found.isnan().any(), (name, poisoned)
        assert bool(found[-1].isfinite())


@pytest.mark.parametrize("name", [*REDUCTIONS, "softmax"])
def test_what_does_not_fit_segments_is_named(name: str) -> None:
    function = segments.softmax if name == "softmax" else REDUCTIONS[name][0]
    for wrong in (-1, 2):
        with pytest.raises(ValueError, match=rf"ids\[1\] is {wrong}, out of range: segments are 0 to 1"):
            function(torch.ones(2), Segments.from_ids(torch.tensor([0, wrong]), 2))
    two = Segments.from_ids(torch.tensor([0, 1]), 2)
    for length in (1, 3):
        with pytest.raises(ValueError, match=rf"one entry per item of the segments, shape \[2\]; got \[{length}\]"):
            function(torch.ones(length), two)
    with pytest.raises(ValueError, match="shape"):
        function(torch.ones(5), Segments.from_offsets(torch.tensor([0, 2])))


def test_ids_that_are_no_integers_are_named() -> None:
    for ids in (torch.tensor([0.0]), torch.tensor([[0]]), torch.tensor([True])):
        with pytest.raises(ValueError, match="ids must be a vector of int64"):
            Segments.from_ids(ids, 1)
    with pytest.raises(ValueError, match="count must be 0 or more"):
        Segments.from_ids(torch.tensor([0]), -1)
    with pytest.raises(ValueError, match=r"ids\[0\] is 3"):
        _ = Segments.from_ids(torch.tensor([3]), 2).sizes


def test_a_missing_backend_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch_scatter", None)
    with pytest.raises(ImportError, match="extra `scatter`"):
        segments.sum(torch.ones(1), Segments.from_ids(torch.tensor([0]), 1), "torch_scatter")


def test_offsets_that_fall_are_refused() -> None:
    with pytest.raises(ValueError, match="never fall"):
        Segments.from_offsets(torch.tensor([0, 2, 1]))
