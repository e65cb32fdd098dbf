"""Balance where the environment replies at random: expected detailed balance, and stochastic GFlowNets."""

import torch

from gflowdial import segments
from gflowdial.forest import Forest
from gflowdial.losses.balance import detailed_balance
from gflowdial.losses.inputs import anchored_flow, check_device, edge_residual, lift, log_ratio, loss_dtype
from gflowdial.losses.penalties import Penalty, squared
from gflowdial.losses.reduction import Over, Reduction
from gflowdial.numerics import check_length
from gflowdial.segments import Segments
from gflowdial.shapes import Bool, Float, Tensor


def expected_detailed_balance(
    log_flow: Float[Tensor, " nodes"],
    log_pf: Float[Tensor, " edges"],
    log_reward: Float[Tensor, " leaves"],
    forest: Forest,
    *,
    chance: Bool[Tensor, " nodes"],
    penalty: Penalty = squared,
    reduction: Reduction = "mean",
    tree_weight: Float[Tensor, " trees"] | None = None,
) -> Float[Tensor, "*trees"]:
    """The agent sends flow, the environment averages it (EFlowNets).

    At a state where the agent acts, ``(log F(s') - log F(s) - log P_F(s'|s))²`` for each action; at a chance node,
    where the environment replies, ``(log Σ over replies of P_env(s'|s)·F(s') - log F(s))²`` once; log F := log R at
    leaves. Averaged over all these conditions of each tree, then over trees; a tree without edges counts 0.

    There is exactly one solution on every tree, whatever the environment does: flows from the leaves up, summed over
    actions and averaged over replies. The policy then takes each action in proportion to the flow it leads to. Leaves
    are not reached in proportion to R, which no policy could bring about: the replies are not its choice. log P_B has
    no place here, states are told apart by their history.

    Args:
        log_flow: log F of each state, ``[nodes]``; entries at leaves are replaced by ``log_reward``.
        log_pf: log P_F of each action, ``[edges]``; on edges out of chance nodes the environment's log P_env instead,
            known or learned (then detached, or it bends to balance the flow). All replies are in the forest: their
            probabilities sum to 1 at each chance node. Of n sampled replies each may stand for 1/n, at the price of a
            bias, since the logarithm of a mean is not linear.
        log_reward: log R of each leaf, ``[leaves]``.
        forest: which state follows which.
        chance: where the environment moves, ``bool [nodes]``; a leaf is an end, marked or not.
        penalty: what a residual costs; see `losses.penalties`.
        reduction: "mean", "none" or "pooled" over conditions; see `losses.reduction`.
        tree_weight: a factor of each tree's costs, ``[trees]``; None is 1.

    Returns:
        The loss, or with reduction "none" one value per tree: computed in float64 and returned in the dtype of
        ``log_flow``, at least float32.

    Raises:
        ValueError: if a shape or device does not fit the forest.

    Source: Jiralerspong et al., arXiv 2310.02779.
    """
    check_length("chance", chance, forest.num_nodes, "node")
    check_device("chance", chance, forest)
    flow = anchored_flow(log_flow, log_reward, forest)
    ratio = log_ratio(log_pf, None, forest)
    acts = ~chance[forest.edge_parent]
    by_action = torch.where(acts, edge_residual(flow, ratio, forest), 0.0)
    replies = Segments.from_ids(forest.edge_parent, forest.num_nodes)
    expected = segments.logsumexp(flow[forest.edge_child] + ratio, replies)
    averages = chance & (forest.num_children > 0)
    by_chance = torch.where(averages, expected, 0.0) - torch.where(averages, flow, 0.0)
    counts = torch.cat([acts, averages]).to(flow.dtype)
    tree = torch.cat([forest.edge_tree, forest.tree])
    costs = penalty(torch.cat([by_action, by_chance]))
    return Over(forest, reduction, tree_weight).mean(costs, tree, counts).to(loss_dtype(log_flow))


