"""Preferences of a search between actions of one state: direct preference optimisation."""

from torch.nn.functional import logsigmoid

from gflowdial.forest import Forest
from gflowdial.losses.inputs import lift, loss_dtype
from gflowdial.losses.reduction import Over, Reduction
from gflowdial.shapes import Float, Tensor


def dpo(
    log_pf: Float[Tensor, " edges"],
    log_reference: Float[Tensor, " edges"],
    search_value: Float[Tensor, " edges"],
    forest: Forest,
    *,
    beta: float = 0.1,
    reduction: Reduction = "mean",
    tree_weight: Float[Tensor, " trees"] | None = None,
) -> Float[Tensor, "*trees"]:
    """DPO: ``-log σ(beta · [(log P_F - log P_ref)(w) - (log P_F - log P_ref)(l)])`` over siblings with Q_w > Q_l.

    Averaged over the ordered pairs of each tree, then over trees; equal search values give no pair, and a tree without
    pairs counts 0. It learns an order of actions, not how much better one is.

    Args:
        log_pf: forward log-probability of each action, ``[edges]``.
        log_reference: log-probability of each action by the reference policy, ``[edges]``.
        search_value: what the search prefers, ``[edges]``: its Q, or its visit counts.
        forest: which actions are siblings.
        beta: β; the smaller, the further the policy may go from the reference.
        reduction: "mean", "none" or "pooled" over pairs; see `losses.reduction`.
        tree_weight: a factor of each tree's costs, ``[trees]``; None is 1.

    Returns:
        The loss, or with reduction "none" one value per tree: computed in float64 and returned in the dtype of
        ``log_pf``, at least float32.

    Raises:
        ValueError: if a shape or device does not fit the forest.

    Source: Rafailov et al., arXiv 2305.18290.
    """
    shift = lift("log_pf", log_pf, forest, "edge") - lift("log_reference", log_reference, forest, "edge")
    searched = lift("search_value", search_value, forest, "edge")
    better, worse = forest.sibling_pairs
    ordered = (searched[better] > searched[worse]).to(shift.dtype)
    surprise = -logsigmoid(beta * (shift[better] - shift[worse]))
    return Over(forest, reduction, tree_weight).mean(surprise, forest.edge_tree[better], ordered).to(loss_dtype(log_pf))
