"""Modified balance: every state may stop, so no flow has to be learned, ``F(s) = R(s) / P(stop|s)``.

Args of both losses, besides those of `detailed_balance`:
    log_stop: log P(stop|s) of each state; where a trajectory must end it is 0.
    log_pf: log-probability of each action, in the same distribution as stopping: at each state the probabilities of
        its actions and of stopping sum to 1.
    log_reward: log R of each state, not only of leaves: what it is worth to stop there.

Both vanish exactly when ``R(s)·P_F(s'|s)·P(stop|s') = R(s')·P_B(s|s')·P(stop|s)`` on every edge; then the policy stops
at each state in proportion to its R. For any R and P_B there is one such policy.
"""

from gflowdial.forest import Forest
from gflowdial.losses.inputs import edge_residual, lift, log_ratio
from gflowdial.losses.penalties import Penalty, squared
from gflowdial.losses.reading import reads
from gflowdial.losses.reduction import tree_mean
from gflowdial.losses.subtrajectory import PairWeight, pair_mean
from gflowdial.shapes import Float, Tensor


@reads("stopping")
def modified_detailed_balance(
    log_stop: Float[Tensor, " nodes"],
    log_pf: Float[Tensor, " edges"],
    log_pb: Float[Tensor, " edges"] | None,
    log_reward: Float[Tensor, " nodes"],
    forest: Forest,
    *,
    penalty: Penalty = squared,
) -> Float[Tensor, ""]:
    """`detailed_balance` with ``log F(s) := log R(s) - log P(stop|s)`` at every state, leaves among them.

    Raises:
        ValueError: if a shape does not fit the forest.

    Source: Deleu et al., arXiv 2202.13903.
    """
    residual = _residual(log_stop, log_pf, log_pb, log_reward, forest)
    return tree_mean(penalty(residual), forest.edge_tree, forest).to(log_pf.dtype)


@reads("stopping")
def modified_subtrajectory_balance(
    log_stop: Float[Tensor, " nodes"],
    log_pf: Float[Tensor, " edges"],
    log_pb: Float[Tensor, " edges"] | None,
    log_reward: Float[Tensor, " nodes"],
    forest: Forest,
    *,
    decay: float = 0.9,
    pair_weight: PairWeight = "unique",
    penalty: Penalty = squared,
) -> Float[Tensor, ""]:
    """`subtrajectory_balance` with ``log F(s) := log R(s) - log P(stop|s)`` at every state, leaves among them.

    Raises:
        ValueError: if a shape does not fit the forest, or an option is out of range.

    Source: Hu et al., arXiv 2310.04363.
    """
    residual = _residual(log_stop, log_pf, log_pb, log_reward, forest)
    return pair_mean(residual, forest, decay, pair_weight, penalty).to(log_pf.dtype)


def _residual(
    log_stop: Tensor, log_pf: Tensor, log_pb: Tensor | None, log_reward: Tensor, forest: Forest
) -> Float[Tensor, " edges"]:
    flow = lift("log_reward", log_reward, forest, "node") - lift("log_stop", log_stop, forest, "node")
    return edge_residual(flow, log_ratio(log_pf, log_pb, forest), forest)
