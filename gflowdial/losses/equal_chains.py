"""The pairs of SubTB on chains of one length: values are the rows of a table, so that nothing needs an index."""

from dataclasses import dataclass, replace
from typing import cast

import torch

from gflowdial.filters import RowScan
from gflowdial.forest import Forest
from gflowdial.precision import precise_dtype
from gflowdial.shapes import Float, Tensor

SHORT = 64
"""Up to so many actions, a product with the matrix ``[steps, steps]`` is faster than scans."""


@dataclass(frozen=True, eq=False)
class TablePairs:
    """`losses.subtrajectory.Pairs` on a table ``[trees, steps]`` of edges, by position in the row.

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
    def of(forest: Forest, decay: float) -> "TablePairs":
        """Kept with the forest, whose trees are chains of two nodes or more each."""

        def derive() -> TablePairs:
            steps, dtype = cast(int, forest.chain_size) - 1, precise_dtype(forest.device)
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
        flux = self.scan(delta * self.above).mul_(self.below)
        later = self.scan((delta * self.below).flip(1))
        flux[:, :-1].addcmul_(self.above[:-1], later[:, :-1].flip(1), value=decay)
        return flux
