"""What a flow estimator needs to know of states: the protocol that every environment extends."""

from typing import Protocol, runtime_checkable

from gflowdial.shapes import Bool, Float, Int, Tensor


@runtime_checkable
class StateSpace(Protocol):
    """Batches of states as rows of integers, and which actions lead out of them and into them.

    **One number for an action in both directions**: a taken in s leads to s', and the same a undoes it in s'.
    So a state and the action that led into it determine the state before.
    """

    @property
    def num_actions(self) -> int:
        """How many actions there are, A; an action is an index below it."""

    @property
    def num_features(self) -> int:
        """Length of a state's feature vector."""

    def features(self, states: Int[Tensor, "states width"]) -> Float[Tensor, "states features"]:
        """What a network reads of each state."""

    def forward_mask(self, states: Int[Tensor, "states width"]) -> Bool[Tensor, "states actions"]:
        """Which actions can be taken in each state. A state is terminal exactly where there is none."""

    def backward_mask(self, states: Int[Tensor, "states width"]) -> Bool[Tensor, "states actions"]:
        """Which actions can have led into each state. A state is initial exactly where there is none."""
