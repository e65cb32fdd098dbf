"""Likelihood: of paths, and of the actions that a search or a person chose."""

import torch

from gflowdial import segments
from gflowdial.forest import Forest
from gflowdial.losses.inputs import lift
from gflowdial.losses.reduction import tree_mean, weighted_tree_mean
from gflowdial.segments import Segments
from gflowdial.shapes import Float, Tensor


def maximum_likelihood(
    log_pf: Float[Tensor, " edges"], log_reward: Float[Tensor, " leaves"] | None, forest: Forest
) -> Float[Tensor, ""]:
    """``-Σ over root→leaf of log P_F``, averaged over the leaves of each tree, then over trees.

    Without rewards every leaf counts alike: the paths are data. If objects are drawn from the target and their paths
    back to the root from P_B, it is least at the policy that samples the target backwards by P_B. With rewards a leaf
    counts in proportion to R within its tree: the cross-entropy from the target over these leaves to the policy, least
    at the balanced policy. The least value is the entropy of the paths, not 0.

    Args:
        log_pf: forward log-probability of each action, ``[edges]``.
        log_reward: log R of each leaf, ``[leaves]``, or None.
        forest: which state follows which.

    Returns:
        The loss, computed in float64 and returned in the dtype of ``log_pf``.

    Raises:
        ValueError: if a shape does not fit the forest.

    Source: Zhang et al., arXiv 2209.02606.
    """
    surprise = -forest.leaf_sum(lift("log_pf", log_pf, forest, "edge"))
    if log_reward is None:
        return tree_mean(surprise, forest.leaf_tree, forest).to(log_pf.dtype)
    trees = Segments.from_ids(forest.leaf_tree, forest.num_trees)
    share = segments.softmax(lift("log_reward", log_reward, forest, "leaf"), trees)
    return segments.sum(share * surprise, trees).mean().to(log_pf.dtype)


def behaviour_cloning(
    log_pf: Float[Tensor, " edges"], visits: Float[Tensor, " edges"], forest: Forest
) -> Float[Tensor, ""]:
    """``-Σ over actions of N(s,a)/N(s) · log P_F(a|s)`` of each state, averaged over a tree's states, then over trees.

    The cross-entropy of P_F to the visit counts of a search; with one visit per action, to what a person chose. Least
    where P_F is the visit distribution. A state without visits does not count; a tree without visits counts 0.

    Args:
        log_pf: forward log-probability of each action, normalised over all actions.
        visits: how often each action was taken, N(s,a) ≥ 0.
        forest: which state follows which.

    Returns:
        The loss, computed in float64 and returned in the dtype of ``log_pf``.

    Raises:
        ValueError: if a shape does not fit the forest.

    Source: Silver et al., AlphaGo Zero, Nature 550 (2017), the policy term.
    """
    log_p, count = lift("log_pf", log_pf, forest, "edge"), lift("visits", visits, forest, "edge")
    total = count.new_zeros(forest.num_nodes).index_add(0, forest.edge_parent, count)[forest.edge_parent]
    share = count / total.where(total > 0, 1.0)
    # The shares of a state sum to 1, so that the sum of a tree's shares is the number of its states.
    surprise = torch.where(count > 0, -log_p, 0.0)
    return weighted_tree_mean(surprise, share, forest.edge_tree, forest).to(log_pf.dtype)
