"""Trajectory balance as it is run on long texts, in two forms that no longer ask for the plain target.

The source has a reference policy in the place of P_B, as `relative_trajectory_balance` has.
"""

from gflowdial.forest import Forest
from gflowdial.losses.balance import weighted
from gflowdial.losses.inputs import leaf_residual, lift, loss_dtype, path_ratio
from gflowdial.losses.penalties import Penalty, squared
from gflowdial.losses.reduction import Over, Reduction
from gflowdial.shapes import Float, Tensor


def length_normalised_trajectory_balance(
    log_z: Float[Tensor, ""] | Float[Tensor, " trees"],
    log_pf: Float[Tensor, " edges"],
    log_pb: Float[Tensor, " edges"] | None,
    log_reward: Float[Tensor, " leaves"],
    forest: Forest,
    *,
    penalty: Penalty = squared,
    leaf_weight: Float[Tensor, " leaves"] | None = None,
    reduction: Reduction = "mean",
    tree_weight: Float[Tensor, " trees"] | None = None,
) -> Float[Tensor, "*trees"]:
    """``(log R - log Z - mean over root→leaf of (log P_F - log P_B))²``, averaged as in `trajectory_balance`.

    **The target changes.** Balance means ``P_F(τ) = P_B(τ)·(R/Z)^T`` for a trajectory of T actions: rewards are
    sharpened with length, long trajectories with R < Z all but vanish, and Z is the number that makes these
    probabilities sum to 1, not ΣR. On a tree there is always such a policy; where paths of different lengths lead to
    one state there need not be. With equal lengths the target is R^T. A single-node tree has T = 0 and the residual
    ``log R - log Z``.

    Args:
        log_z: log-partition, one for all trees, ``[]``, or one per tree, ``[trees]``, in nats like all logarithms here.
        log_pf: forward log-probability of each action, ``[edges]``.
        log_pb: backward log-probability of each action, ``[edges]``; None means a tree, log P_B = 0.
        log_reward: log R of each leaf, ``[leaves]``.
        forest: which state follows which.
        penalty: what a residual costs; see `losses.penalties`.
        leaf_weight: a factor of each leaf's cost, ``[leaves]``, for instance `importance_weight`; None is 1.
        reduction: "mean", "none" or "pooled" over leaves; see `losses.reduction`.
        tree_weight: a factor of each tree's costs, ``[trees]``; None is 1.

    Returns:
        The loss, or with reduction "none" one value per tree: computed in float64 and returned in the dtype of
        ``log_pf``, at least float32.

    Raises:
        ValueError: if a shape or device does not fit the forest.

    Source: Zhu et al., arXiv 2509.15207, with their reference policy as ``log_pb``.
    """
    average = path_ratio(log_pf, log_pb, forest) / forest.depth[forest.leaves].clamp(min=1)
    costs = weighted(penalty(leaf_residual(log_z, average, log_reward, forest)), leaf_weight, forest)
    return Over(forest, reduction, tree_weight).mean(costs, forest.leaf_tree).to(loss_dtype(log_pf))


def clipped_trajectory_balance(
    log_z: Float[Tensor, ""] | Float[Tensor, " trees"],
    log_pf: Float[Tensor, " edges"],
    log_pb: Float[Tensor, " edges"] | None,
    log_reward: Float[Tensor, " leaves"],
    forest: Forest,
    *,
    log_behaviour: Float[Tensor, " edges"],
    clip: float = 0.2,
    penalty: Penalty = squared,
    reduction: Reduction = "mean",
    tree_weight: Float[Tensor, " trees"] | None = None,
) -> Float[Tensor, "*trees"]:
    """`trajectory_balance` with the weight ``clip(Π over root→leaf of P_F / P_behaviour, 1 - clip, 1 + clip)`` on each
    trajectory, which no gradient flows through.

    **The target changes** where balance is out of reach: the weights are positive, so that a policy that balances every
    trajectory still costs 0, and no other does. But a policy that can't is no longer pulled towards the best fit on its
    own trajectories (the clipped weights are not the true ones) nor on those of the batch, but to something between
    the two that moves with ``clip``.

    Args:
        log_z: log-partition, one for all trees, ``[]``, or one per tree, ``[trees]``, in nats like all logarithms here.
        log_pf: forward log-probability of each action, ``[edges]``.
        log_pb: backward log-probability of each action, ``[edges]``; None means a tree, log P_B = 0.
        log_reward: log R of each leaf, ``[leaves]``.
        forest: which state follows which.
        log_behaviour: log-probability of each action by the policy that took it, ``[edges]``.
        clip: how far a weight may lie from 1, in (0, 1).
        penalty: what a residual costs; see `losses.penalties`.
        reduction: "mean", "none" or "pooled" over leaves; see `losses.reduction`.
        tree_weight: a factor of each tree's costs, ``[trees]``; None is 1.

    Returns:
        The loss, or with reduction "none" one value per tree: computed in float64 and returned in the dtype of
        ``log_pf``, at least float32.

    Raises:
        ValueError: if a shape or device does not fit the forest, or ``clip`` is out of range.

    Source: Zhu et al., arXiv 2509.15207.
    """
    if not 0 < clip < 1:
        raise ValueError(f"clip must lie in (0, 1); got {clip}.")
    shift = lift("log_pf", log_pf, forest, "edge") - lift("log_behaviour", log_behaviour, forest, "edge")
    weight = forest.leaf_sum(shift.detach()).exp().clamp(1 - clip, 1 + clip)
    residual = leaf_residual(log_z, path_ratio(log_pf, log_pb, forest), log_reward, forest)
    return (
        Over(forest, reduction, tree_weight).mean(weight * penalty(residual), forest.leaf_tree).to(loss_dtype(log_pf))
    )
