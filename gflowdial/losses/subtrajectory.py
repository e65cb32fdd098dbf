"""Subtrajectory balance over all ancestor pairs of a forest, in time and memory linear in its nodes."""

from gflowdial.forest import Forest
from gflowdial.losses.pair_metric import PairWeight, node_weight, pair_measure, pair_metric
from gflowdial.losses.pairs import listed_pairs_sum
from gflowdial.losses.penalties import Penalty, is_square, squared
from gflowdial.losses.quadratic import Given, quadratic
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
) -> Float[Tensor, ""]:
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

    Returns:
        The loss, computed in float64 and returned in the dtype of ``log_flow``.

    Raises:
        ValueError: if a shape does not fit the forest, or an option is out of range.

    Source: Madan et al., arXiv 2209.12782; the linear form is derived in docs/mathematics.md.
    """
    residuals = StepResiduals(forest)
    logs = (log_flow, log_pf, log_pb, log_reward)
    if is_square(penalty):
        return quadratic(residuals, pair_metric(forest, decay, pair_weight), *logs, dtype=log_flow.dtype)
    return pair_mean(residuals.of(*logs), forest, decay, pair_weight, penalty).to(log_flow.dtype)


def pair_mean(
    residual: Float[Tensor, " edges"], forest: Forest, decay: float, pair_weight: PairWeight, penalty: Penalty
) -> Float[Tensor, ""]:
    """The weighted mean over each tree's ancestor pairs of ``penalty(Σ residual over m→n)``, then over trees."""
    if is_square(penalty):
        return quadratic(Given(), pair_metric(forest, decay, pair_weight), residual, dtype=residual.dtype)
    sink = node_weight(forest, pair_weight)
    total = listed_pairs_sum(residual, forest, decay, sink, penalty)
    return (total * pair_measure(forest, decay, pair_weight).share).sum()
