"""Penalties over all ancestor pairs of a forest, one by one: for those that have no linear form.

Time is proportional to pairs, which on a chain of T actions are T(T+1)/2. Memory is not: the pairs are worked out anew
in chunks, in the backward pass again, and only sums per tree and per node are kept.
"""

import torch
from torch.utils.checkpoint import checkpoint

from gflowdial import segments
from gflowdial.forest import Forest
from gflowdial.losses.penalties import Penalty
from gflowdial.segments import Segments
from gflowdial.shapes import Float, Tensor

PAIRS_AT_ONCE = 1 << 16
"""Pairs held at once: some megabytes."""


def listed_pairs_sum(
    residual: Float[Tensor, " edges"], forest: Forest, decay: float, sink: Float[Tensor, " nodes"], penalty: Penalty
) -> Float[Tensor, " trees"]:
    """``Σ over ancestor pairs (m, n) of decay^distance(m, n) · sink_n · penalty(Σ residual over m→n)`` per tree."""
    along = forest.root_sum(residual)
    if forest.num_pairs <= PAIRS_AT_ONCE:
        return _chunk(along, forest, 0, forest.num_pairs, decay, sink, penalty)
    total = along.new_zeros(forest.num_trees)
    for start in range(0, forest.num_pairs, PAIRS_AT_ONCE):
        stop = min(start + PAIRS_AT_ONCE, forest.num_pairs)
        total = total + checkpoint(
            _chunk, along, forest, start, stop, decay, sink, penalty, use_reentrant=False, preserve_rng_state=False
        )
    return total


def _chunk(
    along: Tensor, forest: Forest, start: int, stop: int, decay: float, sink: Tensor, penalty: Penalty
) -> Tensor:
    """The sum over the pairs numbered from ``start`` to ``stop``: node by node, from its root down to its parent."""
    pair = torch.arange(start, stop, device=along.device)
    node = torch.searchsorted(forest.pair_bounds, pair, right=True)
    distance = forest.pair_bounds[node] - pair
    ancestor = forest.ancestor(node, distance)
    weight = decay ** distance.to(along.dtype) * sink[node]
    gap = along.index_select(0, node) - along.index_select(0, ancestor)
    return segments.sum(weight * penalty(gap), Segments.from_ids(forest.tree[node], forest.num_trees))
