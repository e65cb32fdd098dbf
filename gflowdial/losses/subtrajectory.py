"""Subtrajectory balance over all ancestor pairs of a forest, in time and memory linear in its nodes."""

from dataclasses import dataclass
from typing import Literal

import torch

from gflowdial import segments
from gflowdial.filters import widest_block
from gflowdial.forest import Forest
from gflowdial.losses.equal_chains import TablePairs
from gflowdial.losses.pairs import listed_pairs_sum
from gflowdial.losses.penalties import Penalty, squared
from gflowdial.losses.quadratic import Given, Metric, quadratic
from gflowdial.losses.steps import StepResiduals
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
    steps = StepResiduals(forest)
    if penalty is squared:
        pairs = pair_metric(forest, decay, pair_weight)
        return quadratic(steps, pairs, log_flow, log_pf, log_pb, log_reward, dtype=log_flow.dtype)
    residual = steps.of(log_flow, log_pf, log_pb, log_reward)
    return pair_mean(residual, forest, decay, pair_weight, penalty).to(log_flow.dtype)


def pair_mean(
    residual: Float[Tensor, " edges"], forest: Forest, decay: float, pair_weight: PairWeight, penalty: Penalty
) -> Float[Tensor, ""]:
    """The weighted mean over each tree's ancestor pairs of ``penalty(Σ residual over m→n)``, then over trees."""
    if penalty is squared:
        return quadratic(Given(), pair_metric(forest, decay, pair_weight), residual, dtype=residual.dtype)
    sink = node_weight(forest, pair_weight)
    total = listed_pairs_sum(residual, forest, decay, sink, penalty)
    return (total * pair_measure(forest, decay, pair_weight).share).sum()


def pair_metric(forest: Forest, decay: float, pair_weight: PairWeight) -> Metric:
    """What makes of the one-step residuals the mean over all ancestor pairs of the squared residual.

    Raises:
        ValueError: if ``decay`` is outside (0, 1] or ``pair_weight`` is unknown.
    """
    if _is_table(forest, decay):
        _checked_pair_weight(pair_weight)
        return TablePairs.of(forest, decay)
    return Pairs(forest, pair_measure(forest, decay, pair_weight))


def _is_table(forest: Forest, decay: float) -> bool:
    """Whether trees are chains of one length, of `MOST_BLOCKS` blocks at most: these are scanned in turn."""
    if not 0 < decay <= 1 or forest.chain_size is None or forest.chain_size < 2:
        return False
    return decay == 1 or forest.chain_size <= MOST_BLOCKS * widest_block(decay, precise_dtype(forest.device))


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
        flux = forest.ancestor_filter(started, measure.decay).add_(started).mul_(measure.below)
        del started
        flux.addcmul_(measure.above, forest.descendant_filter(delta.mul_(measure.below), measure.decay))
        return flux.index_select(0, forest.edge_child)


def pair_energy(residual: Float[Tensor, " edges"], forest: Forest, measure: PairMeasure) -> Float[Tensor, ""]:
    """The mean of squared sums of ``residual`` over the pairs of any measure."""
    return quadratic(Given(), Pairs(forest, measure), residual, dtype=residual.dtype)
