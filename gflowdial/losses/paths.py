"""Parts of losses on whole paths, to be put together: residuals, log Z of a group, weights and floors.

Published losses for language models are made of them::

    weight = losses.importance_weight(log_pf, log_behaviour, forest, low=0.8, high=1.2)
    logs = log_z, log_pf, log_reference, log_reward
    loss = losses.length_normalised_trajectory_balance(*logs, forest, leaf_weight=weight)

docs/papers.md has such a line for each paper. A function of inputs is a loss wherever one is read, see `loss_on`.
"""

import torch

from gflowdial import segments
from gflowdial.forest import Forest
from gflowdial.losses.inputs import group_segments, leaf_residual, lift, loss_dtype, path_ratio
from gflowdial.shapes import Float, Int, Tensor


def path_residual(
    log_z: Float[Tensor, ""] | Float[Tensor, " trees"],
    log_pf: Float[Tensor, " edges"],
    log_pb: Float[Tensor, " edges"] | None,
    log_reward: Float[Tensor, " leaves"],
    forest: Forest,
    *,
    length_normalised: bool = False,
) -> Float[Tensor, " leaves"]:
    """The residual of trajectory balance at each leaf, ``log R - log Z - Σ over root→leaf of (log P_F - log P_B)``.

    Args:
        log_z: log-partition, one for all trees, ``[]``, or one per tree, ``[trees]``.
        log_pf: forward log-probability of each action, ``[edges]``.
        log_pb: backward log-probability of each action, ``[edges]``; None means a tree, log P_B = 0.
        log_reward: log R of each leaf, ``[leaves]``.
        forest: which state follows which.
        length_normalised: take the mean along each path in place of the sum.

    Returns:
        The residuals, ``[leaves]``, in nats, in the dtype of ``log_pf``, at least float32. Differentiable.

    Raises:
        ValueError: if a shape or device does not fit the forest.

    Source: Malkin et al., arXiv 2201.13259; the mean: Zhu et al., arXiv 2509.15207.
    """
    reached = _reached(log_pf, log_pb, forest, length_normalised)
    return leaf_residual(log_z, reached, log_reward, forest).to(loss_dtype(log_pf))


def group_log_z(
    log_pf: Float[Tensor, " edges"],
    log_pb: Float[Tensor, " edges"] | None,
    log_reward: Float[Tensor, " leaves"],
    forest: Forest,
    *,
    group: Int[Tensor, " trees"],
    length_normalised: bool = False,
) -> Float[Tensor, " trees"]:
    """log Z of each tree from its group: the mean of ``log R - Σ over root→leaf of (log P_F - log P_B)``, no gradient.

    As ``log_z`` of `trajectory_balance` it gives the gradient of `log_partition_variance`, up to how groups of
    different sizes are weighed.

    Args:
        log_pf: forward log-probability of each action, ``[edges]``, by the policy or by the one that acted.
        log_pb: backward log-probability of each action, or that of a reference policy, ``[edges]``; None means 0.
        log_reward: log R of each leaf, ``[leaves]``.
        forest: which state follows which.
        group: an id for each tree, ``[trees]``, the same for trees that share log Z; any integers.
        length_normalised: take the mean along each path in place of the sum.

    Returns:
        log Z, ``[trees]``, in nats, in the dtype of ``log_pf``, at least float32.

    Raises:
        ValueError: if a shape or device does not fit the forest, or ``group`` has no integers.

    Source: Zhang et al., arXiv 2302.05446; per prompt: arXiv 2503.18929.
    """
    log_pb = None if log_pb is None else log_pb.detach()
    reached = _reached(log_pf.detach(), log_pb, forest, length_normalised)
    groups = group_segments(group, forest)
    mean = segments.mean(lift("log_reward", log_reward.detach(), forest, "leaf") - reached, groups)
    # Every leaf of a tree is of the tree's group.
    of_tree = groups.ids.new_zeros(forest.num_trees).index_copy(0, forest.leaf_tree, groups.ids)
    return mean[of_tree].to(loss_dtype(log_pf))


