"""The environment protocol: batched states, and steps that can be taken back."""

from typing import Protocol, runtime_checkable

from gflowdial.estimators.state_space import StateSpace
from gflowdial.shapes import Float, Int, Tensor


@runtime_checkable
class Environment(StateSpace, Protocol):
    """A deterministic acyclic environment: from an initial state, actions build an object whose reward is known.

    States are rows of int64; a step makes new ones and changes none. Every method answers row by row; what it says of a
    row does not depend on the others.
    """

    @property
    def initial_states(self) -> Int[Tensor, "conditions width"]:
        """Where trajectories start, one row for each condition (a scene, a prompt); most environments have one.

        States that follow different conditions differ, so that every state belongs to one condition.
        """

    def step(self, states: Int[Tensor, "states width"], actions: Int[Tensor, " states"]) -> Int[Tensor, "states width"]:
        """The states after ``actions``, each valid by `forward_mask`."""

    def step_back(
        self, states: Int[Tensor, "states width"], actions: Int[Tensor, " states"]
    ) -> Int[Tensor, "states width"]:
        """The states before ``actions``, each valid by `backward_mask`: ``step_back(step(s, a), a) = s``."""

    def log_reward(self, states: Int[Tensor, "states width"]) -> Float[Tensor, " states"]:
        """log R of terminal states, finite, in nats; float64 where nothing speaks against it."""


@runtime_checkable
class StoppingEnvironment(Environment, Protocol):
    """An environment where one action ends the trajectory, can be taken in every state and is the only way to end.

    Its ``log_reward`` answers for every state: what it is worth to stop there.
    """

    @property
    def stop_action(self) -> int:
        """The action that stops."""


@runtime_checkable
class TurnRewards(Protocol):
    """An environment that says what each turn is worth."""

    def turn_log_reward(self, states: Int[Tensor, "states width"]) -> Float[Tensor, " states"]:
        """What the last action before each state adds to log R."""
