"""Relative balance: a policy tilted away from a reference policy, as far as the reward asks.

The target samples a trajectory τ in proportion to ``π_ref(τ)·R^(1/temperature)``. The reference is in the place of P_B
in the plain losses; what is learned there as a flow is here the expected ``R^(1/temperature)`` of going on by the
reference. A balanced policy exists for every reference, on trees and on other graphs.
"""

from gflowdial.forest import Forest
from gflowdial.losses.balance import trajectory_balance
from gflowdial.losses.inputs import check, lift
from gflowdial.losses.pair_metric import PairWeight
from gflowdial.losses.penalties import Penalty, squared
from gflowdial.losses.reduction import Reduction
from gflowdial.losses.subtrajectory import subtrajectory_balance
from gflowdial.shapes import Float, Tensor


def relative_trajectory_balance(
    log_z: Float[Tensor, ""] | Float[Tensor, " trees"],
    log_pf: Float[Tensor, " edges"],
    log_reference: Float[Tensor, " edges"],
    log_reward: Float[Tensor, " leaves"],
    forest: Forest,
    *,
    temperature: float = 1.0,
    penalty: Penalty = squared,
    leaf_weight: Float[Tensor, " leaves"] | None = None,
    reduction: Reduction = "mean",
    tree_weight: Float[Tensor, " trees"] | None = None,
) -> Float[Tensor, "*trees"]:
    """``(log R / temperature - log Z - Σ over root→leaf of (log P_F - log π_ref))²``, averaged as in
    `trajectory_balance`.

    Args:
        log_z: log-partition, one for all trees, ``[]``, or one per tree, ``[trees]``, in nats like all logarithms here.
        log_pf: forward log-probability of each action, ``[edges]``.
        log_reference: log π_ref of each action, ``[edges]``; no gradient is stopped here.
        log_reward: log R of each leaf, ``[leaves]``.
        forest: which state follows which.
        temperature: above 1 the policy stays nearer to the reference, below 1 it follows the reward more.
        penalty: what a residual costs; see `losses.penalties`.
        leaf_weight: a factor of each leaf's cost, ``[leaves]``, for instance `importance_weight`; None is 1.
        reduction: "mean", "none" or "pooled" over leaves; see `losses.reduction`.
        tree_weight: a factor of each tree's costs, ``[trees]``; None is 1.

    Returns:
        The loss, or with reduction "none" one value per tree: computed in float64 and returned in the dtype of
        ``log_pf``, at least float32.

    Raises:
        ValueError: if a shape or device does not fit the forest, or ``temperature`` is not positive.

    Source: Venkatraman et al., arXiv 2405.20971.
    """
    check("log_reference", log_reference, forest, "edge")
    tempered = _tempered(log_reward, temperature, forest)
    return trajectory_balance(
        log_z,
        log_pf,
        log_reference,
        tempered,
        forest,
        penalty=penalty,
        leaf_weight=leaf_weight,
        reduction=reduction,
        tree_weight=tree_weight,
    )


def relative_subtrajectory_balance(
    log_flow: Float[Tensor, " nodes"],
    log_pf: Float[Tensor, " edges"],
    log_reference: Float[Tensor, " edges"],
    log_reward: Float[Tensor, " leaves"],
    forest: Forest,
    *,
    temperature: float = 1.0,
    decay: float = 0.9,
    pair_weight: PairWeight = "unique",
    penalty: Penalty = squared,
    reduction: Reduction = "mean",
    tree_weight: Float[Tensor, " trees"] | None = None,
) -> Float[Tensor, "*trees"]:
    """``(log F(n) - Σ over m→n of (log P_F - log π_ref) - log F(m))²`` with ``log F := log R / temperature`` at leaves,
    averaged as in `subtrajectory_balance`.

    Args:
        log_flow: log F of each state, ``[nodes]``; entries at leaves are replaced by
            ``log_reward / temperature``.
        log_pf: forward log-probability of each action, ``[edges]``.
        log_reference: log π_ref of each action, ``[edges]``; no gradient is stopped here.
        log_reward: log R of each leaf, ``[leaves]``.
        forest: which state follows which.
        temperature: above 1 the policy stays nearer to the reference, below 1 it follows the reward more.
        decay: λ, the weight per step of a pair's distance, in (0, 1].
        pair_weight: "unique" counts each ancestor pair once, "path" as often as root-to-leaf paths contain it.
        penalty: what a residual costs; see `losses.penalties`. Any but the square takes time proportional to pairs.
        reduction: "mean", "none" or "pooled" over pairs; see `losses.reduction`.
        tree_weight: a factor of each tree's costs, ``[trees]``; None is 1.

    Returns:
        The loss, or with reduction "none" one value per tree: computed in float64 and returned in the dtype of
        ``log_flow``, at least float32.

    Raises:
        ValueError: if a shape or device does not fit the forest, ``temperature`` is not positive, or an option is
            out of range.

    Source: the relative residual of arXiv 2405.20971 over the pairs of arXiv 2209.12782.
    """
    check("log_reference", log_reference, forest, "edge")
    tempered = _tempered(log_reward, temperature, forest)
    return subtrajectory_balance(
        log_flow,
        log_pf,
        log_reference,
        tempered,
        forest,
        decay=decay,
        pair_weight=pair_weight,
        penalty=penalty,
        reduction=reduction,
        tree_weight=tree_weight,
    )


def _tempered(log_reward: Tensor, temperature: float, forest: Forest) -> Float[Tensor, " leaves"]:
    if temperature <= 0:
        raise ValueError(f"temperature must be positive; got {temperature}.")
    return lift("log_reward", log_reward, forest, "leaf") / temperature
