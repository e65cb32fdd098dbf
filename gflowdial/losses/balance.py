"""Trajectory balance and detailed balance."""

from gflowdial.forest import Forest
from gflowdial.losses.penalties import Penalty, squared
from gflowdial.losses.reduction import Weights, mean_penalty
from gflowdial.losses.steps import PathResiduals, StepResiduals
from gflowdial.shapes import Float, Tensor


def trajectory_balance(
    log_z: Float[Tensor, ""] | Float[Tensor, " trees"],
    log_pf: Float[Tensor, " edges"],
    log_pb: Float[Tensor, " edges"] | None,
    log_reward: Float[Tensor, " leaves"],
    forest: Forest,
    *,
    penalty: Penalty = squared,
) -> Float[Tensor, ""]:
    """Mismatch of flow and reward over whole trajectories.

    ``(log R - log Z - Σ over root→leaf of (log P_F - log P_B))²``, averaged over the leaves of each tree, then over
    trees. A single-node tree has the one pair (root, root): ``(log R - log Z)²``.

    Args:
        log_z: log-partition, one for all trees, ``[]``, or one per tree, ``[trees]``, in nats like all logarithms here.
        log_pf: forward log-probability of each action, ``[edges]``.
        log_pb: backward log-probability of each action, ``[edges]``; None means a tree, log P_B = 0.
        log_reward: log R of each leaf, ``[leaves]``.
        forest: which state follows which.
        penalty: what a residual costs; see `losses.penalties`.

    Returns:
        The loss, computed in float64 and returned in the dtype of ``log_pf``.

    Raises:
        ValueError: if a shape does not fit the forest.

    Source: Malkin et al., arXiv 2201.13259; a log Z per condition: Zhang et al., arXiv 2302.05446.
    """
    logs = (log_z, log_pf, log_pb, log_reward)
    return mean_penalty(PathResiduals(forest), Weights(forest.leaf_share), penalty, *logs, dtype=log_pf.dtype)


def detailed_balance(
    log_flow: Float[Tensor, " nodes"],
    log_pf: Float[Tensor, " edges"],
    log_pb: Float[Tensor, " edges"] | None,
    log_reward: Float[Tensor, " leaves"],
    forest: Forest,
    *,
    penalty: Penalty = squared,
) -> Float[Tensor, ""]:
    """Mismatch of flow over single steps.

    ``(log F(s') + log P_B(s|s') - log F(s) - log P_F(s'|s))²`` with log F := log R at leaves, averaged over the edges
    of each tree, then over trees; a tree without edges counts 0.

    Args:
        log_flow: log F of each state, ``[nodes]``; entries at leaves are replaced by ``log_reward``.
        log_pf: forward log-probability of each action, ``[edges]``.
        log_pb: backward log-probability of each action, ``[edges]``; None means a tree, log P_B = 0.
        log_reward: log R of each leaf, ``[leaves]``.
        forest: which state follows which.
        penalty: what a residual costs; see `losses.penalties`.

    Returns:
        The loss, computed in float64 and returned in the dtype of ``log_flow``.

    Raises:
        ValueError: if a shape does not fit the forest.

    Source: Bengio et al., arXiv 2111.09266.
    """
    logs = (log_flow, log_pf, log_pb, log_reward)
    return mean_penalty(StepResiduals(forest), Weights(forest.edge_share), penalty, *logs, dtype=log_flow.dtype)
