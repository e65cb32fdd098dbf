"""Policy gradients whose baseline is the learned flow: log F is the value, flow residuals are the advantages.

They are surrogates: the gradient is an estimate of that of ``KL(P_F ‖ R·P_B/Z)`` where the rollouts are the policy's
own, and the value of the loss has no meaning of its own.
"""

from gflowdial.forest import Forest
from gflowdial.losses.credit import counts_by_tree, discounted_residuals, rollout_share, taken_log_pf
from gflowdial.losses.inputs import lift, loss_dtype
from gflowdial.losses.reduction import Over, Reduction
from gflowdial.shapes import Float, Tensor


def policy_gradient(
    log_flow: Float[Tensor, " nodes"],
    log_pf: Float[Tensor, " edges"],
    log_pb: Float[Tensor, " edges"] | None,
    log_reward: Float[Tensor, " leaves"],
    forest: Forest,
    *,
    decay: float = 0.9,
    entropy: float = 1.0,
    value_weight: float = 0.5,
    leaf_visits: Float[Tensor, " leaves"] | None = None,
    reduction: Reduction = "mean",
    tree_weight: Float[Tensor, " trees"] | None = None,
) -> Float[Tensor, "*trees"]:
    """``Σ over turns of (-Â · log P_F + value_weight · (log F(s) - sg(log F(s) + Â))²)`` with Â of `turn_credit`.

    Averaged over the rollouts of each tree, then over trees; a single-node tree counts 0. No gradient flows through Â
    and sg. The second term moves log F to the λ-return of the policy: to its own soft value, which is log F of the
    exact flow once the policy is exact. Rollouts must be of the current policy, since no ratio corrects others.

    Args:
        log_flow: log F of each state, ``[nodes]``; entries at leaves are replaced by ``log_reward``.
        log_pf: forward log-probability of each action, ``[edges]``.
        log_pb: backward log-probability of each action, ``[edges]``; None means a tree, log P_B = 0.
        log_reward: log R of each leaf, ``[leaves]``; no gradient flows through it.
        forest: the rollouts, merged into trees or as chains.
        decay: λ of Â in [0, 1]: 1 is REINFORCE with a baseline, 0 takes the residual of one turn.
        entropy: 1 makes the policy sample in proportion to R; 0 makes it greatest in log R.
        value_weight: the weight of the squared term.
        leaf_visits: the number of rollouts that ended in each leaf, ``[leaves]``; None counts each leaf once.
        reduction: "mean", "none" or "pooled" over rollouts; see `losses.reduction`.
        tree_weight: a factor of each tree's costs, ``[trees]``; None is 1.

    Returns:
        The loss, or with reduction "none" one value per tree: computed in float64 and returned in the dtype of
        ``log_pf``, at least float32.

    Raises:
        ValueError: if a shape or device does not fit the forest, or ``decay`` is out of range.

    Source: Schulman et al., arXiv 1506.02438; for entropy-regularised values as flows Haarnoja et al., arXiv
    1702.08165, and Tiapkin et al., arXiv 2310.12934.
    """
    share = forest.edge_sum(rollout_share(leaf_visits, forest))
    logs = (log_flow, log_pf, log_pb, log_reward)
    credit = discounted_residuals(share, *logs, forest, decay=decay, entropy=entropy)
    over, rollouts = Over(forest, reduction, tree_weight), lambda: counts_by_tree(leaf_visits, forest)
    policy = over.sum(-(share * credit * taken_log_pf(log_pf, share, forest)), rollouts)
    error = over.sum(_value_error(log_flow, credit, share, forest), rollouts)
    return (policy + value_weight * error).to(loss_dtype(log_pf))


def reinforce(
    log_flow: Float[Tensor, " nodes"],
    log_pf: Float[Tensor, " edges"],
    log_pb: Float[Tensor, " edges"] | None,
    log_reward: Float[Tensor, " leaves"],
    forest: Forest,
    *,
    entropy: float = 1.0,
    value_weight: float = 0.5,
    leaf_visits: Float[Tensor, " leaves"] | None = None,
    reduction: Reduction = "mean",
    tree_weight: Float[Tensor, " trees"] | None = None,
) -> Float[Tensor, "*trees"]:
    """REINFORCE with a learned baseline: `policy_gradient` with the whole rest of the rollout, ``decay=1``.

    The advantage of a turn telescopes to ``log R - entropy · Σ from here on of (log P_F - log P_B) - log F(s)``: the
    return from the turn on less the value of the state where it began.

    Args:
        log_flow: log F of each state, ``[nodes]``; entries at leaves are replaced by ``log_reward``.
        log_pf: forward log-probability of each action, ``[edges]``.
        log_pb: backward log-probability of each action, ``[edges]``; None means a tree, log P_B = 0.
        log_reward: log R of each leaf, ``[leaves]``; no gradient flows through it.
        forest: the rollouts, merged into trees or as chains.
        entropy: 1 makes the policy sample in proportion to R; 0 makes it greatest in log R.
        value_weight: the weight of the squared error of the baseline.
        leaf_visits: the number of rollouts that ended in each leaf, ``[leaves]``; None counts each leaf once.
        reduction: "mean", "none" or "pooled" over rollouts; see `losses.reduction`.
        tree_weight: a factor of each tree's costs, ``[trees]``; None is 1.

    Returns:
        The loss, or with reduction "none" one value per tree: computed in float64 and returned in the dtype of
        ``log_pf``, at least float32.

    Raises:
        ValueError: if a shape or device does not fit the forest.

    Source: Williams, Machine Learning 8 (1992).
    """
    return policy_gradient(
        log_flow,
        log_pf,
        log_pb,
        log_reward,
        forest,
        decay=1.0,
        entropy=entropy,
        value_weight=value_weight,
        leaf_visits=leaf_visits,
        reduction=reduction,
        tree_weight=tree_weight,
    )


