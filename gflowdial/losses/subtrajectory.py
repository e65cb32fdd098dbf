"""Subtrajectory balance over all ancestor pairs of a forest, in time and memory linear in its nodes."""

from collections.abc import Callable

from gflowdial.forest import Forest
from gflowdial.losses.inputs import loss_dtype
from gflowdial.losses.pair_metric import PairMeasure, PairWeight, node_weight, pair_measure, pair_metric
from gflowdial.losses.pairs import listed_pairs_sum
from gflowdial.losses.penalties import Penalty, is_square, squared
from gflowdial.losses.quadratic import Given, Metric, quadratic
from gflowdial.losses.reduction import Over, Reduction
from gflowdial.losses.steps import StepResiduals
from gflowdial.shapes import Float, Tensor


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
    reduction: Reduction = "mean",
    tree_weight: Float[Tensor, " trees"] | None = None,
) -> Float[Tensor, "*trees"]:
    """SubTB(λ): mismatch of flow over all subtrajectories, exact; in O(nodes) if the penalty is the square.

    ``(log F(n) - Σ over m→n of (log P_F - log P_B) - log F(m))²`` for every ancestor m of every node n, with
    log F := log R at leaves; averaged within each tree with weight ``decay^distance(m, n)``, then over trees; a
    single-node tree counts 0.

    Args:
        log_flow: log F of each state, ``[nodes]``; entries at leaves are replaced by ``log_reward``.
        log_pf: forward log-probability of each action, ``[edges]``.
        log_pb: backward log-probability of each action, ``[edges]``; None means a tree, log P_B = 0.
        log_reward: log R of each leaf, ``[leaves]``.
        forest: which state follows which.
        decay: λ in (0, 1].
        pair_weight: "unique" counts each ancestor pair once, "path" as often as root-to-leaf paths contain it, which
            equals listing every path as a trajectory of its own. On chains they are the same.
        penalty: what a residual costs; see `losses.penalties`. Any but the square takes time proportional to pairs,
            but memory proportional to nodes.
        reduction: "mean", "none" or "pooled" over pairs; see `losses.reduction`.
        tree_weight: a factor of each tree's costs, ``[trees]``; None is 1.

    Returns:
        The loss, or with reduction "none" one value per tree: computed in float64 and returned in the dtype of
        ``log_flow``, at least float32.

    Raises:
        ValueError: if a shape or device does not fit the forest, or an option is out of range.

    Source: Madan et al., arXiv 2209.12782; the linear form is derived in docs/mathematics.md.
    """
    residuals = StepResiduals(forest)
    logs = (log_flow, log_pf, log_pb, log_reward)
    over = Over(forest, reduction, tree_weight)
    if over.plain and is_square(penalty):
        return quadratic(residuals, pair_metric(forest, decay, pair_weight), *logs, dtype=loss_dtype(log_flow))
    return pair_mean(residuals.of(*logs), forest, decay, pair_weight, penalty, over).to(loss_dtype(log_flow))


def pair_mean(
    residual: Float[Tensor, " edges"],
    forest: Forest,
    decay: float,
    pair_weight: PairWeight,
    penalty: Penalty,
    over: Over,
) -> Float[Tensor, "*trees"]:
    """The weighted mean over each tree's ancestor pairs of ``penalty(Σ residual over m→n)``, then over trees."""
    if is_square(penalty):
        metric = pair_metric(forest, decay, pair_weight)
        return energy(residual, metric, over, lambda: pair_measure(forest, decay, pair_weight))
    measure = pair_measure(forest, decay, pair_weight)
    shares = listed_pairs_sum(residual, forest, decay, node_weight(forest, pair_weight), penalty) * measure.share
    if over.plain:
        return shares.sum()
    return over.reduce(forest.num_trees * shares, lambda: measure.total)


def energy(
    residual: Float[Tensor, " edges"], metric: Metric, over: Over, measure: Callable[[], PairMeasure]
) -> Float[Tensor, "*trees"]:
    """The mean of squared sums of ``residual`` over the pairs of ``measure``, whose form is ``metric``."""
    if over.plain:
        return quadratic(Given(), metric, residual, dtype=residual.dtype)
    # The form has a block for each tree: what an edge's row adds belongs to its tree.
    return over.sum(residual * metric(residual), lambda: measure().total)
