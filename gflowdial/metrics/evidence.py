"""Bounds of log Z from sampled trajectories: how well a policy covers the target where nothing can be enumerated.

Both bounds are means of the log-weight of a trajectory τ, which equals log Z on every τ exactly when the flow is
balanced. They differ in where the trajectories come from, and their gap is the sum of the two KL divergences between
``P_F(τ)`` and ``R(x) P_B(τ|x) / Z``. The lower bound cannot see what the policy misses; the upper bound can.
"""

import torch

from gflowdial import segments
from gflowdial.forest import Forest
from gflowdial.losses.inputs import lift, path_ratio
from gflowdial.metrics.groups import grouped
from gflowdial.segments import Segments
from gflowdial.shapes import Float, Tensor

__all__ = ["elbo", "eubo", "log_weights"]


def log_weights(
    log_pf: Float[Tensor, " edges"],
    log_pb: Float[Tensor, " edges"] | None,
    log_reward: Float[Tensor, " leaves"],
    forest: Forest,
) -> Float[Tensor, " trees"]:
    """``log R + Σ log P_B - Σ log P_F`` of each trajectory, in float64.

    Args:
        log_pf: forward log-probability of each action, that of the policy which is judged.
        log_pb: backward log-probability of each action; None means a tree, log P_B = 0.
        log_reward: log R of each trajectory's end.
        forest: chains, one a trajectory.

    Raises:
        ValueError: if a shape does not fit the forest, or a tree has more than one leaf.
    """
    if forest.num_leaves != forest.num_trees:
        raise ValueError("forest must hold trajectories, one leaf a tree; a search tree is no sample of a policy.")
    reached = path_ratio(log_pf, log_pb, forest)
    along = lift("log_reward", log_reward, forest, "leaf") - reached
    return torch.empty_like(along).index_copy(0, forest.leaf_tree, along)


def elbo(
    log_pf: Float[Tensor, " edges"],
    log_pb: Float[Tensor, " edges"] | None,
    log_reward: Float[Tensor, " leaves"],
    forest: Forest,
    conditions: Segments | None = None,
) -> Float[Tensor, " conditions"]:
    """Evidence lower bound: ``E_{τ ~ P_F} [log R + log P_B - log P_F] ≤ log Z``, estimated by the mean over ``forest``.

    Its distance below log Z is ``KL(P_F(τ) ‖ R(x) P_B(τ|x) / Z)``.

    Args:
        log_pf: see `log_weights`, as for the next two.
        log_pb: log P_B of each action.
        log_reward: log R of each trajectory's end.
        forest: trajectories **sampled from P_F itself**, without exploration.
        conditions: the condition of each trajectory, whose log Z is its own; None means that all share one.

    Raises:
        ValueError: as `log_weights`, or if a condition has no trajectory.

    Source: Malkin et al., arXiv 2210.00580.
    """
    return _mean(log_weights(log_pf, log_pb, log_reward, forest), conditions)


def eubo(
    log_pf: Float[Tensor, " edges"],
    log_pb: Float[Tensor, " edges"] | None,
    log_reward: Float[Tensor, " leaves"],
    forest: Forest,
    conditions: Segments | None = None,
) -> Float[Tensor, " conditions"]:
    """Evidence upper bound: ``E_{x ~ R/Z, τ ~ P_B(·|x)} [log R + log P_B - log P_F] ≥ log Z``, estimated by the mean.

    Its distance above log Z is ``KL(R(x) P_B(τ|x) / Z ‖ P_F(τ))``; it is infinite if the policy never does what one
    of the trajectories did.

    Args:
        log_pf: see `log_weights`, as for the next two.
        log_pb: log P_B of each action.
        log_reward: log R of each trajectory's end.
        forest: trajectories **sampled backward from ends that were drawn in proportion to R**.
        conditions: the condition of each trajectory, whose log Z is its own; None means that all share one.

    Raises:
        ValueError: as `log_weights`, or if a condition has no trajectory.

    Source: Blessing et al., arXiv 2406.07423.
    """
    return _mean(log_weights(log_pf, log_pb, log_reward, forest), conditions)


def _mean(weights: Tensor, conditions: Segments | None) -> Tensor:
    return segments.mean(weights, grouped(weights, conditions))
