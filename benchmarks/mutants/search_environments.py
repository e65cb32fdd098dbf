"""A small search environment, with and without chance, with one planted fault each, and unusual sound ones."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gflowdial.search import Transition

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
State: TypeAlias = Any


class Walk:
    """Up to three actions of three kinds; the third is forbidden at first. A state is the actions so far."""

    num_actions = 3
    roots: Sequence[State] = ((), (9,))

    def log_prior(self, states: Sequence[State]) -> Floats:
        scores = np.array([[0.0, 0.5, -np.inf if len(state) < 2 else 1.0 + sum(state)] for state in states])
        return np.asarray(scores - np.log(np.exp(scores).sum(axis=1, keepdims=True)))

    def step(self, states: Sequence[State], actions: Ints) -> list[Transition[State]]:
        return [self.after(state, int(action)) for state, action in zip(states, actions, strict=True)]

    def after(self, state: State, action: int) -> Transition[State]:
        new = (*state, action)
        return Transition(new, float(action), len(new) - (new[0] == 9) == 3)

    def trajectory_return(self, rewards: Sequence[float], state: State) -> float:
        return sum(rewards) + len(state)


class Dice(Walk):
    """Each action has two answers."""

    def outcomes(self, states: Sequence[State], actions: Ints) -> list[Sequence[Transition[State]]]:
        return [self.rolled(state, int(action)) for state, action in zip(states, actions, strict=True)]

    def rolled(self, state: State, action: int) -> list[Transition[State]]:
        made = [self.after(state, number) for number in (action, action + 3)]
        return [Transition(t.state, t.reward, t.ended, p) for t, p in zip(made, (0.25, 0.75), strict=True)]


def _prior(name: str, change: Callable[[Floats, Sequence[State]], Any]) -> Walk:
    def log_prior(self: Walk, states: Sequence[State]) -> Any:
        return change(Walk.log_prior(self, states), states)

    world: Walk = type(name.title().replace(" ", ""), (Walk,), {"log_prior": log_prior})()
    return world


def _step(name: str, change: Callable[[list[Transition[State]], Sequence[State]], Any]) -> Walk:
    def step(self: Walk, states: Sequence[State], actions: Ints) -> Any:
        return change(Walk.step(self, states, actions), states)

    world: Walk = type(name.title().replace(" ", ""), (Walk,), {"step": step})()
    return world


def _chance(name: str, change: Callable[[list[Transition[State]]], Any]) -> Dice:
    def rolled(self: Dice, state: State, action: int) -> Any:
        return change(Dice.rolled(self, state, action))

    world: Dice = type(name.title().replace(" ", ""), (Dice,), {"rolled": rolled})()
    return world


class ListsInPlace(Walk):
    """States are lists, and a step appends to them."""

    roots = ([], [9])

    def after(self, state: State, action: int) -> Transition[State]:
        state.append(action)
        return Transition(state, float(action), len(state) - (state[0] == 9) == 3)


class OwnBuffer(Walk):
    """All states are one array, filled anew by each step."""

    roots = (np.array([0, 0, 0, 0]), np.array([9, 0, 0, 0]))

    def __init__(self) -> None:
        self.buffer = np.zeros((4096, 4), dtype=np.int64)

    def log_prior(self, states: Sequence[State]) -> Floats:
        return np.full((len(states), 3), -np.log(3))

    def step(self, states: Sequence[State], actions: Ints) -> list[Transition[State]]:
        for row, (state, action) in enumerate(zip(list(map(np.copy, states)), actions, strict=True)):
            self.buffer[row] = state
            self.buffer[row, 1:] += [1, action, action * state[1]]
        return [Transition(self.buffer[row], 0.0, bool(self.buffer[row, 1] == 3)) for row in range(len(states))]

    def trajectory_return(self, rewards: Sequence[float], state: State) -> float:  # noqa: ARG002
        return float(state.sum())


class FreshArrays(OwnBuffer):
    def step(self, states: Sequence[State], actions: Ints) -> list[Transition[State]]:
        return [Transition(t.state.copy(), t.reward, t.ended) for t in super().step(states, actions)]


class Counts(Walk):
    """The reward of a step is how many came before it."""

    calls = 0

    def step(self, states: Sequence[State], actions: Ints) -> list[Transition[State]]:
        self.calls += 1
        return [Transition(t.state, t.reward + self.calls, t.ended) for t in super().step(states, actions)]


class PopsRewards(Walk):
    def trajectory_return(self, rewards: Sequence[float], state: State) -> float:
        assert isinstance(rewards, list)
        return float(rewards.pop()) + len(state)


class ReturnIsNaN(Walk):
    def trajectory_return(self, rewards: Sequence[float], state: State) -> float:  # noqa: ARG002
        return float("nan")


class ReturnDrifts(Walk):
    calls = 0

    def trajectory_return(self, rewards: Sequence[float], state: State) -> float:
        self.calls += 1
        return super().trajectory_return(rewards, state) + self.calls


class ChangesActions(Walk):
    def step(self, states: Sequence[State], actions: Ints) -> list[Transition[State]]:
        actions += 1
        return super().step(states, actions - 1)


def _normalised_over_batch(log_p: Floats, _: Sequence[State]) -> Floats:
    return np.asarray(log_p - np.log(np.exp(log_p).sum()))


def _as_first(log_p: Floats, _: Sequence[State]) -> Floats:
    return np.asarray(np.broadcast_to(log_p[:1], log_p.shape).copy())


def _next(t: Transition[State], **changes: Any) -> Transition[State]:
    return Transition(**{**vars(t), **changes})


WORLDS: dict[str, Walk] = {
    "probabilities": _prior("probabilities", lambda p, _: np.exp(p)),
    "not normalised": _prior("not normalised", lambda p, _: p + 0.1),
    "normalised over the batch": _prior("normalised over the batch", _normalised_over_batch),
    "prior of the first row": _prior("prior of the first row", _as_first),
    "prior is NaN": _prior("prior is NaN", lambda p, _: np.where(np.isinf(p), np.nan, p)),
    "nothing allowed": _prior("nothing allowed", lambda p, s: np.where([[len(x) == 1] for x in s], -np.inf, p)),
    "prior of one dimension": _prior("prior of one dimension", lambda p, _: p.ravel()),
    "prior as a list": _prior("prior as a list", lambda p, _: p.tolist()),
    "prior in integers": _prior("prior in integers", lambda p, _: np.zeros(p.shape, dtype=np.int64)),
    "a transition too few": _step("a transition too few", lambda t, _: t[:-1]),
    "bare tuples": _step("bare tuples", lambda t, _: [(x.state, x.reward, x.ended) for x in t]),
    "transitions turned round": _step("transitions turned round", lambda t, _: t[::-1]),
    "reward is NaN": _step("reward is NaN", lambda t, _: [_next(x, reward=x.reward + np.nan) for x in t]),
    "reward is infinite": _step("reward is infinite", lambda t, _: [_next(x, reward=-np.inf) for x in t]),
    "ended is a count": _step("ended is a count", lambda t, _: [_next(x, ended=len(x.state)) for x in t]),
    "never ends": _step("never ends", lambda t, _: [_next(x, ended=False) for x in t]),
    "reward of the batch": _step("reward of the batch", lambda t, _: [_next(x, reward=float(len(t))) for x in t]),
    "ends by the batch": _step("ends by the batch", lambda t, _: [_next(x, ended=x.ended or len(t) == 1) for x in t]),
    "lists in place": ListsInPlace(),
    "own buffer": OwnBuffer(),
    "counts steps": Counts(),
    "pops rewards": PopsRewards(),
    "return is NaN": ReturnIsNaN(),
    "return drifts": ReturnDrifts(),
    "changes actions": ChangesActions(),
    "chances sum to 2": _chance("chances sum to 2", lambda t: [_next(x, probability=1.0) for x in t]),
    "a chance of 0": _chance("a chance of 0", lambda t: [*t, _next(t[0], probability=0.0)]),
    "no outcome": _chance("no outcome", lambda t: []),  # noqa: ARG005
}


class Objects:
    """Of a class without equality and repr."""

    def __init__(self, done: tuple[int, ...]) -> None:
        self.done = done


class WithObjects(Walk):
    roots = (Objects(()), Objects((9,)))

    def log_prior(self, states: Sequence[State]) -> Floats:
        return super().log_prior([state.done for state in states])

    def after(self, state: State, action: int) -> Transition[State]:
        t = super().after(state.done, action)
        return Transition(Objects(t.state), t.reward, t.ended)

    def trajectory_return(self, rewards: Sequence[float], state: State) -> float:
        return sum(rewards) + len(state.done)


SOUND: dict[str, Walk] = {
    "tuples": Walk(),
    "chance": Dice(),
    "fresh arrays": FreshArrays(),
    "objects": WithObjects(),
    "prior in float32": _prior("prior in float32", lambda p, _: p.astype(np.float32)),
    "truth values of NumPy": _step("numpy bools", lambda t, _: [_next(x, ended=np.bool_(x.ended)) for x in t]),
    "large rewards": _step("large rewards", lambda t, _: [_next(x, reward=1e9 + x.reward) for x in t]),
}