def importance_weight(
    log_pf: Float[Tensor, " edges"],
    log_behaviour: Float[Tensor, " edges"],
    forest: Forest,
    *,
    low: float = 0.0,
    high: float = float("inf"),
    length_normalised: bool = False,
) -> Float[Tensor, " leaves"]:
    """``clip(Π over root→leaf of P_F / P_behaviour, low, high)`` of each leaf, without gradient.

    Args:
        log_pf: log-probability of each action by the policy, ``[edges]``.
        log_behaviour: log-probability of each action by the policy that took it, ``[edges]``.
        forest: which state follows which.
        low: the least weight, 0 or more; 0 clips at the other side alone.
        high: the greatest weight; infinity clips at the other side alone.
        length_normalised: take the geometric mean along each path in place of the product.

    Returns:
        The weights, ``[leaves]``, in the dtype of ``log_pf``, at least float32.

    Raises:
        ValueError: if a shape or device does not fit the forest, or not ``0 <= low <= high``.

    Source: clipped on both sides Zhu et al., arXiv 2509.15207; from above alone arXiv 2607.13394.
    """
    if not 0 <= low <= high:
        raise ValueError(f"low is {low} and high {high}: give numbers with 0 <= low <= high.")
    shift = _reached(log_pf.detach(), log_behaviour.detach(), forest, length_normalised)
    return shift.exp().clamp(low, high).to(loss_dtype(log_pf))


def floored(log_reward: Float[Tensor, "*items"], floor: float) -> Float[Tensor, "*items"]:
    """``max(log R, floor)``: a reward of 0 becomes one that a loss can compare; NaN stays NaN.

    The target is that of the floored rewards, under which what had no reward is sampled now and then.

    Args:
        log_reward: log R of anything, -inf among it.
        floor: the least log R, in nats.

    Returns:
        log R, of the same shape and dtype; no gradient where the floor holds.

    Raises:
        ValueError: if ``floor`` is not finite.
    """
    if not abs(floor) < float("inf"):
        raise ValueError(f"floor is {floor}: give a finite number.")
    return log_reward.clamp(min=floor)


def _reached(log_pf: Tensor, log_pb: Tensor | None, forest: Forest, mean: bool) -> Float[Tensor, " leaves"]:
    total = path_ratio(log_pf, log_pb, forest)
    return total / forest.depth[forest.leaves].clamp(min=1) if mean else total


def absorbed_reward(
    log_reward: Float[Tensor, " nodes"],
    task_reward: Float[Tensor, " nodes"],
    forest: Forest,
    *,
    discount: float = 0.99,
    greatest: float = 0.5,
    sharpness: float = 5.0,
    distance: float = 0.0,
) -> Float[Tensor, " nodes"]:
    """log R of each state with what was earned below it: the targets of RapTB.

    ``log R(n) + discount^(h - depth n) · (target - task_reward)`` where the task has given nothing yet, that is
    ``|task_reward| <= 1e-6``; elsewhere log R. The target is ``greatest`` times the greatest task reward of the subtree
    of n, plus the rest times a soft maximum over its nodes d,
    ``log Σ exp(sharpness · (task_reward_d - distance · (depth d - depth n))) / sharpness``; h is the greatest depth of
    the subtree. On a chain the subtree is the rest of the text.

    Args:
        log_reward: log R of stopping in each state, ``[nodes]``.
        task_reward: the part of it that the task gives, without a reference policy's, ``[nodes]``.
        forest: which state follows which.
        discount: the weight per step up to the end, in (0, 1].
        greatest: the share of the greatest reward in the target, in [0, 1].
        sharpness: how near the soft maximum is to the greatest reward, above 0.
        distance: what a step costs in the soft maximum, in nats.

    Returns:
        log R, ``[nodes]``, in the dtype of ``log_reward``, at least float32; no gradient flows through the targets.

    Raises:
        ValueError: if a shape or device does not fit the forest, or an option is out of range.

    Source: Wang et al., arXiv 2603.00454.
    """
    if not (0 < discount <= 1 and 0 <= greatest <= 1 and sharpness > 0):
        raise ValueError(
            f"discount, greatest and sharpness are {discount}, {greatest} and {sharpness}: give numbers in (0, 1], in "
            "[0, 1] and above 0."
        )
    plain = lift("log_reward", log_reward, forest, "node")
    task = lift("task_reward", task_reward, forest, "node")
    depth = forest.depth.to(task.dtype)
    known = task.detach()
    best, deepest = _subtree_max(known, forest), _subtree_max(depth, forest)
    # Σ over the subtree counts depth from the root; what n lies above it is given back.
    soft = forest.subtree_logsumexp(sharpness * (known - distance * depth)) / sharpness + distance * depth
    target = greatest * best + (1 - greatest) * soft
    absorbed = plain + discount ** (deepest - depth) * (target - task)
    return torch.where(task.abs() <= 1e-6, absorbed, plain).to(loss_dtype(log_reward))


def _subtree_max(values: Float[Tensor, " nodes"], forest: Forest) -> Float[Tensor, " nodes"]:
    """The greatest of ``values`` in the subtree of each node."""
    best = values
    # Each round reaches twice as far as the one before.
    for nodes, ancestors in forest._jumps.tables:
        best = best.scatter_reduce(0, ancestors, best[nodes], "amax")
    return best
