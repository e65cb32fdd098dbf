"""Trajectory balance and detailed balance."""

from gflowdial.forest import Forest
from gflowdial.losses.inputs import lift, loss_dtype
from gflowdial.losses.penalties import Penalty, squared
from gflowdial.losses.reduction import Over, Reduction, Weights, mean_penalty
from gflowdial.losses.steps import PathResiduals, StepResiduals
from gflowdial.shapes import Float, Tensor


def trajectory_balance(
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
    """Mismatch of flow and reward over whole trajectories.

    ``(log R - log Z - Σ over root→leaf of (log P_F - log P_B))²``, averaged over the leaves of each tree, then over
    trees. A single-node tree has the one pair (root, root): ``(log R - log Z)²``.

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
        ValueError: if a shape or device does not fit the forest, or an option is unknown.

    Source: Malkin et al., arXiv 2201.13259; a log Z per condition: Zhang et al., arXiv 2302.05446.
    """
    logs, dtype, over = (log_z, log_pf, log_pb, log_reward), loss_dtype(log_pf), Over(forest, reduction, tree_weight)
    residuals = PathResiduals(forest)
    if leaf_weight is None and over.plain:
        return mean_penalty(residuals, Weights(forest.leaf_share), penalty, *logs, dtype=dtype)
    return over.mean(weighted(penalty(residuals.of(*logs)), leaf_weight, forest), forest.leaf_tree).to(dtype)


def detailed_balance(
    log_flow: Float[Tensor, " nodes"],
    log_pf: Float[Tensor, " edges"],
    log_pb: Float[Tensor, " edges"] | None,
    log_reward: Float[Tensor, " leaves"],
    forest: Forest,
    *,
    penalty: Penalty = squared,
    reduction: Reduction = "mean",
    tree_weight: Float[Tensor, " trees"] | None = None,
) -> Float[Tensor, "*trees"]:
    """Mismatch of flow over single steps.

    ``(log F(s') + log P_B(s|s') - log F(s) - log P_F(s'|s))²`` with log F := log R at leaves, averaged over the edges
    of each tree, then over trees; a tree without edges counts 0.

    Args:
        log_flow: log F of each state, ``[nodes]``; entries at leaves are replaced by ``log_reward``.
        log_pf: forward log-probability of each action, ``[edges]``.
        log_pb: backward log-probability of each action, ``[edges]``; None means a tree, log P_B = 0.
        log_reward: log R of each leaf, ``[leaves]``.
        forest: which state follows which.
        penalty: what a residual costs; see `losses.penalties`.
        reduction: "mean", "none" or "pooled" over edges; see `losses.reduction`.
        tree_weight: a factor of each tree's costs, ``[trees]``; None is 1.

    Returns:
        The loss, or with reduction "none" one value per tree: computed in float64 and returned in the dtype of
        ``log_flow``, at least float32.

    Raises:
        ValueError: if a shape or device does not fit the forest, or an option is unknown.

    Source: Bengio et al., arXiv 2111.09266.
    """
    logs, dtype, over = (
        (log_flow, log_pf, log_pb, log_reward),
        loss_dtype(log_flow),
        Over(forest, reduction, tree_weight),
    )
    residuals = StepResiduals(forest)
    if over.plain:
        return mean_penalty(residuals, Weights(forest.edge_share), penalty, *logs, dtype=dtype)
    return over.mean(penalty(residuals.of(*logs)), forest.edge_tree).to(dtype)


def weighted(
    costs: Float[Tensor, " leaves"], leaf_weight: Float[Tensor, " leaves"] | None, forest: Forest
) -> Float[Tensor, " leaves"]:
    """``leaf_weight · costs``; None is 1."""
    return costs if leaf_weight is None else lift("leaf_weight", leaf_weight, forest, "leaf") * costs
