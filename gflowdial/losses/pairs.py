"""Penalties over all ancestor pairs of a forest, one by one: for those that have no linear form.

Time is proportional to pairs, which on a chain of T actions are T(T+1)/2. Memory is not: pairs are worked out in
chunks, and the forward pass keeps the derivative by node, so that the backward pass needs none of them. Only a second
derivative, `torch.func`, forward mode and compiled code hold all pairs at once.
"""

from typing import Any, cast

import torch

from gflowdial import segments
from gflowdial.forest import Forest
from gflowdial.losses.inputs import transformed
from gflowdial.losses.penalties import Penalty
from gflowdial.segments import Segments
from gflowdial.shapes import Float, Tensor

PAIRS_AT_ONCE = 1 << 16
"""Pairs held at once, some megabytes; as many as there are nodes if that is more."""


def listed_pairs_sum(
    residual: Float[Tensor, " edges"], forest: Forest, decay: float, sink: Float[Tensor, " nodes"], penalty: Penalty
) -> Float[Tensor, " trees"]:
    """``Σ over ancestor pairs (m, n) of decay^distance(m, n) · sink_n · penalty(Σ residual over m→n)`` per tree."""
    along = forest.root_sum(residual)
    if forest.num_pairs <= PAIRS_AT_ONCE or torch.compiler.is_compiling() or transformed(residual):
        return _chunk(along, forest, 0, forest.num_pairs, decay, sink, penalty)
    return cast(Tensor, _InChunks.apply(along, forest, decay, sink, penalty))  # type: ignore[no-untyped-call]


class _InChunks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, along: Tensor, forest: Forest, decay: float, sink: Tensor, penalty: Penalty) -> Tensor:
        total, slope = along.new_zeros(forest.num_trees), torch.zeros_like(along)
        at_once = max(PAIRS_AT_ONCE, forest.num_nodes)
        for start in range(0, forest.num_pairs, at_once):
            stop = min(start + at_once, forest.num_pairs)
            with torch.enable_grad():
                here = along.detach().requires_grad_()
                part = _chunk(here, forest, start, stop, decay, sink, penalty)
                slope += torch.autograd.grad(part.sum(), here)[0]
            total += part.detach()
        ctx.save_for_backward(along, slope)
        ctx.forest, ctx.options = forest, (decay, sink, penalty)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        along, slope = ctx.saved_tensors
        if torch.is_grad_enabled():
            # The saved slope is a constant to autograd; a second derivative needs it as a function of `along`.
            whole = _chunk(along, ctx.forest, 0, ctx.forest.num_pairs, *ctx.options)
            return torch.autograd.grad(whole, along, grad, create_graph=True)[0], None, None, None, None
        return grad[ctx.forest.tree] * slope, None, None, None, None


def _chunk(
    along: Tensor, forest: Forest, start: int, stop: int, decay: float, sink: Tensor, penalty: Penalty
) -> Tensor:
    """The sum over the pairs numbered from ``start`` to ``stop``: node by node, from its root down to its parent."""
    pair = torch.arange(start, stop, device=along.device)
    # Node n has depth(n) pairs, which end at pair_bounds[n]: the last of them is the one with its parent.
    node = torch.searchsorted(forest.pair_bounds, pair, right=True)
    distance = forest.pair_bounds[node] - pair
    ancestor = forest.ancestor(node, distance)
    weight = decay ** distance.to(along.dtype) * sink[node]
    # The sum over m→n is a difference of sums from the root.
    gap = along.index_select(0, node) - along.index_select(0, ancestor)
    return segments.sum(weight * penalty(gap), Segments.from_ids(forest.tree[node], forest.num_trees))
