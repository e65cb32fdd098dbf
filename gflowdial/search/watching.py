"""Environments that change states in place, noticed while they are searched."""

import reprlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from copy import Error as CopyError
from copy import deepcopy
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from gflowdial.search.environment import (
    AnyEnvironment,
    ChanceEnvironment,
    Forwarding,
    SearchEnvironment,
    State,
    Transition,
)


def watch(environment: AnyEnvironment[State], roots: Sequence[State]) -> AnyEnvironment[State]:
    """An environment that answers as ``environment`` does, and is refused where a state changes after it was made.

    States that cannot change, such as tuples, numbers and frozen dataclasses, are not looked at: if all roots are, it
    is ``environment`` itself. Others, such as arrays, lists and plain objects, are compared with a copy each time that
    the environment gets or returns them.

    Args:
        environment: the world.
        roots: the states to start from.

    Raises:
        ValueError: from a method that changed a state that it was given, or one that had been returned before.
    """
    if all(map(_is_value, roots)):
        return environment
    kind = _WatchedOutcomes if isinstance(environment, ChanceEnvironment) else _WatchedSteps
    return kind(environment, roots)


@contextmanager
def watched(environment: AnyEnvironment[State], roots: Sequence[State]) -> Iterator[AnyEnvironment[State]]:
    """`watch` for as long as the context lasts; in the end all states are looked at once more."""
    world = watch(environment, roots)
    yield world
    if isinstance(world, _Watched):
        world.check_all()


class _Watched(Forwarding[State], ABC):
    """What both kinds of watched environments share: a copy of each state, by the state's identity."""

    def __init__(self, environment: AnyEnvironment[State], roots: Sequence[State]) -> None:
        super().__init__(environment)
        # The state itself is kept too, so that no other one gets its identity.
        self._copies: dict[int, tuple[State, State]] = {}
        for root in roots:
            self._keep(root)

    def log_prior(self, states: Sequence[State]) -> NDArray[np.float64]:
        answer = super().log_prior(states)
        self._check(states, "log_prior")
        return answer

    def trajectory_return(self, rewards: Sequence[float], state: State) -> float:
        answer = super().trajectory_return(rewards, state)
        self._check([state], "trajectory_return")
        return answer

    def check_all(self) -> None:
        """Refuse the environment if any state has changed."""
        self._check([state for state, _ in self._copies.values()], "one of its methods")

    def _keep(self, state: State) -> None:
        if id(state) in self._copies or _is_value(state):
            return
        # What cannot be copied is not looked at.
        with suppress(TypeError, RuntimeError, CopyError):
            self._copies[id(state)] = state, deepcopy(state)

    def _check(self, states: Sequence[State], method: str) -> None:
        for state in states:
            known = self._copies.get(id(state))
            if known is not None and not _same(known[0], known[1]):
                raise ValueError(
                    f"{type(self._environment).__name__} changed the state {reprlib.repr(known[1])} in place, at the "
                    f"latest in {method}: let `step` and `outcomes` return new states, and change no state afterwards"
                )

    def _take(
        self, states: Sequence[State], actions: NDArray[np.int64], method: str
    ) -> list[Sequence[Transition[State]]]:
        """What actions lead to, each alone where two answers of a call are one object."""
        answers = self._ask(states, actions)
        self._check(states, method)
        by_object: dict[int, int] = {}
        for row, some in enumerate(answers):
            for transition in some:
                first = by_object.setdefault(id(transition.state), row)
                if first != row and not _is_value(transition.state):
                    self._ask_alone(states, actions, first, row, method)
        for some in answers:
            for transition in some:
                self._check([transition.state], method)
                self._keep(transition.state)
        return answers

    def _ask_alone(
        self, states: Sequence[State], actions: NDArray[np.int64], first: int, row: int, method: str
    ) -> None:
        """Two rows of a call were answered with one object: it must be right for both."""
        one, other = (
            deepcopy([transition.state for transition in self._ask([states[at]], actions[at : at + 1])[0]])
            for at in (first, row)
        )
        if not _same(one, other):
            raise ValueError(
                f"{type(self._environment).__name__}.{method} answered two actions with one object, and each action "
                "alone with another state: return a new state per row"
            )

    @abstractmethod
    def _ask(self, states: Sequence[State], actions: NDArray[np.int64]) -> list[Sequence[Transition[State]]]:
        """What the environment answers, as outcomes."""


class _WatchedSteps(_Watched[State]):
    def step(self, states: Sequence[State], actions: NDArray[np.int64]) -> list[Transition[State]]:
        return [some[0] for some in self._take(states, actions, "step")]

    def _ask(self, states: Sequence[State], actions: NDArray[np.int64]) -> list[Sequence[Transition[State]]]:
        return [[each] for each in cast(SearchEnvironment[State], self._environment).step(states, actions)]


class _WatchedOutcomes(_Watched[State]):
    def outcomes(self, states: Sequence[State], actions: NDArray[np.int64]) -> list[Sequence[Transition[State]]]:
        return self._take(states, actions, "outcomes")

    def _ask(self, states: Sequence[State], actions: NDArray[np.int64]) -> list[Sequence[Transition[State]]]:
        return cast(ChanceEnvironment[State], self._environment).outcomes(states, actions)


def _is_value(state: object) -> bool:
    """Whether a state cannot change: it has a hash, and that is not its identity."""
    if isinstance(state, tuple):
        return all(map(_is_value, state))
    hashed = type(state).__hash__
    if hashed is None or hashed == object.__hash__ or isinstance(state, torch.Tensor):
        return state is None
    try:
        hash(state)
    except TypeError:
        return False
    return True


def _same(one: Any, other: Any) -> bool:
    """Whether two states are equal, arrays and tensors by their elements, objects without ``==`` by their fields."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return bool(one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes())
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and bool(one.equal(other))
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(_same(value, other[key]) for key, value in one.items())
    if "__eq__" in {name for kind in type(one).__mro__[:-1] for name in vars(kind)}:
        # Fields that are arrays have no single truth value.
        with suppress(ValueError, RuntimeError):
            return bool(one == other)
    return _same(vars(one), vars(other)) if hasattr(one, "__dict__") else True
