"""What every flow estimator answers: P_F, P_B and log F of states, and log Z of a condition."""

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from gflowdial.shapes import Float, Int, Tensor

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
