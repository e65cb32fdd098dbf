"""Log-partition variance (VarGrad): trajectory balance that estimates log Z from the batch itself."""

from gflowdial import segments
from gflowdial.forest import Forest
from gflowdial.losses.balance import weighted
from gflowdial.losses.inputs import group_segments, lift, loss_dtype, path_ratio
from gflowdial.losses.penalties import Penalty, squared
from gflowdial.losses.reduction import Over, Reduction
from gflowdial.shapes import Float, Int, Tensor


def log_partition_variance(
    log_pf: Float[Tensor, " edges"],
    log_pb: Float[Tensor, " edges"] | None,
    log_reward: Float[Tensor, " leaves"],
    forest: Forest,
    *,
    group: Int[Tensor, " trees"],
    penalty: Penalty = squared,
    leaf_weight: Float[Tensor, " leaves"] | None = None,
    reduction: Reduction = "mean",
    tree_weight: Float[Tensor, " trees"] | None = None,
) -> Float[Tensor, "*trees"]:
    """The variance of ``ζ = log R - Σ over root→leaf of (log P_F - log P_B)`` within each group, averaged over groups.

    At balance ζ is log Z on every trajectory. Groups are required because log Z differs between conditions: centring
    over trajectories of different prompts or scenes punishes a perfect policy for that difference. A group is all
    leaves of its trees, each counted once. Variance divides by their number, so a group of one leaf counts 0: such a
    batch teaches nothing.

    Args:
        log_pf: forward log-probability of each action, ``[edges]``.
        log_pb: backward log-probability of each action, ``[edges]``; None means a tree, log P_B = 0.
        log_reward: log R of each leaf, ``[leaves]``.
        forest: which state follows which.
        group: an id for each tree, ``[trees]``, the same for trees that share log Z (one prompt, one scene); any
            integers. ``torch.arange(forest.num_trees)`` makes every tree a group of its own.
        penalty: what a deviation from the mean of its group costs; see `losses.penalties`.
        leaf_weight: a factor of each leaf's cost, ``[leaves]``, for instance `importance_weight`; None is 1.
        reduction: "mean" over groups, "none" for the mean over the leaves of each tree, or "pooled" over leaves; see
            `losses.reduction`.
        tree_weight: a factor of each tree's costs, ``[trees]``; None is 1.

    Returns:
        The loss, or with reduction "none" one value per tree: computed in float64 and returned in the dtype of
        ``log_pf``, at least float32.

    Raises:
        ValueError: if a shape or device does not fit the forest, or ``group`` has no integers.

    Source: Zhang et al., arXiv 2302.05446, after VarGrad, Richter et al., arXiv 2010.10436.
    """
    log_z = lift("log_reward", log_reward, forest, "leaf") - path_ratio(log_pf, log_pb, forest)
    groups = group_segments(group, forest)
    deviation = log_z - segments.mean(log_z, groups)[groups.ids]
    over, costs = Over(forest, reduction, tree_weight), weighted(penalty(deviation), leaf_weight, forest)
    if over.plain:
        return (segments.mean(costs, groups).sum() / (groups.ids.max() + 1)).to(loss_dtype(log_pf))
    return over.mean(costs, forest.leaf_tree).to(loss_dtype(log_pf))
