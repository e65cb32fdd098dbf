"""The mean of squared residuals over all ancestor pairs of a forest, as a form in the one-step residuals.

Linear in nodes on every forest. On chains of one length the residuals are the rows of a table, and what a pair counts
depends on positions in the row only, so that nothing needs an index.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch

from gflowdial import segments
from gflowdial.filters import RowScan, widest_block
from gflowdial.forest import Forest
from gflowdial.layouts import Table
from gflowdial.losses.quadratic import Metric
from gflowdial.numerics import precise_dtype
from gflowdial.segments import Segments
from gflowdial.shapes import Float, Tensor

PairWeight = Literal["unique", "path"]
MOST_BLOCKS = 16
"""Rows that need more blocks of a scan are left to the filters, which scan all blocks at once."""
SHORT = 64
"""Up to so many actions, a product with the matrix ``[steps, steps]`` is faster than scans."""


def pair_metric(forest: Forest, decay: float, pair_weight: PairWeight) -> Metric:
    """The metric whose form in the one-step residuals is the mean over all ancestor pairs of the squared residual.

    Raises:
        ValueError: if ``decay`` is outside (0, 1] or ``pair_weight`` is unknown.
    """
    # The one place where a loss goes by layout: a chain has one leaf, so that both weights are the same on a table.
    # Scans of rows are loops over blocks, which the compiler would unroll anew for every length.
    compiled = torch.compiler.is_compiling()
    if not compiled and isinstance(forest.layout, Table) and forest.layout.size > 1 and 0 < decay <= 1:
        _checked_pair_weight(pair_weight)
        if decay == 1 or forest.layout.size <= MOST_BLOCKS * widest_block(decay, precise_dtype(forest.device)):
            return TablePairs.of(forest.layout, forest, decay)
    return Pairs(forest, pair_measure(forest, decay, pair_weight))


@dataclass(frozen=True, eq=False)
class PairMeasure:
    """How much each ancestor pair (m, n) counts: ``source_m · decay^distance(m, n) · sink_n``, as sums over pairs.

    Attributes:
        decay: λ.
        above: Σ over proper ancestors m of n of ``source_m · decay^distance(m, n)``.
        below: Σ over n and its descendants d of ``decay^distance(n, d) · sink_d``, times the tree's ``share``.
        share: what makes all pairs of a tree weigh as much as the tree does in the mean; 0 without pairs.
    """

    decay: float
    above: Float[Tensor, " nodes"]
    below: Float[Tensor, " nodes"]
    share: Float[Tensor, " trees"]

    @property
    def total(self) -> Float[Tensor, " trees"]:
        """The weights of each tree's pairs together."""
        return torch.where(self.share > 0, 1 / (len(self.share) * self.share), 0.0)

    @staticmethod
    def of(
        forest: Forest, decay: float, source: Float[Tensor, " nodes"], sink: Float[Tensor, " nodes"]
    ) -> "PairMeasure":
        above = forest.ancestor_filter(source, decay)
        total = segments.sum(sink * above, Segments.from_ids(forest.tree, forest.num_trees))
        share = torch.where(total > 0, 1 / (forest.num_trees * total), 0.0)
        below = forest.descendant_filter(sink, decay).add_(sink).mul_(share[forest.tree])
        return PairMeasure(decay, above, below, share)


def pair_measure(forest: Forest, decay: float, pair_weight: PairWeight) -> PairMeasure:
    """The measure over all ancestor pairs, kept with the forest.

    Raises:
        ValueError: if ``decay`` is outside (0, 1] or ``pair_weight`` is unknown.
    """

    def derive() -> PairMeasure:
        sink = node_weight(forest, pair_weight)
        return PairMeasure.of(forest, decay, torch.ones_like(sink), sink)

    return forest.kept(("pair_measure", decay, pair_weight), derive)


def node_weight(forest: Forest, pair_weight: PairWeight) -> Float[Tensor, " nodes"]:
    """How often a pair that ends in each node counts.

    Raises:
        ValueError: if ``pair_weight`` is unknown.
    """
    dtype = precise_dtype(forest.device)
    if _checked_pair_weight(pair_weight) == "path":
        return forest.leaves_below.to(dtype)
    return torch.ones(forest.num_nodes, dtype=dtype, device=forest.device)


