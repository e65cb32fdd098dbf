"""What a search needs to know of the world: the protocol that an environment fills."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

State = TypeVar("State")


@dataclass(frozen=True)
class Transition(Generic[State]):
    """What one action led to.

    Attributes:
        state: the state after the action and the world's answer.
        reward: what this turn earned, in the environment's own unit.
        ended: whether the episode is over; an ended state is never expanded.
    """

    state: State
    reward: float
    ended: bool


@runtime_checkable
class SearchEnvironment(Protocol[State]):
    """A batched state/action environment. States are values: a step makes new ones.

    Every method takes a batch and answers row by row; what it says of a row does not depend on the others.
    """

    @property
    def num_actions(self) -> int:
        """How many actions there are, A; an action is an index below it."""

    def log_prior(self, states: Sequence[State]) -> NDArray[np.float64]:
        """Normalised log-probabilities of the actions by the prior policy, ``[B, A]``."""

    def step(self, states: Sequence[State], actions: NDArray[np.int64]) -> list[Transition[State]]:
        """Take ``actions [B]`` in ``states``; none of the states has ended."""

    def trajectory_return(self, rewards: Sequence[float], state: State) -> float:
        """The return G of a trajectory with these turn rewards, root to end, that ends in ``state``."""
