"""Forward-looking balance: turns pay part of log R as they are taken, and the flow learns only what is still to come.

Args of both losses, besides those of `detailed_balance`:
    log_flow: log F̃ of each state, with ``F(s) = F̃(s)·exp(Σ log_turn_reward over root→s)``. At a leaf it is replaced by
        what of ``log_reward`` the turns have not paid, ``log R - Σ log_turn_reward over root→leaf``: 0 if they pay all.
    log_turn_reward: what each action adds to log R, any numbers.

The target is that of the plain losses, R, however the turns share it out; what changes is what has to be learned.
"""

from gflowdial.forest import Forest
from gflowdial.losses.balance import detailed_balance
from gflowdial.losses.inputs import lift
from gflowdial.losses.pair_metric import PairWeight
from gflowdial.losses.penalties import Penalty, squared
from gflowdial.losses.subtrajectory import subtrajectory_balance
from gflowdial.shapes import Float, Tensor


def forward_looking_detailed_balance(
    log_flow: Float[Tensor, " nodes"],
    log_pf: Float[Tensor, " edges"],
    log_pb: Float[Tensor, " edges"] | None,
    log_reward: Float[Tensor, " leaves"],
    forest: Forest,
    *,
    log_turn_reward: Float[Tensor, " edges"],
    penalty: Penalty = squared,
) -> Float[Tensor, ""]:
    """``(log F̃(s') + log P_B(s|s') + log_turn_reward(s→s') - log F̃(s) - log P_F(s'|s))²``, averaged as in
    `detailed_balance`.

    Raises:
        ValueError: if a shape does not fit the forest.

    Source: Pan et al., arXiv 2302.01687.
    """
    flow = _whole_flow(log_flow, log_turn_reward, forest)
    return detailed_balance(flow, log_pf, log_pb, log_reward, forest, penalty=penalty).to(log_flow.dtype)


def forward_looking_subtrajectory_balance(
    log_flow: Float[Tensor, " nodes"],
    log_pf: Float[Tensor, " edges"],
    log_pb: Float[Tensor, " edges"] | None,
    log_reward: Float[Tensor, " leaves"],
    forest: Forest,
    *,
    log_turn_reward: Float[Tensor, " edges"],
    decay: float = 0.9,
    pair_weight: PairWeight = "unique",
    penalty: Penalty = squared,
) -> Float[Tensor, ""]:
    """``(log F̃(n) + Σ over m→n of (log_turn_reward + log P_B - log P_F) - log F̃(m))²``, averaged as in
    `subtrajectory_balance`.

    Raises:
        ValueError: if a shape does not fit the forest, or an option is out of range.

    Source: Pan et al., arXiv 2302.01687.
    """
    flow = _whole_flow(log_flow, log_turn_reward, forest)
    return subtrajectory_balance(
        flow, log_pf, log_pb, log_reward, forest, decay=decay, pair_weight=pair_weight, penalty=penalty
    ).to(log_flow.dtype)


def _whole_flow(log_flow: Tensor, log_turn_reward: Tensor, forest: Forest) -> Float[Tensor, " nodes"]:
    paid = forest.root_sum(lift("log_turn_reward", log_turn_reward, forest, "edge"))
    return lift("log_flow", log_flow, forest, "node") + paid