def stochastic_detailed_balance(
    log_flow: Float[Tensor, " nodes"],
    log_pf: Float[Tensor, " edges"],
    log_pb: Float[Tensor, " edges"] | None,
    log_reward: Float[Tensor, " leaves"],
    forest: Forest,
    *,
    log_dynamics: Float[Tensor, " edges"],
    penalty: Penalty = squared,
    reduction: Reduction = "mean",
    tree_weight: Float[Tensor, " trees"] | None = None,
) -> Float[Tensor, "*trees"]:
    """`detailed_balance` where a step is an action and the environment's answer (stochastic GFlowNets).

    ``(log F(s') + log P_B(s,a|s') - log F(s) - log P_F(a|s) - log P(s'|s,a))²``, log F := log R at leaves.

    A solution need not exist. It asks that leaves be reached in proportion to R although the environment has a say: on
    a tree with log P_B = 0, ``R(x) = Z · Π P_F·P`` along the path to every leaf, so the rewards of different answers to
    one action would have to stand in the ratio of their probabilities, which in general they do not. The minimum is
    then a compromise; `expected_detailed_balance` asks for something that can be had. Where a leaf can be reached by
    many paths and P_B is learned, the condition is weaker and may be met.

    Args:
        log_flow: log F of each state, ``[nodes]``; entries at leaves are replaced by ``log_reward``.
        log_pf: log P_F(a|s) of the action of each edge, ``[edges]``.
        log_pb: log P_B(s,a|s') of each edge, ``[edges]``; None means a tree, log P_B = 0.
        log_reward: log R of each leaf, ``[leaves]``.
        forest: which state follows which.
        log_dynamics: log P(s'|s,a) of each edge, ``[edges]``, by the environment or by a model of it. No gradient
            reaches it, or the model would bend to balance the flow; it learns by `dynamics_likelihood`.
        penalty: what a residual costs; see `losses.penalties`.
        reduction: "mean", "none" or "pooled" over edges; see `losses.reduction`.
        tree_weight: a factor of each tree's costs, ``[trees]``; None is 1.

    Returns:
        The loss, or with reduction "none" one value per tree: computed in float64 and returned in the dtype of
        ``log_flow``, at least float32.

    Raises:
        ValueError: if a shape or device does not fit the forest.

    Source: Pan et al., arXiv 2302.09465.
    """
    answer = lift("log_dynamics", log_dynamics, forest, "edge").detach()
    step = lift("log_pf", log_pf, forest, "edge") + answer
    return detailed_balance(
        log_flow,
        step,
        log_pb,
        log_reward,
        forest,
        penalty=penalty,
        reduction=reduction,
        tree_weight=tree_weight,
    )


def dynamics_likelihood(
    log_dynamics: Float[Tensor, " edges"],
    forest: Forest,
    *,
    reduction: Reduction = "mean",
    tree_weight: Float[Tensor, " trees"] | None = None,
) -> Float[Tensor, "*trees"]:
    """``-log P(s'|s,a)``, averaged over the edges of each tree, then over trees: how a model of the environment learns.

    Args:
        log_dynamics: log P(s'|s,a) of each edge by the model, ``[edges]``.
        forest: which state follows which.
        reduction: "mean", "none" or "pooled" over edges; see `losses.reduction`.
        tree_weight: a factor of each tree's costs, ``[trees]``; None is 1.

    Returns:
        The loss, or with reduction "none" one value per tree: computed in float64 and returned in the dtype of
        ``log_dynamics``, at least float32.

    Raises:
        ValueError: if a shape or device does not fit the forest.

    Source: Pan et al., arXiv 2302.09465.
    """
    surprise = -lift("log_dynamics", log_dynamics, forest, "edge")
    return Over(forest, reduction, tree_weight).mean(surprise, forest.edge_tree).to(loss_dtype(log_dynamics))
