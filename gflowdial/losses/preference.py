"""Preferences of a search between actions of one state: direct preference optimisation."""

from torch.nn.functional import logsigmoid

from gflowdial.forest import Forest
from gflowdial.losses.inputs import lift
from gflowdial.losses.reduction import weighted_tree_mean
from gflowdial.shapes import Float, Tensor


def dpo(
    log_pf: Float[Tensor, " edges"],
    log_reference: Float[Tensor, " edges"],
    search_value: Float[Tensor, " edges"],
    forest: Forest,
    *,
    beta: float = 0.1,
) -> Float[Tensor, ""]:
    """DPO: ``-log σ(beta · [(log P_F - log P_ref)(w) - (log P_F - log P_ref)(l)])`` over siblings with Q_w > Q_l.

    Averaged over the ordered pairs of each tree, then over trees; equal search values give no pair, and a tree without
    pairs counts 0. It learns an order of actions, not how much better one is.

    Args:
        log_pf: forward log-probability of each action, ``[edges]``.
        log_reference: log-probability of each action by the reference policy, ``[edges]``.
        search_value: what the search prefers, ``[edges]``: its Q, or its visit counts.
        forest: which actions are siblings.
        beta: β; the smaller, the further the policy may go from the reference.

    Returns:
        The loss, computed in float64 and returned in the dtype of ``log_pf``.

    Raises:
        ValueError: if a shape does not fit the forest.

    Source: Rafailov et al., arXiv 2305.18290.
    """
    shift = lift("log_pf", log_pf, forest, "edge") - lift("log_reference", log_reference, forest, "edge")
    searched = lift("search_value", search_value, forest, "edge")
    better, worse = forest.sibling_pairs
    ordered = (searched[better] > searched[worse]).to(shift.dtype)
    surprise = -logsigmoid(beta * (shift[better] - shift[worse]))
    return weighted_tree_mean(surprise, ordered, forest.edge_tree[better], forest).to(log_pf.dtype)
