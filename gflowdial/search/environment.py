"""What a search needs to know of the world: the protocols that an environment fills."""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeAlias, TypeVar, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

State = TypeVar("State")

ReturnRange = tuple[float, float] | None
"""Between which two numbers returns lie; None: that is not known."""

UNIT = (0.0, 1.0)
"""The range of returns where an environment tells none."""


@dataclass(frozen=True)
class Transition(Generic[State]):
    """What one action led to.

    Attributes:
        state: the state after the action and the world's answer.
        reward: what this turn earned, in the environment's own unit.
        ended: whether the episode is over; an ended state is never expanded.
        probability: of this answer among all to the action, above 0; read from a `ChanceEnvironment` alone.
    """

    state: State
    reward: float
    ended: bool
    probability: float = 1.0


@runtime_checkable
class SearchEnvironment(Protocol[State]):
    """A batched environment in which a state and an action determine what follows. States are values: a step makes new
    ones.

    Every method takes a batch and answers row by row; what it returns for a row does not depend on the others.

    An environment may have an attribute ``return_range`` too, the least and the greatest return; without it the range
    is (0, 1). Search reads values on this scale: 1 is the greatest return, and 0 the least, as which an untried action
    counts. None says that the range is not known: it is that of the returns that a tree has seen so far, as in MuZero
    (arXiv 1911.08265).
    """

    @property
    def num_actions(self) -> int:
        """How many actions there are, A; an action is an index below it."""

    def log_prior(self, states: Sequence[State]) -> NDArray[np.float64]:
        """Normalised log-probabilities of the actions by the prior policy, ``[B, A]``; none of the states has ended.

        -inf forbids an action: it is never selected, sampled, rolled out or given flow.
        """

    def step(self, states: Sequence[State], actions: NDArray[np.int64]) -> list[Transition[State]]:
        """Take ``actions [B]`` in ``states``; none of the states has ended."""

    def trajectory_return(self, rewards: Sequence[float], state: State) -> float:
        """The return G of a trajectory with these turn rewards, root to end, that ends in ``state``."""


@runtime_checkable
class ChanceEnvironment(Protocol[State]):
    """A batched environment that answers an action by chance, with known probabilities.

    An environment that has ``outcomes`` is one, whether it has ``step`` or not. The rest is as in `SearchEnvironment`.
    """

    @property
    def num_actions(self) -> int:
        """How many actions there are, A; an action is an index below it."""

    def log_prior(self, states: Sequence[State]) -> NDArray[np.float64]:
        """Normalised log-probabilities of the actions by the prior policy, ``[B, A]``; -inf forbids an action."""

    def outcomes(self, states: Sequence[State], actions: NDArray[np.int64]) -> list[Sequence[Transition[State]]]:
        """All answers of the world to ``actions [B]`` in ``states``, in a fixed order; their probabilities sum to 1."""

    def trajectory_return(self, rewards: Sequence[float], state: State) -> float:
        """The return G of a trajectory with these turn rewards, root to end, that ends in ``state``."""


def return_range(environment: object) -> ReturnRange:
    """The range of the environment's returns; (0, 1) where it tells none.

    Raises:
        ValueError: it is no pair of finite numbers in ascending order.
    """
    given: ReturnRange = getattr(environment, "return_range", UNIT)
    if given is not None and not (len(given) == 2 and -math.inf < given[0] < given[1] < math.inf):
        raise ValueError(
            f"return_range is {given}: give the least and the greatest return, or None if they are unknown"
        )
    return None if given is None else (float(given[0]), float(given[1]))


AnyEnvironment: TypeAlias = SearchEnvironment[State] | ChanceEnvironment[State]
"""What `search` and `enumerate_tree` take."""


class Forwarding(Generic[State]):
    """An environment that answers as another does; subclasses add ``step`` or ``outcomes``.

    Args:
        environment: the one that answers.
    """

    def __init__(self, environment: AnyEnvironment[State]) -> None:
        self._environment = environment

    @property
    def num_actions(self) -> int:
        return self._environment.num_actions

    @property
    def return_range(self) -> ReturnRange:
        return return_range(self._environment)

    def log_prior(self, states: Sequence[State]) -> NDArray[np.float64]:
        return self._environment.log_prior(states)

    def trajectory_return(self, rewards: Sequence[float], state: State) -> float:
        return self._environment.trajectory_return(rewards, state)


class _Counted(Forwarding[State]):
    """What both kinds of counted environments share; see `count_steps`."""

    def __init__(self, environment: AnyEnvironment[State], key: Callable[[State], Hashable], steps: Counter[Hashable]):
        super().__init__(environment)
        self._key, self._steps = key, steps


class _CountedSteps(_Counted[State]):
    def step(self, states: Sequence[State], actions: NDArray[np.int64]) -> list[Transition[State]]:
        self._steps.update(map(self._key, states))
        return cast(SearchEnvironment[State], self._environment).step(states, actions)


class _CountedOutcomes(_Counted[State]):
    def outcomes(self, states: Sequence[State], actions: NDArray[np.int64]) -> list[Sequence[Transition[State]]]:
        self._steps.update(map(self._key, states))
        return cast(ChanceEnvironment[State], self._environment).outcomes(states, actions)


def count_steps(
    environment: AnyEnvironment[State], key: Callable[[State], Hashable]
) -> tuple[AnyEnvironment[State], Counter[Hashable]]:
    """The environment, and a counter of the actions that are taken in it from now on.

    Args:
        environment: the world.
        key: what is counted together, by the state before the action, such as the scene of a conversation.

    Returns:
        An environment that answers as ``environment`` does, and the counter, which is 0 in the beginning. In a
        `ChanceEnvironment` an action whose outcomes are asked for counts once.
    """
    steps: Counter[Hashable] = Counter()
    counted = _CountedOutcomes if isinstance(environment, ChanceEnvironment) else _CountedSteps
    return counted(environment, key, steps), steps
