"""Forward-looking balance: turns pay part of log R as they are taken, and the flow learns only what is still to come.

What is learned is F̃, with ``F(s) = F̃(s)·exp(Σ log_turn_reward over root→s)``. At a leaf it is replaced by the part of
``log_reward`` that the turns have not paid, ``log R - Σ log_turn_reward over root→leaf``: 0 if they pay all. The target
is that of the plain losses, R, however the turns share it out; what changes is what has to be learned.
"""

import torch

from gflowdial.forest import Forest
from gflowdial.losses.balance import detailed_balance
from gflowdial.losses.inputs import check, check_device, lift, loss_dtype
from gflowdial.losses.pair_metric import PairWeight
from gflowdial.losses.penalties import Penalty, squared
from gflowdial.losses.reduction import Reduction
from gflowdial.losses.subtrajectory import subtrajectory_balance
from gflowdial.shapes import Bool, Float, Tensor


def forward_looking_detailed_balance(
    log_flow: Float[Tensor, " nodes"],
    log_pf: Float[Tensor, " edges"],
    log_pb: Float[Tensor, " edges"] | None,
    log_reward: Float[Tensor, " leaves"],
    forest: Forest,
    *,
    log_turn_reward: Float[Tensor, " edges"],
    ended: Bool[Tensor, " leaves"] | None = None,
    penalty: Penalty = squared,
    reduction: Reduction = "mean",
    tree_weight: Float[Tensor, " trees"] | None = None,
) -> Float[Tensor, "*trees"]:
    """``(log F̃(s') + log P_B(s|s') + log_turn_reward(s→s') - log F̃(s) - log P_F(s'|s))²``, averaged as in
    `detailed_balance`.

    Args:
        log_flow: log F̃ of each state, ``[nodes]``; entries at leaves are replaced, see `losses.forward_looking`.
        log_pf: forward log-probability of each action, ``[edges]``.
        log_pb: backward log-probability of each action, ``[edges]``; None means a tree, log P_B = 0.
        log_reward: log R of each leaf, ``[leaves]``.
        forest: which state follows which.
        log_turn_reward: what each action adds to log R, ``[edges]``, any numbers.
        ended: which leaves are ends; at any other ``log_reward`` is log F̃, not log R. None: all.
        penalty: what a residual costs; see `losses.penalties`.
        reduction: "mean", "none" or "pooled" over edges; see `losses.reduction`.
        tree_weight: a factor of each tree's costs, ``[trees]``; None is 1.

    Returns:
        The loss, or with reduction "none" one value per tree: computed in float64 and returned in the dtype of
        ``log_flow``, at least float32.

    Raises:
        ValueError: if a shape or device does not fit the forest.

    Source: Pan et al., arXiv 2302.01687.
    """
    flow, log_reward = _whole(log_flow, log_reward, log_turn_reward, ended, forest)
    loss = detailed_balance(
        flow, log_pf, log_pb, log_reward, forest, penalty=penalty, reduction=reduction, tree_weight=tree_weight
    )
    return loss.to(loss_dtype(log_flow))


def forward_looking_subtrajectory_balance(
    log_flow: Float[Tensor, " nodes"],
    log_pf: Float[Tensor, " edges"],
    log_pb: Float[Tensor, " edges"] | None,
    log_reward: Float[Tensor, " leaves"],
    forest: Forest,
    *,
    log_turn_reward: Float[Tensor, " edges"],
    ended: Bool[Tensor, " leaves"] | None = None,
    decay: float = 0.9,
    pair_weight: PairWeight = "unique",
    penalty: Penalty = squared,
    reduction: Reduction = "mean",
    tree_weight: Float[Tensor, " trees"] | None = None,
) -> Float[Tensor, "*trees"]:
    """``(log F̃(n) + Σ over m→n of (log_turn_reward + log P_B - log P_F) - log F̃(m))²``, averaged as in
    `subtrajectory_balance`.

    Args:
        log_flow: log F̃ of each state, ``[nodes]``; entries at leaves are replaced, see `losses.forward_looking`.
        log_pf: forward log-probability of each action, ``[edges]``.
        log_pb: backward log-probability of each action, ``[edges]``; None means a tree, log P_B = 0.
        log_reward: log R of each leaf, ``[leaves]``.
        forest: which state follows which.
        log_turn_reward: what each action adds to log R, ``[edges]``, any numbers.
        ended: which leaves are ends; at any other ``log_reward`` is log F̃, not log R. None: all.
        decay: λ, the weight per step of a pair's distance, in (0, 1].
        pair_weight: "unique" counts each ancestor pair once, "path" as often as root-to-leaf paths contain it.
        penalty: what a residual costs; see `losses.penalties`. Any but the square takes time proportional to pairs.
        reduction: "mean", "none" or "pooled" over pairs; see `losses.reduction`.
        tree_weight: a factor of each tree's costs, ``[trees]``; None is 1.

    Returns:
        The loss, or with reduction "none" one value per tree: computed in float64 and returned in the dtype of
        ``log_flow``, at least float32.

    Raises:
        ValueError: if a shape or device does not fit the forest, or an option is out of range.

    Source: Pan et al., arXiv 2302.01687.
    """
    flow, log_reward = _whole(log_flow, log_reward, log_turn_reward, ended, forest)
    loss = subtrajectory_balance(
        flow,
        log_pf,
        log_pb,
        log_reward,
        forest,
        decay=decay,
        pair_weight=pair_weight,
        penalty=penalty,
        reduction=reduction,
        tree_weight=tree_weight,
    )
    return loss.to(loss_dtype(log_flow))


def _whole(
    log_flow: Tensor, log_reward: Tensor, log_turn_reward: Tensor, ended: Tensor | None, forest: Forest
) -> tuple[Float[Tensor, " nodes"], Float[Tensor, " leaves"]]:
    """log F of each node, and what holds each leaf: log R at an end, elsewhere log F."""
    paid = forest.root_sum(lift("log_turn_reward", log_turn_reward, forest, "edge"))
    check("log_reward", log_reward, forest, "leaf")
    if ended is not None:
        check_device("ended", ended, forest)
        log_reward = torch.where(ended, log_reward, log_reward + paid[forest.leaves])
    return lift("log_flow", log_flow, forest, "node") + paid, log_reward
