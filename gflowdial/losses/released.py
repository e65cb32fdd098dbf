"""AFlow's objective as its two public releases compute it, and their ablations: terms for comparison.

The releases train on root-to-leaf paths, each by itself: every term here is the mean over the paths of each tree, then
over trees, in time linear in nodes. V is ``softplus`` of a head with one output per action. What differs between the
releases is which Q̂ a state is paired with, and β.

- First release (caf14c7): `released_flow_balance` with ``release="first"``, `released_kl` with β = 0.1, `value_margin`.
- Second release (2232f30): `released_flow_balance` with ``release="second"`` and `value_margin`; its β is 0.
- "Without flow balance" of the paper's ablations is `released_preference` and `value_margin`, "without process
  supervision" `released_flow_balance` and `released_kl`; "without search" has other data and the same loss.

Source: arXiv 2602.08826.
"""

from typing import Literal, get_args

import torch
from torch.nn.functional import logsigmoid

from gflowdial.forest import Forest
from gflowdial.losses.inputs import check_device, lift, loss_dtype
from gflowdial.losses.reduction import Over, Reduction
from gflowdial.numerics import precise_dtype
from gflowdial.shapes import Float, Tensor

Release = Literal["first", "second"]
LEAST_FLOW = 1e-6


def released_flow_balance(
    mean_return: Float[Tensor, " nodes"],
    value: Float[Tensor, " edges"],
    log_pf: Float[Tensor, " edges"],
    forest: Forest,
    *,
    release: Release = "second",
    reduction: Reduction = "mean",
    tree_weight: Float[Tensor, " trees"] | None = None,
) -> Float[Tensor, "*trees"]:
    """``(log F_n - log F_m - Σ over t from m to n of log P_F(a_t|s_t))²`` over the pairs m < n of turns of each path.

    ``F_t = max(Q̂_t · V(s_t, a_t), 1e-6)``, the flow of an action. Q̂_t is that of the action itself in the second
    release; in the first that of the action which led to s_t, and at the root the greatest of its actions. The sum
    begins one turn too early: a flow of actions is balanced without log P_F(a_m|s_m). So the term is not 0 at the exact
    flow. Averaged over the pairs of each path (0 for a path of one turn), then over paths, then over trees.

    Args:
        mean_return: the mean return Q̂ of what was searched below each node, ``[nodes]``, in units of the return.
        value: V(s, a) of each action, positive, ``[edges]``.
        log_pf: forward log-probability of each action, ``[edges]``.
        forest: the search trees.
        release: which of the two.
        reduction: "mean", "none" or "pooled" over leaves; see `losses.reduction`.
        tree_weight: a factor of each tree's costs, ``[trees]``; None is 1.

    Returns:
        The term, or with reduction "none" one value per tree: computed in float64 and returned in the dtype of
        ``log_pf``, at least float32.

    Raises:
        ValueError: if a shape or device does not fit the forest, or ``release`` is unknown.

    Source: arXiv 2602.08826, its code.
    """
    if release not in get_args(Release):
        raise ValueError(f"release is {release!r}: give 'first' or 'second'.")
    searched = lift("mean_return", mean_return, forest, "node")
    if release == "first":
        best = torch.full_like(searched, -torch.inf)
        best = best.scatter_reduce(0, forest.edge_parent, searched[forest.edge_child], "amax")
        paired = torch.where(forest.parent < 0, best, searched)[forest.edge_parent]
    else:
        paired = searched[forest.edge_child]
    log_flow = (paired * lift("value", value, forest, "edge")).clamp(min=LEAST_FLOW).log()
    reached = forest.root_sum(lift("log_pf", log_pf, forest, "edge"))
    # The residual of (m, n) is end_n - start_m, where start_m lacks the log P_F of its own action.
    end = log_flow - reached[forest.edge_child]
    start = forest.edges_to_nodes(log_flow - reached[forest.edge_parent])
    pairs_above = (forest.depth[forest.edge_child] - 1).to(end.dtype)
    total, squares = (forest.ancestor_filter(x)[forest.edge_child] for x in (start, start.square()))
    cost = forest.leaf_sum(pairs_above * end.square() - 2 * end * total + squares)
    turns = forest.depth[forest.leaves]
    return (
        Over(forest, reduction, tree_weight)
        .mean(cost / (turns * (turns - 1) / 2).clamp(min=1), forest.leaf_tree)
        .to(loss_dtype(log_pf))
    )


