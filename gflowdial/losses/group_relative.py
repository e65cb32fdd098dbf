"""Policy gradients whose baseline is the other rollouts of the same scene: no value is learned.

They are surrogates: the gradient is an estimate of that of ``KL(P_F ‖ R·P_B/Z)`` where the rollouts are the policy's
own, and the value of the loss has no meaning of its own.
"""

import torch

from gflowdial import segments
from gflowdial.forest import Forest
from gflowdial.losses.actor_critic import clipped_gain
from gflowdial.losses.credit import counted, counts_by_tree, rollout_share, taken_log_pf
from gflowdial.losses.inputs import group_segments, lift, loss_dtype, path_ratio
from gflowdial.losses.reduction import Over, Reduction
from gflowdial.segments import Segments
from gflowdial.shapes import Float, Int, Tensor


def rloo(
    log_pf: Float[Tensor, " edges"],
    log_pb: Float[Tensor, " edges"] | None,
    log_reward: Float[Tensor, " leaves"],
    forest: Forest,
    *,
    group: Int[Tensor, " trees"],
    entropy: float = 1.0,
    leaf_visits: Float[Tensor, " leaves"] | None = None,
    reduction: Reduction = "mean",
    tree_weight: Float[Tensor, " trees"] | None = None,
) -> Float[Tensor, "*trees"]:
    """REINFORCE leave-one-out: ``-(G - mean of G over the other rollouts of the group) · Σ over turns of log P_F``.

    ``G = log R - entropy · Σ over root→leaf of (log P_F - log P_B)``, without gradient; averaged over the rollouts of
    each tree, then over trees. A group of one rollout counts 0. With ``entropy=1`` and groups of n rollouts as chains
    the gradient is n / (2·(n - 1)) times that of `log_partition_variance`.

    Args:
        log_pf: forward log-probability of each action, ``[edges]``.
        log_pb: backward log-probability of each action, ``[edges]``; None means a tree, log P_B = 0.
        log_reward: log R of each leaf, ``[leaves]``; no gradient flows through it.
        forest: the rollouts, merged into trees or as chains.
        group: an id for each tree, ``[trees]``, the same for rollouts of one scene; any integers.
        entropy: 1 makes the policy sample in proportion to R; 0 makes it greatest in log R.
        leaf_visits: the number of rollouts that ended in each leaf, ``[leaves]``; None counts each leaf once. Rollouts
            that ended in one leaf count each, and are baselines of each other.
        reduction: "mean", "none" or "pooled" over rollouts; see `losses.reduction`.
        tree_weight: a factor of each tree's costs, ``[trees]``; None is 1.

    Returns:
        The loss, or with reduction "none" one value per tree: computed in float64 and returned in the dtype of
        ``log_pf``, at least float32.

    Raises:
        ValueError: if a shape or device does not fit the forest, or ``group`` has no integers.

    Source: Ahmadian et al., arXiv 2402.14740, after Kool et al., ICLR 2019 workshop.
    """
    visits, share = counted(leaf_visits, forest), rollout_share(leaf_visits, forest)
    groups = group_segments(group, forest)
    gain = _returns(log_pf, log_pb, log_reward, visits, forest, entropy)
    mean, number = _mean(gain, visits, groups), segments.sum(visits, groups)
    # What G is above the mean of the others is n / (n - 1) times what it is above the mean of all.
    others = torch.where(number > 1, number / (number - 1).where(number > 1, 1.0), 0.0)
    advantage = others[groups.ids] * (gain - mean[groups.ids])
    at_edge = forest.edge_sum(share * advantage)
    gained = at_edge * taken_log_pf(log_pf, forest.edge_sum(share), forest)
    return (
        -Over(forest, reduction, tree_weight)
        .sum(gained, lambda: counts_by_tree(leaf_visits, forest))
        .to(loss_dtype(log_pf))
    )


