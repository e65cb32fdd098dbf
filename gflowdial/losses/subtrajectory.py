"""Subtrajectory balance over all ancestor pairs of a forest, in time and memory linear in its nodes."""

from dataclasses import dataclass
from typing import Any, Literal, cast

import torch

from gflowdial import segments
from gflowdial.filters import widest_block
from gflowdial.forest import Forest
from gflowdial.losses.equal_chains import TableMeasure, equal_chains_balance
from gflowdial.losses.inputs import anchored_flow, check, edge_residual, log_ratio
from gflowdial.losses.pairs import listed_pairs_sum
from gflowdial.losses.penalties import Penalty, squared
from gflowdial.precision import precise_dtype
from gflowdial.segments import Segments
from gflowdial.shapes import Float, Tensor

PairWeight = Literal["unique", "path"]
MOST_BLOCKS = 16


def subtrajectory_balance(
    log_flow: Float[Tensor, " nodes"],
    log_pf: Float[Tensor, " edges"],
    log_pb: Float[Tensor, " edges"] | None,
    log_reward: Float[Tensor, " leaves"],
    forest: Forest,
    *,
    decay: float = 0.9,
    pair_weight: PairWeight = "unique",
    penalty: Penalty = squared,
) -> Float[Tensor, ""]:
    """SubTB(λ): mismatch of flow over all subtrajectories, exact; in O(nodes) if the penalty is the square.

    ``(log F(n) - Σ over m→n of (log P_F - log P_B) - log F(m))²`` for every ancestor m of every node n, with
    log F := log R at leaves; averaged within each tree with weight ``decay^distance(m, n)``, then over trees; a
    single-node tree counts 0.

    Args:
        log_flow: log F of each state; entries at leaves are replaced by ``log_reward``.
        log_pf: forward log-probability of each action.
        log_pb: backward log-probability of each action; None means a tree, log P_B = 0.
        log_reward: log R of each leaf.
        forest: which state follows which.
        decay: λ in (0, 1].
        pair_weight: "unique" counts each ancestor pair once, "path" as often as root-to-leaf paths contain it, which
            equals listing every path as a trajectory of its own. On chains they are the same.
        penalty: what a residual costs; see `losses.penalties`. Any but `squared` takes time proportional to pairs, but
            memory proportional to nodes.

    Returns:
        The loss, computed in float64 and returned in the dtype of ``log_flow``.

    Raises:
        ValueError: if a shape does not fit the forest, or an option is out of range.

    Source: Madan et al., arXiv 2209.12782; the linear form is derived in docs/mathematics.md.
    """
    if penalty is squared and _is_table(forest, decay):
        _checked_pair_weight(pair_weight)
        check("log_flow", log_flow, forest, "node")
        check("log_pf", log_pf, forest, "edge")
        if log_pb is not None:
            check("log_pb", log_pb, forest, "edge")
        check("log_reward", log_reward, forest, "leaf")
        return equal_chains_balance(log_flow, log_pf, log_pb, log_reward, TableMeasure.of(forest, decay))
    residual = edge_residual(anchored_flow(log_flow, log_reward, forest), log_ratio(log_pf, log_pb, forest), forest)
    return pair_mean(residual, forest, decay, pair_weight, penalty).to(log_flow.dtype)


def _is_table(forest: Forest, decay: float) -> bool:
    """Whether trees are chains of one length, of `MOST_BLOCKS` blocks at most: these are scanned in turn."""
    # The measure of a table waits for the device, which compiled code cannot.
    if torch.compiler.is_compiling() or not 0 < decay <= 1 or forest.chain_size is None or forest.chain_size < 2:
        return False
    return decay == 1 or forest.chain_size <= MOST_BLOCKS * widest_block(decay, precise_dtype(forest.device))


def pair_mean(
    residual: Float[Tensor, " edges"], forest: Forest, decay: float, pair_weight: PairWeight, penalty: Penalty
) -> Float[Tensor, ""]:
    """The weighted mean over each tree's ancestor pairs of ``penalty(Σ residual over m→n)``, then over trees."""
    measure = pair_measure(forest, decay, pair_weight)
    if penalty is squared:
        return pair_energy(residual, forest, measure).mean()
    total = listed_pairs_sum(residual, forest, decay, node_weight(forest, pair_weight), penalty)
    return (total / measure.total.where(measure.total > 0, 1.0)).mean()


@dataclass(frozen=True, eq=False)
class PairMeasure:
    """How much each ancestor pair (m, n) counts: ``source_m · decay^distance(m, n) · sink_n``, as sums over pairs.

    Attributes:
        decay: λ.
        above: Σ over proper ancestors m of n of ``source_m · decay^distance(m, n)``.
        below: Σ over n and its descendants d of ``decay^distance(n, d) · sink_d``.
        total: the weight of all pairs of each tree.
    """

    decay: float
    above: Float[Tensor, " nodes"]
    below: Float[Tensor, " nodes"]
    total: Float[Tensor, " trees"]

    @staticmethod
    def of(
        forest: Forest, decay: float, source: Float[Tensor, " nodes"], sink: Float[Tensor, " nodes"]
    ) -> "PairMeasure":
        above = forest.ancestor_filter(source, decay)
        below = sink + forest.descendant_filter(sink, decay)
        return PairMeasure(
            decay, above, below, segments.sum(sink * above, Segments.from_ids(forest.tree, forest.num_trees))
        )


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


def pair_energy(residual: Float[Tensor, " edges"], forest: Forest, measure: PairMeasure) -> Float[Tensor, " trees"]:
    """The weighted mean over each tree's pairs of ``(Σ residual over m→n)²``; 0 for a tree without pairs.

    It is the quadratic form ``δᵀ M δ / Z`` with `pair_flux` as M: its gradient is ``2 M δ / Z``.
    """
    energy = cast(Tensor, _PairEnergy.apply(forest.edges_to_nodes(residual), forest, measure))  # type: ignore[no-untyped-call]
    return energy / torch.where(measure.total > 0, measure.total, 1.0)


def pair_flux(delta: Tensor, forest: Forest, measure: PairMeasure) -> Tensor:
    """``C_n = Σ over the pairs (a, d) whose path crosses the edge into n of weight · (Σ δ over a→d)``, ``[nodes]``.

    Linear in δ and symmetric. With the path split at n, the ancestors' part times the weight below plus the
    descendants' part times the weight above.
    """
    started = delta * measure.above
    flux = forest.ancestor_filter(started, measure.decay).add_(started).mul_(measure.below)
    del started
    return flux.addcmul_(measure.above, forest.descendant_filter(delta * measure.below, measure.decay))


class _PairEnergy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, delta: Tensor, forest: Forest, measure: PairMeasure) -> Tensor:
        flux = pair_flux(delta, forest, measure)
        ctx.save_for_backward(delta, flux)
        ctx.forest, ctx.measure = forest, measure
        return segments.sum(delta * flux, Segments.from_ids(forest.tree, forest.num_trees))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        delta, flux = ctx.saved_tensors
        if torch.is_grad_enabled():
            # The saved flux is a constant to autograd; a second derivative needs it as a function of delta.
            flux = pair_flux(delta, ctx.forest, ctx.measure)
        return 2 * grad[ctx.forest.tree] * flux, None, None
