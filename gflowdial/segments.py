"""Reductions over segments of a flat tensor: by sorted offsets or by arbitrary ids, with two backends.

Every function takes ``values [items]`` and the `Segments` they fall into, computes in float32 at least and is
differentiable. NaN in a segment makes its result NaN. A backend supplies two reductions, sum and max; all else is built
on them, so both give the same values and the same gradients.

All functions raise a ValueError if ``values`` is no floating-point vector with one entry per item, or an id is out of
range; on a GPU, where looking at ids would wait for it, ids are its own to refuse.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Literal, cast

import torch

from gflowdial.numerics import check_indices, check_vector, lifted
from gflowdial.shapes import Float, Int, Tensor

__all__ = ["Backend", "Segments", "logsumexp", "max", "mean", "softmax", "sum"]

Backend = Literal["torch", "torch_scatter"]


@dataclass(frozen=True, eq=False)
class Segments:
    """Which segment each item belongs to.

    Attributes:
        ids: the segment of each item, below ``count``.
        count: how many segments there are; some may be empty.
        offsets: where the segments start and end, if items are sorted by segment.
    """

    ids: Int[Tensor, " items"]
    count: int
    offsets: Int[Tensor, " bounds"] | None = None

    @staticmethod
    def from_ids(ids: Tensor, count: int) -> "Segments":
        """Items in any order; ``ids`` are integers from 0 to ``count - 1``, which the reductions check.

        Raises:
            ValueError: if ``ids`` is no vector of int64, or ``count`` is negative.
        """
        if ids.ndim != 1 or ids.dtype != torch.int64:
            raise ValueError(
                f"ids must be a vector of int64, the segment of each item; got {ids.dtype} of shape {list(ids.shape)}. "
                "Convert it with ids.long()."
            )
        if count < 0:
            raise ValueError(f"count must be 0 or more, the number of segments; got {count}.")
        return Segments(ids, count)

    @staticmethod
    def from_offsets(offsets: Tensor) -> "Segments":
        """Sorted items: segment i holds the items ``offsets[i]`` to ``offsets[i + 1]``.

        Raises:
            ValueError: if ``offsets`` is no vector of int64, does not start at 0 or falls.
        """
        if offsets.ndim != 1 or offsets.dtype != torch.int64:
            raise ValueError(
                f"offsets must be a vector of int64; got {offsets.dtype} of shape {list(offsets.shape)}. "
                "Convert it with offsets.long()."
            )
        if len(offsets) == 0 or int(offsets[0]) != 0 or bool((offsets.diff() < 0).any()):
            raise ValueError("offsets must start at 0 and never fall.")
        ids = torch.arange(len(offsets) - 1, device=offsets.device).repeat_interleave(offsets.diff())
        return Segments(ids, len(offsets) - 1, offsets)

    @property
    def sizes(self) -> Int[Tensor, " segments"]:
        """Items per segment."""
        return _add(torch.ones_like(self.ids), self)


def sum(values: Float[Tensor, " items"], segments: Segments, backend: Backend = "torch") -> Float[Tensor, " segments"]:
    """``Σ values`` per segment; 0 where it is empty."""
    values = _items(values, segments)
    if backend == "torch":
        return _add(values, segments)
    scatter = _torch_scatter()
    if segments.offsets is not None:
        return cast(Tensor, scatter.segment_csr(values, segments.offsets, reduce="sum"))
    return cast(Tensor, scatter.scatter(values, segments.ids, dim_size=segments.count, reduce="sum"))


def mean(values: Float[Tensor, " items"], segments: Segments, backend: Backend = "torch") -> Float[Tensor, " segments"]:
    """The mean per segment; 0 where it is empty."""
    return sum(values, segments, backend) / segments.sizes.clamp(min=1)


def max(values: Float[Tensor, " items"], segments: Segments, backend: Backend = "torch") -> Float[Tensor, " segments"]:
    """The maximum per segment; -inf where it is empty, NaN where it holds one. Ties share the gradient evenly."""
    values = _items(values, segments)
    peak = _peak(values.detach(), segments, backend)
    at_peak = (values == peak[segments.ids]) | values.isnan()
    ties = sum(at_peak.to(values.dtype), segments, backend).clamp(min=1)
    return torch.where(segments.sizes > 0, sum(torch.where(at_peak, values, 0.0), segments, backend) / ties, peak)


def logsumexp(
    values: Float[Tensor, " items"], segments: Segments, backend: Backend = "torch"
) -> Float[Tensor, " segments"]:
    """``log Σ exp values`` per segment, stable; -inf where it is empty or holds -inf only."""
    values = _items(values, segments)
    peak = _finite_peak(values, segments, backend)
    total = sum(torch.exp(values - peak[segments.ids]), segments, backend)
    # The logarithm never sees a zero, whose gradient would be NaN; a total that is NaN goes on as it is.
    nothing = total == 0
    return torch.where(nothing, -torch.inf, peak + torch.where(nothing, 1.0, total).log())


def softmax(values: Float[Tensor, " items"], segments: Segments, backend: Backend = "torch") -> Float[Tensor, " items"]:
    """``exp values / Σ exp values`` within each segment; NaN where it holds -inf only, as ``torch.softmax`` has it."""
    values = _items(values, segments)
    peak = _finite_peak(values, segments, backend)
    weights = torch.exp(values - peak[segments.ids])
    return weights / sum(weights, segments, backend)[segments.ids]


def _items(values: Tensor, segments: Segments) -> Tensor:
    check_vector("values", values, len(segments.ids), "item of the segments")
    return lifted(values)


def _add(values: Tensor, segments: Segments) -> Tensor:
    return _indexed(segments, lambda: values.new_zeros(segments.count).index_add(0, segments.ids, values))


def _indexed(segments: Segments, reduce: Callable[[], Tensor]) -> Tensor:
    """``reduce()``, which reads the ids of ``segments``; they are looked at where it fails, as that takes as long."""
    if torch.compiler.is_compiling():
        return reduce()
    try:
        return reduce()
    except (IndexError, RuntimeError):
        check_indices("ids", segments.ids, segments.count, "segments")
        raise


def _peak(values: Tensor, segments: Segments, backend: Backend) -> Tensor:
    empty = values.new_full((segments.count,), -torch.inf)
    if backend == "torch":
        return _indexed(segments, lambda: empty.scatter_reduce(0, segments.ids, values, "amax"))
    scatter = _torch_scatter()
    if segments.offsets is not None:
        peak, item = scatter.segment_max_csr(values, segments.offsets)
    else:
        peak, item = scatter.scatter_max(values, segments.ids, dim_size=segments.count)
    # For a segment that holds nothing, or -inf only, it reports no item or the lowest finite number.
    return torch.where((item < len(values)) & (peak > torch.finfo(peak.dtype).min), peak, empty)


def _finite_peak(values: Tensor, segments: Segments, backend: Backend) -> Tensor:
    peak = _peak(values.detach(), segments, backend)
    return torch.where(peak.isfinite(), peak, 0.0)


def _torch_scatter() -> ModuleType:
    try:
        return importlib.import_module("torch_scatter")
    except ImportError as error:
        raise ImportError(
            "the backend 'torch_scatter' needs the extra `scatter`: "
            "pip install --no-build-isolation 'gflowdial[scatter]'. The backend 'torch' needs nothing."
        ) from error