def ppo(
    log_flow: Float[Tensor, " nodes"],
    log_pf: Float[Tensor, " edges"],
    log_pb: Float[Tensor, " edges"] | None,
    log_reward: Float[Tensor, " leaves"],
    forest: Forest,
    *,
    decay: float = 0.95,
    clip: float = 0.2,
    entropy: float = 1.0,
    value_weight: float = 0.5,
    log_behaviour: Float[Tensor, " edges"] | None = None,
    leaf_visits: Float[Tensor, " leaves"] | None = None,
    reduction: Reduction = "mean",
    tree_weight: Float[Tensor, " trees"] | None = None,
) -> Float[Tensor, "*trees"]:
    """PPO with flow values: ``-min(r·Â, clip(r, 1 - clip, 1 + clip)·Â)`` of each turn, and the squared value error.

    ``r = P_F / P_behaviour`` of the action, Â as in `turn_credit`, of the current policy; averages and the value term
    as in `policy_gradient`, whose gradient this has where r = 1.

    Args:
        log_flow: log F of each state, ``[nodes]``; entries at leaves are replaced by ``log_reward``.
        log_pf: forward log-probability of each action, ``[edges]``.
        log_pb: backward log-probability of each action, ``[edges]``; None means a tree, log P_B = 0.
        log_reward: log R of each leaf, ``[leaves]``; no gradient flows through it.
        forest: the rollouts, merged into trees or as chains.
        decay: λ of Â in [0, 1].
        clip: how far r may lie from 1 before an action stops being pushed, above 0.
        entropy: 1 makes the policy sample in proportion to R; 0 makes it greatest in log R.
        value_weight: the weight of the squared term.
        log_behaviour: log-probability of each action by the policy that took it, ``[edges]``; None means the current
            one, r = 1.
        leaf_visits: the number of rollouts that ended in each leaf, ``[leaves]``; None counts each leaf once.
        reduction: "mean", "none" or "pooled" over rollouts; see `losses.reduction`.
        tree_weight: a factor of each tree's costs, ``[trees]``; None is 1.

    Returns:
        The loss, or with reduction "none" one value per tree: computed in float64 and returned in the dtype of
        ``log_pf``, at least float32.

    Raises:
        ValueError: if a shape or device does not fit the forest, or ``decay`` or ``clip`` is out of range.

    Source: Schulman et al., arXiv 1707.06347.
    """
    share = forest.edge_sum(rollout_share(leaf_visits, forest))
    logs = (log_flow, log_pf, log_pb, log_reward)
    credit = discounted_residuals(share, *logs, forest, decay=decay, entropy=entropy)
    gain = clipped_gain(credit.clamp(min=0), credit.clamp(max=0), log_pf, log_behaviour, share, forest, clip)
    over, rollouts = Over(forest, reduction, tree_weight), lambda: counts_by_tree(leaf_visits, forest)
    error = over.sum(_value_error(log_flow, credit, share, forest), rollouts)
    return (value_weight * error - over.sum(share * gain, rollouts)).to(loss_dtype(log_pf))


def clipped_gain(
    above: Float[Tensor, " edges"],
    below: Float[Tensor, " edges"],
    log_pf: Float[Tensor, " edges"],
    log_behaviour: Float[Tensor, " edges"] | None,
    share: Float[Tensor, " edges"],
    forest: Forest,
    clip: float,
) -> Float[Tensor, " edges"]:
    """``Σ of min(r·A, clip(r)·A)`` of each edge, where the positive advantages sum to ``above``, the others to
    ``below``.

    Raises:
        ValueError: if a shape does not fit the forest, or ``clip`` is not positive.
    """
    if not clip > 0:
        raise ValueError(f"clip is {clip}: give a number above 0.")
    now = taken_log_pf(log_pf, share, forest)
    before = (
        now.detach() if log_behaviour is None else taken_log_pf(log_behaviour, share, forest, "log_behaviour").detach()
    )
    ratio = (now - before).exp()
    return above * ratio.clamp(max=1 + clip) + below * ratio.clamp(min=1 - clip)


def _value_error(log_flow: Tensor, credit: Tensor, share: Tensor, forest: Forest) -> Float[Tensor, " edges"]:
    """What each turn adds to the mean over rollouts of ``Σ over turns of (log F(s) - sg(log F(s) + Â))²``."""
    value = lift("log_flow", log_flow, forest, "node")[forest.edge_parent]
    return share * (value - (value.detach() + credit)).square()
