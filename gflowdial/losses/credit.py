"""Credit of single turns: flow residuals as advantages, and how rollouts that share their beginnings are counted."""

import torch

from gflowdial import segments
from gflowdial.forest import Forest
from gflowdial.losses.inputs import anchored_flow, edge_residual, lift, log_ratio, loss_dtype
from gflowdial.numerics import precise_dtype
from gflowdial.segments import Segments
from gflowdial.shapes import Float, Tensor


def turn_credit(
    log_flow: Float[Tensor, " nodes"],
    log_pf: Float[Tensor, " edges"],
    log_pb: Float[Tensor, " edges"] | None,
    log_reward: Float[Tensor, " leaves"],
    forest: Forest,
    *,
    decay: float,
    entropy: float = 1.0,
    leaf_visits: Float[Tensor, " leaves"] | None = None,
) -> Float[Tensor, " edges"]:
    """The advantage of each action: ``Â_t = Σ over k ≥ t of decay^(k - t) · δ_k``, without gradient.

    ``δ_t = log F(s_{t+1}) - log F(s_t) - entropy · (log P_F - log P_B)`` is the residual of detailed balance, with
    log F := log R at leaves. It is the temporal difference of a problem whose reward is log R at the end and whose
    entropy counts, and its sum with decay is GAE. An edge that several rollouts passed has the mean over them; the time
    is linear in nodes.

    - At the exact flow every advantage is 0 (``entropy=1``).
    - Where log F is the policy's own soft value, ``E[log R - entropy · Σ (log P_F - log P_B)]`` of the rest of the
      rollout, the expectation is the exact advantage for every decay.
    - Where log F is wrong, decay 1 has no bias (log F is a baseline) and the greatest variance, decay 0 the least
      variance and the bias of log F. See docs/turn-credit.md.

    Args:
        log_flow: log F of each state, ``[nodes]``; entries at leaves are replaced by ``log_reward``.
        log_pf: forward log-probability of each action, ``[edges]``.
        log_pb: backward log-probability of each action, ``[edges]``; None means a tree, log P_B = 0.
        log_reward: log R of each leaf, ``[leaves]``.
        forest: the rollouts, merged into trees or as chains.
        decay: λ in [0, 1].
        entropy: the weight of the entropy: 1 has the flow's distribution as its target, 0 the greatest log R.
        leaf_visits: the number of rollouts that ended in each leaf, ``[leaves]``; None counts each leaf once.

    Returns:
        Â of each edge, ``[edges]``, in nats, in the dtype of ``log_pf``, at least float32; 0 where no rollout passed.

    Raises:
        ValueError: if a shape does not fit the forest, or ``decay`` is out of range.

    Source: Schulman et al., arXiv 1506.02438 (GAE); Nachum et al., arXiv 1702.08892 (path consistency); Madan et al.,
    arXiv 2209.12782 (SubTB(λ)).
    """
    share = forest.edge_sum(rollout_share(leaf_visits, forest))
    logs = (log_flow, log_pf, log_pb, log_reward)
    return discounted_residuals(share, *logs, forest, decay=decay, entropy=entropy).to(loss_dtype(log_pf))


def discounted_residuals(
    share: Float[Tensor, " edges"],
    log_flow: Float[Tensor, " nodes"],
    log_pf: Float[Tensor, " edges"],
    log_pb: Float[Tensor, " edges"] | None,
    log_reward: Float[Tensor, " leaves"],
    forest: Forest,
    *,
    decay: float,
    entropy: float,
) -> Float[Tensor, " edges"]:
    """`turn_credit` in `precise_dtype`, where ``share`` is in proportion to the rollouts through each edge."""
    ratio = log_ratio(log_pf.detach(), None if log_pb is None else log_pb.detach(), forest)
    flow = anchored_flow(log_flow.detach(), log_reward.detach(), forest)
    taken = share > 0
    # An edge that no rollout passed may hold anything, -inf too.
    delta = torch.where(taken, edge_residual(flow, entropy * ratio, forest), 0.0)
    if decay == 0:
        return delta
    # Rollouts below an edge are part of those through it: Σ over rollouts of later residuals is a sum over the subtree.
    passed = forest.edges_to_nodes(share * delta)
    total = passed + forest.descendant_filter(passed, decay)
    return total[forest.edge_child] / torch.where(taken, share, 1.0)


def rollout_share(leaf_visits: Float[Tensor, " leaves"] | None, forest: Forest) -> Float[Tensor, " leaves"]:
    """The weight of each leaf in the mean over the rollouts of each tree, then over trees; 0 in a tree without any.

    `Forest.edge_sum` of it is the weight of each edge in the same mean of sums over turns.
    """
    visits, total = counted(leaf_visits, forest), counts_by_tree(leaf_visits, forest)
    return visits / (forest.num_trees * total.where(total > 0, 1.0))[forest.leaf_tree]


def counted(leaf_visits: Float[Tensor, " leaves"] | None, forest: Forest) -> Float[Tensor, " leaves"]:
    """The number of rollouts that ended in each leaf, lifted; 1 where nothing is given."""
    if leaf_visits is None:
        return torch.ones(forest.num_leaves, dtype=precise_dtype(forest.device), device=forest.device)
    # Counts are data: a gradient would be one of the spread of a group, which has none at 0.
    return lift("leaf_visits", leaf_visits, forest, "leaf").detach()


def counts_by_tree(leaf_visits: Float[Tensor, " leaves"] | None, forest: Forest) -> Float[Tensor, " trees"]:
    """The number of rollouts in each tree."""
    return segments.sum(counted(leaf_visits, forest), Segments.from_ids(forest.leaf_tree, forest.num_trees))


def taken_log_pf(
    log_pf: Float[Tensor, " edges"], share: Float[Tensor, " edges"], forest: Forest, name: str = "log_pf"
) -> Float[Tensor, " edges"]:
    """log P_F, lifted, where a rollout passed; 0 without gradient elsewhere."""
    return torch.where(share > 0, lift(name, log_pf, forest, "edge"), 0.0)
