"""Log-partition variance (VarGrad): trajectory balance that estimates log Z from the batch itself."""

import torch

from gflowdial import segments
from gflowdial.forest import Forest
from gflowdial.losses.inputs import lift, path_ratio
from gflowdial.numerics import check_length
from gflowdial.segments import Segments
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
    check_length("group", group, forest.num_trees, "tree")
    if group.is_floating_point() or group.dtype == torch.bool:
        raise ValueError(f"group must hold integers; got {group.dtype}.")
    log_z = lift("log_reward", log_reward, forest, "leaf") - path_ratio(log_pf, log_pb, forest)
    number = _numbered(group)
    groups = Segments.from_ids(number[forest.leaf_tree], forest.num_trees)
    deviation = log_z - segments.mean(log_z, groups)[groups.ids]
    return (segments.mean(deviation.square(), groups).sum() / (number.max() + 1)).to(log_pf.dtype)


def _numbered(group: Int[Tensor, " trees"]) -> Int[Tensor, " trees"]:
    """The same groups, numbered from 0 without gaps; without waiting for the device."""
    ordered, order = group.sort()
    number = torch.nn.functional.pad((ordered.diff() != 0).long(), (1, 0)).cumsum(0)
    return torch.empty_like(number).index_copy(0, order, number)