def released_kl(
    log_pf: Float[Tensor, " edges"],
    log_reference: Float[Tensor, " edges"],
    forest: Forest,
    *,
    weight: float = 0.1,
    reduction: Reduction = "mean",
    tree_weight: Float[Tensor, " trees"] | None = None,
) -> Float[Tensor, "*trees"]:
    """``weight · max(0, mean over turns of (log P_F - log P_ref))`` of each path: no divergence, and 0 where the policy
    makes the searched actions less likely than the reference does.

    Args:
        log_pf: forward log-probability of each action, ``[edges]``.
        log_reference: log-probability of each action by the reference policy, ``[edges]``.
        forest: the search trees.
        weight: β.
        reduction: "mean", "none" or "pooled" over leaves; see `losses.reduction`.
        tree_weight: a factor of each tree's costs, ``[trees]``; None is 1.

    Returns:
        The term, or with reduction "none" one value per tree: computed in float64 and returned in the dtype of
        ``log_pf``, at least float32.

    Raises:
        ValueError: if a shape or device does not fit the forest.

    Source: arXiv 2602.08826, its code; `reference_kl` is the KL.
    """
    shift = lift("log_pf", log_pf, forest, "edge") - lift("log_reference", log_reference, forest, "edge")
    return (
        weight * Over(forest, reduction, tree_weight).mean(torch.relu(_mean_turn(shift, forest)), forest.leaf_tree)
    ).to(loss_dtype(log_pf))


def value_margin(
    value: Float[Tensor, " edges"],
    negative_value: Float[Tensor, "edges negatives"],
    forest: Forest,
    *,
    margin: float = 1.0,
    reduction: Reduction = "mean",
    tree_weight: Float[Tensor, " trees"] | None = None,
) -> Float[Tensor, "*trees"]:
    """``max(0, margin - (V⁺ - V⁻))``: the mean over the turns of each path, with V itself and not its logarithm.

    The releases draw V⁻ at random from the three actions that the prior of the search likes least; here it is the mean
    over all three, which is the expectation. The negative action may be the positive one.

    Args:
        value: V(s, a) of each action, ``[edges]``.
        negative_value: V of the negative actions at the state that each edge leaves, ``[edges, negatives]``.
        forest: the search trees.
        margin: γ.
        reduction: "mean", "none" or "pooled" over leaves; see `losses.reduction`.
        tree_weight: a factor of each tree's costs, ``[trees]``; None is 1.

    Returns:
        The term, or with reduction "none" one value per tree: computed in float64 and returned in the dtype of
        ``value``, at least float32.

    Raises:
        ValueError: if a shape or device does not fit the forest.

    Source: arXiv 2602.08826, its code; `ranking_hinge` ranks by the search's values.
    """
    check_device("negative_value", negative_value, forest)
    negative = negative_value.to(precise_dtype(forest.device))
    hinge = torch.relu(margin - (lift("value", value, forest, "edge")[:, None] - negative)).mean(1)
    return Over(forest, reduction, tree_weight).mean(_mean_turn(hinge, forest), forest.leaf_tree).to(loss_dtype(value))


def released_preference(
    log_pf: Float[Tensor, " edges"],
    log_reference: Float[Tensor, " edges"],
    negative_log_pf: Float[Tensor, "edges negatives"],
    negative_log_reference: Float[Tensor, "edges negatives"],
    forest: Forest,
    *,
    beta: float = 1.0,
    reduction: Reduction = "mean",
    tree_weight: Float[Tensor, " trees"] | None = None,
) -> Float[Tensor, "*trees"]:
    """``-log σ(beta · [(log P_F - log P_ref)(a) - (log P_F - log P_ref)(a⁻)])``: the mean over the turns of each path.

    DPO of every searched action against those of `value_margin`, whatever the search found of either;
    `dpo` prefers by the search's values.

    Args:
        log_pf: forward log-probability of each action, ``[edges]``.
        log_reference: log-probability of each action by the reference policy, ``[edges]``.
        negative_log_pf: log P_F of the negative actions at the state that each edge leaves, ``[edges, negatives]``.
        negative_log_reference: the same of the reference policy.
        forest: the search trees.
        beta: β.
        reduction: "mean", "none" or "pooled" over leaves; see `losses.reduction`.
        tree_weight: a factor of each tree's costs, ``[trees]``; None is 1.

    Returns:
        The term, or with reduction "none" one value per tree: computed in float64 and returned in the dtype of
        ``log_pf``, at least float32.

    Raises:
        ValueError: if a shape or device does not fit the forest.

    Source: arXiv 2602.08826, its code for the ablation without flow balance; DPO: arXiv 2305.18290.
    """
    shift = lift("log_pf", log_pf, forest, "edge") - lift("log_reference", log_reference, forest, "edge")
    check_device("negative_log_pf", negative_log_pf, forest)
    check_device("negative_log_reference", negative_log_reference, forest)
    dtype = loss_dtype(negative_log_pf)
    negative = (negative_log_pf.to(dtype) - negative_log_reference.to(dtype)).to(shift.dtype)
    surprise = -logsigmoid(beta * (shift[:, None] - negative)).mean(1)
    return (
        Over(forest, reduction, tree_weight).mean(_mean_turn(surprise, forest), forest.leaf_tree).to(loss_dtype(log_pf))
    )


def _mean_turn(values: Float[Tensor, " edges"], forest: Forest) -> Float[Tensor, " leaves"]:
    """The mean over the turns of the path to each leaf; 0 for a path without any."""
    return forest.leaf_sum(values) / forest.depth[forest.leaves].clamp(min=1)