def _checked_pair_weight(pair_weight: PairWeight) -> PairWeight:
    if pair_weight not in ("unique", "path"):
        raise ValueError(f"pair_weight must be 'unique' or 'path'; got {pair_weight!r}.")
    return pair_weight


@dataclass(frozen=True, eq=False)
class Pairs:
    """The weighted mean over each tree's pairs of ``(Σ δ over m→n)²``, then over trees, as a form in δ ``[edges]``.

    ``C_n = Σ over the pairs (a, d) whose path crosses the edge into n of weight · (Σ δ over a→d)``. With the path split
    at n, it is the ancestors' part times the weight below plus the descendants' part times the weight above.
    """

    forest: Forest
    measure: PairMeasure

    def __call__(self, residual: Float[Tensor, " edges"]) -> Float[Tensor, " edges"]:
        forest, measure = self.forest, self.measure
        delta = forest.edges_to_nodes(residual)
        started = delta * measure.above
        # Split at n, a path is (a→n) + (n→d): the first part weighs Σ over d below n, the second Σ over a above n.
        flux = forest.ancestor_filter(started, measure.decay).add_(started).mul_(measure.below)
        del started
        flux.addcmul_(measure.above, forest.descendant_filter(delta.mul_(measure.below), measure.decay))
        return flux.index_select(0, forest.edge_child)


@dataclass(frozen=True, eq=False)
class TablePairs:
    """`Pairs` on a table ``[trees, steps]`` of edges, by position in the row.

    Attributes:
        scan: with the decay λ.
        above: S at the edge's child, times ``scale``, ``[steps]``; see docs/mathematics.md.
        below: W at the edge's child, ``[steps]``.
        scale: 1/Z times the share of a tree in the mean.
        matrix: all of it written out, if chains are short.
    """

    scan: RowScan
    above: Tensor
    below: Tensor
    scale: float
    matrix: Tensor | None = None

    @staticmethod
    def of(table: Table, forest: Forest, decay: float) -> "TablePairs":
        """Kept with the forest, whose trees are chains of two nodes or more each."""

        def derive() -> TablePairs:
            steps, dtype = table.size - 1, precise_dtype(forest.device)
            scan = RowScan.of(steps, decay, dtype, forest.device)
            sums = scan(torch.ones(1, steps, dtype=dtype, device=forest.device))[0]
            scale = 1 / (sum((steps + 1 - d) * decay**d for d in range(1, steps + 1)) * forest.num_trees)
            pairs = TablePairs(scan, scale * decay * sums, sums.flip(0), scale)
            if steps > SHORT:
                return pairs
            return replace(pairs, matrix=pairs.flux(torch.eye(steps, dtype=dtype, device=forest.device)))

        return forest.kept(("table_pairs", decay), derive)

    def __call__(self, residual: Float[Tensor, " edges"]) -> Float[Tensor, " edges"]:
        table = residual.view(-1, len(self.below))
        return (self.flux(table) if self.matrix is None else table.mm(self.matrix)).view(-1)

    def flux(self, delta: Tensor) -> Tensor:
        """C of each edge, ``[trees, steps]``, times ``scale``."""
        decay = self.scan.decay
        if decay == 1:
            # C_n = Σ over a < n ≤ d of (c_d - c_a), from the sums of c up to each node; S is the number of nodes above.
            so_far = delta.cumsum(1).cumsum_(1)
            flux = so_far[:, -1:] * self.above
            flux[:, 1:].sub_(so_far[:, :-1], alpha=self.scale * (delta.shape[1] + 1))
            return flux
        # As `Pairs`, with the filters as scans of rows: forward for what came before, of flipped rows for what comes.
        flux = self.scan(delta * self.above).mul_(self.below)
        later = self.scan((delta * self.below).flip(1))
        flux[:, :-1].addcmul_(self.above[:-1], later[:, :-1].flip(1), value=decay)
        return flux
