"""Likelihood: of paths, and of the actions that a search or a person chose."""

import torch

from gflowdial import segments
from gflowdial.forest import Forest
from gflowdial.losses.inputs import lift, loss_dtype
from gflowdial.losses.reduction import Over, Reduction
from gflowdial.segments import Segments
from gflowdial.shapes import Float, Tensor


def maximum_likelihood(
    log_pf: Float[Tensor, " edges"],
    log_reward: Float[Tensor, " leaves"] | None,
    forest: Forest,
    *,
    reduction: Reduction = "mean",
    tree_weight: Float[Tensor, " trees"] | None = None,
) -> Float[Tensor, "*trees"]:
    """``-Σ over root→leaf of log P_F``, averaged over the leaves of each tree, then over trees.

    Without rewards every leaf counts alike: the paths are data. If objects are drawn from the target and their paths
    back to the root from P_B, it is least at the policy that samples the target backwards by P_B. With rewards a leaf
    counts in proportion to R within its tree: the cross-entropy from the target over these leaves to the policy, least
    at the balanced policy. The least value is the entropy of the paths, not 0.

    Args:
        log_pf: forward log-probability of each action, ``[edges]``.
        log_reward: log R of each leaf, ``[leaves]``, or None.
        forest: which state follows which.
        reduction: "mean", "none" or "pooled" over leaves; see `losses.reduction`.
        tree_weight: a factor of each tree's costs, ``[trees]``; None is 1.

    Returns:
        The loss, or with reduction "none" one value per tree: computed in float64 and returned in the dtype of
        ``log_pf``, at least float32.

    Raises:
        ValueError: if a shape or device does not fit the forest.

    Source: Zhang et al., arXiv 2209.02606.
    """
    over = Over(forest, reduction, tree_weight)
    surprise = -forest.leaf_sum(lift("log_pf", log_pf, forest, "edge"))
    if log_reward is None:
        return over.mean(surprise, forest.leaf_tree).to(loss_dtype(log_pf))
    trees = Segments.from_ids(forest.leaf_tree, forest.num_trees)
    share = segments.softmax(lift("log_reward", log_reward, forest, "leaf"), trees)
    values = segments.sum(share * surprise, trees)
    return over.reduce(values, lambda: torch.ones_like(values)).to(loss_dtype(log_pf))


def behaviour_cloning(
    log_pf: Float[Tensor, " edges"],
    visits: Float[Tensor, " edges"],
    forest: Forest,
    *,
    reduction: Reduction = "mean",
    tree_weight: Float[Tensor, " trees"] | None = None,
) -> Float[Tensor, "*trees"]:
    """``-Σ over actions of N(s,a)/N(s) · log P_F(a|s)`` of each state, averaged over a tree's states, then over trees.

    The cross-entropy of P_F to the visit counts of a search; with one visit per action, to what a person chose. Least
    where P_F is the visit distribution. A state without visits does not count; a tree without visits counts 0.

    Args:
        log_pf: forward log-probability of each action, normalised over all actions.
        visits: how often each action was taken, N(s,a) ≥ 0.
        forest: which state follows which.
        reduction: "mean", "none" or "pooled" over states; see `losses.reduction`.
        tree_weight: a factor of each tree's costs, ``[trees]``; None is 1.

    Returns:
        The loss, or with reduction "none" one value per tree: computed in float64 and returned in the dtype of
        ``log_pf``, at least float32.

    Raises:
        ValueError: if a shape or device does not fit the forest.

    Source: Silver et al., AlphaGo Zero, Nature 550 (2017), the policy term.
    """
    log_p, count = lift("log_pf", log_pf, forest, "edge"), lift("visits", visits, forest, "edge")
    total = count.new_zeros(forest.num_nodes).index_add(0, forest.edge_parent, count)[forest.edge_parent]
    share = count / total.where(total > 0, 1.0)
    # The shares of a state sum to 1, so that the sum of a tree's shares is the number of its states.
    surprise = torch.where(count > 0, -log_p, 0.0)
    return Over(forest, reduction, tree_weight).mean(surprise, forest.edge_tree, share).to(loss_dtype(log_pf))
