"""Discounted sums along a forest's paths: over a node's ancestors, and over its descendants.

Chains take a scan over blocks, linear in their nodes. Trees take log2(depth) rounds of jumps, each of which reaches
twice as far as the one before: after k rounds a node holds the sum over its 2^k nearest ancestors (or descendants),
itself among them; one more round adds what the node 2^k steps away holds.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from gflowdial.numerics import lifted, remember

NEGLIGIBLE = 1e-60
"""Rounds that weigh less than this are left out: they change nothing in float64, and denormals are slow."""


@dataclass(frozen=True, eq=False)
class Chains:
    """Chains laid end to end, each of ``lengths`` nodes; the last scans made are kept, with their transposes."""

    lengths: Tensor
    scans: dict[tuple[float, torch.dtype], "tuple[ChainScan, ChainScan]"] = field(default_factory=dict)

    def sum(self, x: Tensor, decay: float, down: bool) -> Tensor:
        if (decay, x.dtype) in self.scans:
            return self.scans[decay, x.dtype][down](x)
        # Training may use the tensors that inference mode asks for first.
        with torch.inference_mode(False):
            scan = ChainScan.of(self.lengths, decay, x.dtype)
            scans = remember(self.scans, (decay, x.dtype), (scan, scan.backwards()))
        return scans[down](x)


@dataclass(frozen=True, eq=False)
class ChainScan:
    """``y_n = decay · (x_{n-1} + y_{n-1})`` from the first to the last node of every chain; ``y = 0`` at the first.

    Each chain is cut into blocks of its own, a block a row of a table, the last one padded. Inside a block the sum is
    ``decay^n · cumsum(decay^-n · x)``; what a block hands on to the next is itself such a scan, over blocks. As a
    cumulative sum never looks ahead, not even an infinite value is felt before it or in another chain.

    Attributes:
        slot: the cell of each node.
        starts: the first cell of each chain.
        linked: the blocks of the chains that have several.
        rise, fall, carry: ``decay^-i``, ``decay^(i+1)`` and ``decay^(i+1-width)`` at position i of a block.
        over: the scan over the linked blocks; None where no chain has several, or the next but one weighs nothing.
    """

    slot: Tensor
    starts: Tensor
    linked: Tensor
    num_blocks: int
    rise: Tensor
    fall: Tensor
    carry: Tensor
    over: "ChainScan | None"

    @staticmethod
    def of(lengths: Tensor, decay: float, dtype: torch.dtype) -> "ChainScan":
        device, nodes = lengths.device, int(lengths.sum())
        width = _block_width(nodes, len(lengths), decay, dtype)
        blocks = (lengths + width - 1) // width
        starts = (blocks.cumsum(0) - blocks) * width
        shift = starts - (lengths.cumsum(0) - lengths)
        several = blocks > 1
        step = torch.arange(width, device=device, dtype=dtype)
        return ChainScan(
            slot=torch.arange(nodes, device=device).add_(shift.repeat_interleave(lengths)),
            starts=starts,
            linked=torch.nonzero(several.repeat_interleave(blocks)).squeeze(1),
            num_blocks=int(blocks.sum()),
            rise=decay**-step,
            fall=decay ** (step + 1),
            carry=decay ** (step + 1 - width),
            over=ChainScan.of(blocks[several], decay**width, dtype) if width > 1 and several.any() else None,
        )

    def backwards(self) -> "ChainScan":
        """The same scan from the last to the first node of every chain: its transpose."""
        cells = self.num_blocks * len(self.rise)
        ends = torch.cat([self.starts[1:], self.starts.new_tensor([cells])])
        return replace(
            self,
            slot=cells - 1 - self.slot,
            starts=cells - ends,
            linked=self.num_blocks - 1 - self.linked,
            over=self.over and self.over.backwards(),
        )

    def __call__(self, x: Tensor) -> Tensor:
        # rise_i·x_i, summed up to a cell j and times fall_j, is Σ over i ≤ j of decay^(j+1-i)·x_i.
        cells = x.new_zeros(self.num_blocks * len(self.rise) + 1)
        # Each value goes one cell further than its node; what leaves its chain so is wiped out.
        cells[1:].scatter_(0, self.slot, x)
        cells.index_fill_(0, self.starts, 0.0)
        table = cells[:-1].view(self.num_blocks, -1)
        table.mul_(self.rise).cumsum_(1).mul_(self.fall)
        if self.over is not None:
            carried = x.new_zeros(self.num_blocks).index_copy_(0, self.linked, self.over(table[self.linked, -1]))
            table.addr_(carried, self.carry)
        return cells.index_select(0, self.slot)


@dataclass(frozen=True, eq=False)
class RowScan:
    """``y_n = x_n + decay · y_{n-1}`` along every row of a table, as `ChainScan` but block after block.

    Attributes:
        rise, fall: ``decay^-i`` and ``decay^i`` at position i of a block.
    """

    decay: float
    rise: Tensor
    fall: Tensor

    @staticmethod
    def of(nodes: int, decay: float, dtype: torch.dtype, device: torch.device) -> "RowScan":
        step = torch.arange(_block_width(nodes, 1, decay, dtype), device=device, dtype=dtype)
        return RowScan(decay, decay**-step, decay**step)

    def __call__(self, x: Tensor) -> Tensor:
        """The scan of ``x [rows, nodes]``, in its place. Differentiable."""
        if self.decay == 1:
            return x.cumsum_(1)
        width = len(self.rise)
        for start in range(0, x.shape[1], width):
            block = x[:, start : start + width]
            if start > 0:
                # The last sum of a block enters the next as if it were part of its first value.
                block[:, 0].add_(x[:, start - 1], alpha=self.decay)
            size = block.shape[1]
            block.mul_(self.rise[:size]).cumsum_(1).mul_(self.fall[:size])
        return x


def _block_width(nodes: int, chains: int, decay: float, dtype: torch.dtype) -> int:
    """As wide as a chain on average, for then padding at most doubles the table, or the widest that is safe."""
    mean = max(2, -(-nodes // chains))
    blocks = -(-mean // widest_block(decay, dtype)) if decay < 1 else 1
    return -(-mean // blocks)


def widest_block(decay: float, dtype: torch.dtype) -> int:
    """No power of ``decay < 1`` in a block may fall below ε², so that nothing overflows, and what weighs less than ε⁴
    is left out."""
    return 1 + int(2 * math.log(torch.finfo(dtype).eps) / math.log(decay))


@dataclass(frozen=True, eq=False)
class TreeJumps:
    """``tables[k]``: the nodes of depth 2^k or more, and for each its ancestor 2^k steps up."""

    tables: tuple[tuple[Tensor, Tensor], ...]

    @staticmethod
    def of(parent: Tensor) -> "TreeJumps":
        tables = []
        jump = parent
        nodes = torch.nonzero(jump >= 0).squeeze(1)
        while len(nodes):
            tables.append((nodes, jump[nodes]))
            further = torch.full_like(jump, -1)
            # 2^k steps and 2^k more; -1 where a jump would leave the tree.
            further[nodes] = jump[jump[nodes]]
            jump = further
            nodes = torch.nonzero(jump >= 0).squeeze(1)
        return TreeJumps(tuple(tables))

    def sum(self, x: Tensor, decay: float, down: bool) -> Tensor:
        # (to, from) of each round. A round adds what the totals were before it: no node is counted twice.
        rounds = [(ancestors, nodes) if down else (nodes, ancestors) for nodes, ancestors in self.tables]
        total, proper = x.clone(), torch.zeros_like(x)
        for k, (into, of) in enumerate(rounds):
            weight = decay ** (1 << k)
            if weight < NEGLIGIBLE:
                break
            total.index_add_(0, into, total[of], alpha=weight)
        # The proper sum is the inclusive one a step away; subtracting x from it would cancel.
        if rounds:
            into, of = rounds[0]
            proper.index_add_(0, into, total[of], alpha=decay)
        return proper

    def logsumexp(self, x: Tensor) -> Tensor:
        """``log Σ exp x`` over the subtree of each node, itself among it. Differentiable."""
        # A running (peak, sum relative to it) per node stays exact however far apart the subtrees' scales lie.
        peak = x.detach()
        total = torch.exp(x - _finite(peak))
        for nodes, ancestors in self.tables:
            higher = peak.scatter_reduce(0, ancestors, peak[nodes], "amax")
            addends = total[nodes] * torch.exp(peak[nodes] - _finite(higher)[ancestors])
            total = (total * torch.exp(peak - _finite(higher))).index_add(0, ancestors, addends)
            peak = higher
        return torch.where(total > 0, _finite(peak) + total.clamp(min=torch.finfo(x.dtype).tiny).log(), peak)


Paths = Chains | TreeJumps


@runtime_checkable
class HasPaths(Protocol):
    """A forest, as far as filters need it."""

    @property
    def parent(self) -> Tensor: ...
    @property
    def _paths(self) -> Paths: ...


def forest_filter(x: Tensor, decay: float, forest: HasPaths, down: bool) -> Tensor:
    """`path_filter` along the paths of ``forest``, eager or compiled, in float32 at least.

    Raises:
        ValueError: if ``decay`` is outside (0, 1].
    """
    if not 0 < decay <= 1:
        raise ValueError(f"decay must lie in (0, 1]; got {decay}.")
    x = lifted(x)
    if torch.compiler.is_compiling():
        return cast(Tensor, compiled_filter(x, forest.parent, decay, down))
    return path_filter(x, decay, forest._paths, down)


def path_filter(x: Tensor, decay: float, paths: Paths, down: bool) -> Tensor:
    """Sums along paths, differentiable any number of times, in both modes; `torch.func` transforms it.

    ``y_n = Σ over proper ancestors a of n of decay^distance(a, n) · x_a``; ``down`` sums over proper descendants
    instead, which is the transpose.
    """
    return cast(Tensor, _PathFilter.apply(x, decay, paths, down))  # type: ignore[no-untyped-call]


class _PathFilter(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, decay: float, paths: Paths, down: bool) -> Tensor:
        return paths.sum(x, decay, down)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        ctx.options = inputs[1:]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        # The filter is linear: its derivative is its transpose, the same filter the other way.
        decay, paths, down = ctx.options
        return path_filter(grad, decay, paths, not down), None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *rest: None) -> Tensor:  # noqa: ARG004
        return path_filter(tangent, *ctx.options)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], x: Tensor, *options: Any) -> tuple[Tensor, int]:  # noqa: ARG004
        return torch.stack([path_filter(row, *options) for row in x.unbind(in_dims[0] or 0)]), 0


PREPARED = WeakTensorKeyDictionary()
"""The paths of forests that were prepared for compiled code, by their parents."""


@torch.library.custom_op("gflowdial::path_filter", mutates_args=())
def compiled_filter(x: Tensor, parent: Tensor, decay: float, down: bool) -> Tensor:
    """`path_filter` for compiled code, which does not look inside: the steps of a filter depend on the forest, and
    would be compiled anew for each."""
    paths: Paths | None = PREPARED.get(parent)  # type: ignore[no-untyped-call]
    return (TreeJumps.of(parent) if paths is None else paths).sum(x, decay, down)


@compiled_filter.register_fake
def _(x: Tensor, parent: Tensor, decay: float, down: bool) -> Tensor:  # noqa: ARG001
    return torch.empty_like(x)


def _remember_filter(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001
    _, parent, ctx.decay, ctx.down = inputs
    ctx.save_for_backward(parent)


def _transposed_filter(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
    (parent,) = ctx.saved_tensors
    return compiled_filter(grad, parent, ctx.decay, not ctx.down), None, None, None


compiled_filter.register_autograd(_transposed_filter, setup_context=_remember_filter)


def climb(table: Tensor, nodes: Tensor, steps: Tensor) -> Tensor:
    """The node ``steps`` above each of ``nodes``, where row k of ``table [rounds, nodes]`` has the node 2^k above."""
    return compiled_climb(table, nodes, steps) if torch.compiler.is_compiling() else _climb(table, nodes, steps)


def _climb(table: Tensor, nodes: Tensor, steps: Tensor) -> Tensor:
    # The binary digits of `steps` say which jumps lead there.
    for k, ancestors in enumerate(table):
        nodes = torch.where((steps >> k) & 1 == 1, ancestors[nodes], nodes)
    return nodes


@torch.library.custom_op("gflowdial::climb", mutates_args=())
def compiled_climb(table: Tensor, nodes: Tensor, steps: Tensor) -> Tensor:
    """`climb` for compiled code, for which the number of rounds is no constant."""
    return _climb(table, nodes, steps).clone()


@compiled_climb.register_fake
def _(table: Tensor, nodes: Tensor, steps: Tensor) -> Tensor:  # noqa: ARG001
    return torch.empty_like(nodes)


def _finite(peak: Tensor) -> Tensor:
    return torch.where(peak == -torch.inf, 0.0, peak)
