"""Squared SubTB on chains of one length: their values are the rows of a table, so that nothing needs an index.

It is what `losses.subtrajectory` computes, in fewer and longer operations and with the gradient written out.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from gflowdial.filters import RowScan
from gflowdial.forest import Forest
from gflowdial.precision import precise_dtype


@dataclass(frozen=True, eq=False)
class TableMeasure:
    """What pairs weigh in a table ``[trees, steps]`` of edges, by position in the row; see docs/mathematics.md.

    Attributes:
        scan: with the decay λ.
        above: S at the edge's child, times ``scale``, ``[steps]``.
        below: W at the edge's child, ``[steps]``.
        scale: 2/Z times the share of a tree in the mean.
    """

    scan: RowScan
    above: Tensor
    below: Tensor
    scale: float

    @staticmethod
    def of(forest: Forest, decay: float) -> "TableMeasure":
        """Kept with the forest, whose trees are chains of two nodes or more each."""
        steps, dtype = cast(int, forest.chain_size) - 1, precise_dtype(forest.device)

        def derive() -> TableMeasure:
            scan = RowScan.of(steps, decay, dtype, forest.device)
            sums = scan(torch.ones(1, steps, dtype=dtype, device=forest.device))[0]
            scale = 2 / (decay * float(sums.sum()) * forest.num_trees)
            return TableMeasure(scan, scale * decay * sums, sums.flip(0), scale)

        return forest.kept(("table_measure", decay), derive)


def equal_chains_balance(
    log_flow: Tensor, log_pf: Tensor, log_pb: Tensor | None, log_reward: Tensor, measure: TableMeasure
) -> Tensor:
    """SubTB of one chain of two nodes or more for each reward, laid end to end."""
    return cast(Tensor, _EqualChains.apply(log_flow, log_pf, log_pb, log_reward, measure))  # type: ignore[no-untyped-call]


def table_flux(delta: Tensor, measure: TableMeasure) -> Tensor:
    """The gradient of the loss in δ, ``[trees, steps]``: C times ``measure.scale``. It is linear in δ."""
    decay = measure.scan.decay
    if decay == 1:
        # C_n = Σ over a < n ≤ d of (c_d - c_a), from the sums of c up to each node; S is the number of nodes above.
        so_far = delta.cumsum(1).cumsum_(1)
        flux = so_far[:, -1:] * measure.above
        flux[:, 1:].sub_(so_far[:, :-1], alpha=measure.scale * (delta.shape[1] + 1))
        return flux
    flux = measure.scan(delta * measure.above).mul_(measure.below)
    later = measure.scan((delta * measure.below).flip(1))
    flux[:, :-1].addcmul_(measure.above[:-1], later[:, :-1].flip(1), value=decay)
    return flux


def _residual(log_flow: Tensor, log_pf: Tensor, log_pb: Tensor | None, log_reward: Tensor) -> Tensor:
    """δ of each edge, ``[trees, steps]``."""
    trees = len(log_reward)
    flow, ratio = log_flow.reshape(trees, -1), log_pf.reshape(trees, -1)
    delta = torch.empty_like(ratio, dtype=precise_dtype(flow.device))
    delta[:, :-1] = flow[:, 1:-1]
    delta[:, -1] = log_reward
    # What is subtracted in place from float64 is lifted on the way.
    delta.sub_(flow[:, :-1]).sub_(ratio)
    return delta if log_pb is None else delta.add_(log_pb.reshape(trees, -1))


class _EqualChains(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, log_flow: Tensor, log_pf: Tensor, log_pb: Tensor | None, log_reward: Tensor, measure: TableMeasure
    ) -> Tensor:
        delta = _residual(log_flow, log_pf, log_pb, log_reward)
        flux = table_flux(delta, measure)
        ctx.measure = measure
        ctx.save_for_backward(log_flow, log_pf, log_pb, log_reward, flux)
        return torch.dot(delta.view(-1), flux.view(-1)).div_(2).to(log_flow.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        log_flow, log_pf, log_pb, log_reward, flux = ctx.saved_tensors
        if torch.is_grad_enabled():
            # The saved flux is a constant to autograd; a second derivative needs it as a function of the input.
            flux = table_flux(_residual(log_flow, log_pf, log_pb, log_reward), ctx.measure)
        slope = flux * grad
        # A node's log F counts for the edge into it and against the edge out of it; at a leaf stands log R.
        edges = torch.constant_pad_nd(slope, (1, 1))
        at_node = edges[:, :-1] - edges[:, 1:]
        at_node[:, -1] = 0.0
        return (
            at_node.to(log_flow.dtype).view(-1),
            slope.to(log_pf.dtype).neg().view(-1),
            None if log_pb is None else slope.to(log_pb.dtype).view(-1),
            slope[:, -1].to(log_reward.dtype) if ctx.needs_input_grad[3] else None,
            None,
        )
