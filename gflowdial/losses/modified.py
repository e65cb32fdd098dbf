"""Modified balance: every state may stop, so no flow has to be learned, ``F(s) = R(s) / P(stop|s)``.

The first argument is log P(stop|s), and log R is that of every state. Both losses vanish exactly when
``R(s)·P_F(s'|s)·P(stop|s') = R(s')·P_B(s|s')·P(stop|s)`` on every edge; then the policy stops at each state in
proportion to its R. For any R and P_B there is one such policy.
"""

from gflowdial.forest import Forest
from gflowdial.losses.inputs import edge_residual, lift, log_ratio, loss_dtype
from gflowdial.losses.pair_metric import PairWeight
from gflowdial.losses.penalties import Penalty, squared
from gflowdial.losses.reading import reads
from gflowdial.losses.reduction import Over, Reduction
from gflowdial.losses.subtrajectory import pair_mean
from gflowdial.shapes import Float, Tensor


@reads("stopping")
def modified_detailed_balance(
    log_stop: Float[Tensor, " nodes"],
    log_pf: Float[Tensor, " edges"],
    log_pb: Float[Tensor, " edges"] | None,
    log_reward: Float[Tensor, " nodes"],
    forest: Forest,
    *,
    penalty: Penalty = squared,
    reduction: Reduction = "mean",
    tree_weight: Float[Tensor, " trees"] | None = None,
) -> Float[Tensor, "*trees"]:
    """`detailed_balance` with ``log F(s) := log R(s) - log P(stop|s)`` at every state, leaves among them.

    Args:
        log_stop: log P(stop|s) of each state, ``[nodes]``; 0 where a trajectory must end.
        log_pf: log-probability of each action, ``[edges]``, in the same distribution as stopping: at each state the
            probabilities of its actions and of stopping sum to 1.
        log_pb: backward log-probability of each action, ``[edges]``; None means a tree, log P_B = 0.
        log_reward: log R of each state, ``[nodes]``, not of leaves only: the reward of stopping there.
        forest: which state follows which.
        penalty: what a residual costs; see `losses.penalties`.
        reduction: "mean", "none" or "pooled" over edges; see `losses.reduction`.
        tree_weight: a factor of each tree's costs, ``[trees]``; None is 1.

    Returns:
        The loss, or with reduction "none" one value per tree: computed in float64 and returned in the dtype of
        ``log_pf``, at least float32.

    Raises:
        ValueError: if a shape or device does not fit the forest.

    Source: Deleu et al., arXiv 2202.13903.
    """
    residual = _residual(log_stop, log_pf, log_pb, log_reward, forest)
    return Over(forest, reduction, tree_weight).mean(penalty(residual), forest.edge_tree).to(loss_dtype(log_pf))


@reads("stopping")
def modified_subtrajectory_balance(
    log_stop: Float[Tensor, " nodes"],
    log_pf: Float[Tensor, " edges"],
    log_pb: Float[Tensor, " edges"] | None,
    log_reward: Float[Tensor, " nodes"],
    forest: Forest,
    *,
    decay: float = 0.9,
    pair_weight: PairWeight = "unique",
    penalty: Penalty = squared,
    reduction: Reduction = "mean",
    tree_weight: Float[Tensor, " trees"] | None = None,
) -> Float[Tensor, "*trees"]:
    """`subtrajectory_balance` with ``log F(s) := log R(s) - log P(stop|s)`` at every state, leaves among them.

    Args:
        log_stop: log P(stop|s) of each state, ``[nodes]``; 0 where a trajectory must end.
        log_pf: log-probability of each action, ``[edges]``, in the same distribution as stopping: at each state the
            probabilities of its actions and of stopping sum to 1.
        log_pb: backward log-probability of each action, ``[edges]``; None means a tree, log P_B = 0.
        log_reward: log R of each state, ``[nodes]``, not of leaves only: the reward of stopping there.
        forest: which state follows which.
        decay: λ, the weight per step of a pair's distance, in (0, 1].
        pair_weight: "unique" counts each ancestor pair once, "path" as often as root-to-leaf paths contain it.
        penalty: what a residual costs; see `losses.penalties`. Any but the square takes time proportional to pairs.
        reduction: "mean", "none" or "pooled" over pairs; see `losses.reduction`.
        tree_weight: a factor of each tree's costs, ``[trees]``; None is 1.

    Returns:
        The loss, or with reduction "none" one value per tree: computed in float64 and returned in the dtype of
        ``log_pf``, at least float32.

    Raises:
        ValueError: if a shape or device does not fit the forest, or an option is out of range.

    Source: Hu et al., arXiv 2310.04363.
    """
    residual = _residual(log_stop, log_pf, log_pb, log_reward, forest)
    return pair_mean(residual, forest, decay, pair_weight, penalty, Over(forest, reduction, tree_weight)).to(
        loss_dtype(log_pf)
    )


def _residual(
    log_stop: Tensor, log_pf: Tensor, log_pb: Tensor | None, log_reward: Tensor, forest: Forest
) -> Float[Tensor, " edges"]:
    flow = lift("log_reward", log_reward, forest, "node") - lift("log_stop", log_stop, forest, "node")
    return edge_residual(flow, log_ratio(log_pf, log_pb, forest), forest)
