"""Squared losses whose residuals are linear in the logs: value and gradient without a graph of small steps.

With ``r`` the residuals and ``M`` a symmetric matrix the loss is ``rᵀMr``, and ``2Mr`` its gradient in r: the forward
pass computes ``Mr`` once for both, the backward pass brings it to the logs by the transpose of what made r of them.
"""

from collections.abc import Callable
from typing import Any, Protocol, cast, runtime_checkable

import torch

from gflowdial.losses.inputs import transformed
from gflowdial.shapes import Tensor


@runtime_checkable
class Residuals(Protocol):
    """Residuals as a linear function of raw logs, some of which may be None."""

    def of(self, *logs: Tensor | None) -> Tensor:
        """``r [items]``, in `precise_dtype`. Differentiable."""

    def transpose(
        self, fall: Tensor, logs: tuple[Tensor | None, ...], wanted: tuple[bool, ...]
    ) -> tuple[Tensor | None, ...]:
        """The gradient in each of ``logs`` that is wanted, in its dtype, where that in ``-r`` is ``fall``.
        Differentiable."""


class Given:
    """Residuals that are themselves what is given."""

    def of(self, *logs: Tensor | None) -> Tensor:
        return cast(Tensor, logs[0])

    def transpose(
        self, fall: Tensor, logs: tuple[Tensor | None, ...], wanted: tuple[bool, ...]
    ) -> tuple[Tensor | None, ...]:
        del logs, wanted
        return (fall.neg(),)


Metric = Callable[[Tensor], Tensor]
"""``M r`` of a symmetric matrix M, which need not be written out; differentiable."""


def quadratic(residuals: Residuals, metric: Metric, *logs: Tensor | None, dtype: torch.dtype) -> Tensor:
    """``rᵀMr``, cast to ``dtype``."""
    if transformed(*logs):
        residual = residuals.of(*logs)
        return torch.dot(residual, metric(residual)).to(dtype)
    return cast(Tensor, _Quadratic.apply(residuals, metric, dtype, *logs))  # type: ignore[no-untyped-call]


class _Quadratic(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, residuals: Residuals, metric: Metric, dtype: torch.dtype, *logs: Tensor | None) -> Tensor:
        residual = residuals.of(*logs)
        slope = metric(residual)
        ctx.residuals, ctx.metric = residuals, metric
        ctx.save_for_backward(slope, *logs)
        # One product is both: rᵀ(Mr) is the loss, 2(Mr) its derivative.
        return torch.dot(residual, slope).to(dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        slope, *logs = ctx.saved_tensors
        wanted = ctx.needs_input_grad[3:]
        if torch.is_grad_enabled():
            # The saved slope is a constant to autograd; a second derivative needs it as a function of the logs.
            slope = ctx.metric(ctx.residuals.of(*logs))
        return None, None, None, *ctx.residuals.transpose(slope * (-2 * grad), tuple(logs), wanted)
