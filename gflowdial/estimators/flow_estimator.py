"""What every flow estimator answers: P_F, P_B and log F of states, and log Z of a condition."""

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch

from gflowdial.shapes import Bool, Float, Int, Tensor

Backward = Literal["uniform", "learned"]
"""P_B: even over the actions that can have led into a state, or a softmax of learned scores over them."""


@dataclass(frozen=True, eq=False)
class FlowEstimates:
    """What an estimator says of states, in nats.

    Attributes:
        log_pf: log P_F of each action in each state; -inf where it cannot be taken, a whole row in terminal states.
        log_pb: log P_B of each action that can have led into each state; -inf elsewhere, a whole row in initial states.
        log_flow: log F of each state. The losses put log R in its place at terminal states.
    """

    log_pf: Float[Tensor, "states actions"]
    log_pb: Float[Tensor, "states actions"]
    log_flow: Float[Tensor, " states"]


@runtime_checkable
class FlowEstimator(Protocol):
    """An estimator of flows; `TabularFlow` and `NetworkFlow` are two."""

    def __call__(self, states: Int[Tensor, "states width"]) -> FlowEstimates:
        """Everything about ``states``, in one pass."""

    def forward_policy(self, states: Int[Tensor, "states width"]) -> Float[Tensor, "states actions"]:
        """`FlowEstimates.log_pf` alone: what sampling forward asks for."""

    def backward_policy(self, states: Int[Tensor, "states width"]) -> Float[Tensor, "states actions"]:
        """`FlowEstimates.log_pb` alone: what sampling backward asks for."""

    def log_z(self, condition: Int[Tensor, " trees"]) -> Float[Tensor, " trees"]:
        """log Z of trajectories that start from the initial states ``condition``."""


def masked_log_softmax(
    scores: Float[Tensor, "states actions"], mask: Bool[Tensor, "states actions"]
) -> Float[Tensor, "states actions"]:
    """The log-softmax of each row over its valid actions; -inf elsewhere, and everywhere in a row without any.

    Neither values nor gradients are NaN, whatever the scores of masked actions, and masked actions get no gradient.
    """
    # Filled with -inf instead, a row without valid actions would be NaN on the way, where anomaly detection stops.
    invalid = ~mask
    valid = scores.masked_fill(invalid, torch.finfo(scores.dtype).min)
    return valid.log_softmax(1).masked_fill(invalid, -torch.inf)


def uniform_log_probabilities(
    mask: Bool[Tensor, "states actions"], dtype: torch.dtype
) -> Float[Tensor, "states actions"]:
    """Even over the valid actions of each row; -inf elsewhere."""
    return masked_log_softmax(torch.zeros(mask.shape, dtype=dtype, device=mask.device), mask)