def grpo(
    log_pf: Float[Tensor, " edges"],
    log_pb: Float[Tensor, " edges"] | None,
    log_reward: Float[Tensor, " leaves"],
    forest: Forest,
    *,
    group: Int[Tensor, " trees"],
    entropy: float = 1.0,
    clip: float = 0.2,
    log_behaviour: Float[Tensor, " edges"] | None = None,
    leaf_visits: Float[Tensor, " leaves"] | None = None,
    reduction: Reduction = "mean",
    tree_weight: Float[Tensor, " trees"] | None = None,
) -> Float[Tensor, "*trees"]:
    """GRPO: ``-mean over turns of min(r·A, clip(r, 1 - clip, 1 + clip)·A)`` with ``A = (G - mean) / (std + 1e-4)``.

    Mean and standard deviation (of the population) are those of G over the rollouts of the group; G is that of `rloo`,
    ``r = P_F / P_behaviour`` of the action. Averaged over the rollouts of each tree, then over trees. The division by
    std and by the number of turns biases the gradient. A KL term is another loss: add `reference_kl`.

    Args:
        log_pf: forward log-probability of each action, ``[edges]``.
        log_pb: backward log-probability of each action, ``[edges]``; None means a tree, log P_B = 0.
        log_reward: log R of each leaf, ``[leaves]``; no gradient flows through it.
        forest: the rollouts, merged into trees or as chains.
        group: an id for each tree, ``[trees]``, the same for rollouts of one scene; any integers.
        entropy: 0 is GRPO as published, the return log R; 1 counts the entropy in the return.
        clip: how far r may lie from 1 before an action stops being pushed, above 0.
        log_behaviour: log-probability of each action by the policy that took it, ``[edges]``; None means the current
            one, r = 1.
        leaf_visits: the number of rollouts that ended in each leaf, ``[leaves]``; None counts each leaf once.
        reduction: "mean", "none" or "pooled" over rollouts; see `losses.reduction`.
        tree_weight: a factor of each tree's costs, ``[trees]``; None is 1.

    Returns:
        The loss, or with reduction "none" one value per tree: computed in float64 and returned in the dtype of
        ``log_pf``, at least float32.

    Raises:
        ValueError: if a shape or device does not fit the forest, ``group`` has no integers, or ``clip`` is out of
            range.

    Source: Shao et al., arXiv 2402.03300; the bias: Liu et al., arXiv 2503.20783.
    """
    visits, share = counted(leaf_visits, forest), rollout_share(leaf_visits, forest)
    groups = group_segments(group, forest)
    gain = _returns(log_pf, log_pb, log_reward, visits, forest, entropy)
    deviation = gain - _mean(gain, visits, groups)[groups.ids]
    spread = _mean(deviation.square(), visits, groups).sqrt()[groups.ids]
    advantage = share * deviation / (spread + 1e-4) / forest.depth[forest.leaves].clamp(min=1)
    above, below = (forest.edge_sum(part) for part in (advantage.clamp(min=0), advantage.clamp(max=0)))
    gained = clipped_gain(above, below, log_pf, log_behaviour, forest.edge_sum(share), forest, clip)
    return (
        -Over(forest, reduction, tree_weight)
        .sum(gained, lambda: counts_by_tree(leaf_visits, forest))
        .to(loss_dtype(log_pf))
    )


def _returns(
    log_pf: Tensor, log_pb: Tensor | None, log_reward: Tensor, visits: Tensor, forest: Forest, entropy: float
) -> Float[Tensor, " leaves"]:
    """G of each leaf, without gradient; 0 where no rollout ended."""
    spent = path_ratio(log_pf.detach(), None if log_pb is None else log_pb.detach(), forest)
    gain = lift("log_reward", log_reward.detach(), forest, "leaf") - entropy * spent
    return torch.where(visits > 0, gain, 0.0)


def _mean(values: Tensor, visits: Tensor, groups: Segments) -> Float[Tensor, " groups"]:
    """The mean over the rollouts of each group; 0 without any."""
    number = segments.sum(visits, groups)
    return segments.sum(visits * values, groups) / number.where(number > 0, 1.0)
