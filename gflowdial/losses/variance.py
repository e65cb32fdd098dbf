"""Log-partition variance (VarGrad): trajectory balance that estimates log Z from the batch itself."""

from gflowdial import segments
from gflowdial.forest import Forest
from gflowdial.losses.inputs import group_segments, lift, path_ratio
from gflowdial.shapes import Float, Int, Tensor


def log_partition_variance(
    log_pf: Float[Tensor, " edges"],
    log_pb: Float[Tensor, " edges"] | None,
    log_reward: Float[Tensor, " leaves"],
    forest: Forest,
    *,
    group: Int[Tensor, " trees"],
) -> Float[Tensor, ""]:
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

    Returns:
        The loss, computed in float64 and returned in the dtype of ``log_pf``.

    Raises:
        ValueError: if a shape does not fit the forest, or ``group`` has no integers.

    Source: Zhang et al., arXiv 2302.05446, after VarGrad, Richter et al., arXiv 2010.10436.
    """
    log_z = lift("log_reward", log_reward, forest, "leaf") - path_ratio(log_pf, log_pb, forest)
    groups = group_segments(group, forest)
    deviation = log_z - segments.mean(log_z, groups)[groups.ids]
    return (segments.mean(deviation.square(), groups).sum() / (groups.ids.max() + 1)).to(log_pf.dtype)
