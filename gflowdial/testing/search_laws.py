"""Laws of a search environment: priors, transitions and returns in form, the same again, and rows on their own."""

import reprlib
from collections.abc import Callable, Hashable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gflowdial.search.environment import AnyEnvironment, ChanceEnvironment, State, Transition
from gflowdial.testing.broken import BrokenLawError, kept_laws
from gflowdial.testing.state_keys import key_of

TOLERANCE = 1.1e-4
"""How far probabilities may sum from 1; what comes from float32 passes."""
ALONE = 24
"""Rows that are asked about one by one."""


def check_search_environment(
    environment: AnyEnvironment[State],
    roots: Sequence[State],
    *,
    max_states: int = 200,
    max_depth: int = 100,
    key: Callable[[State], Hashable] = key_of,
    leave_out: Sequence[str] = (),
) -> None:
    """Check that an environment keeps the protocol of `SearchEnvironment` or `ChanceEnvironment`.

    States are found in breadth from ``roots`` up to ``max_states``, and on two random walks to the end. Whatever is
    asked, answers have the form of the protocol. The laws, by name:

    - "the prior is a policy": ``log_prior`` is a float array ``[B, A]`` without NaN, normalised to 1e-4, and allows an
      action in every state that has not ended;
    - "transitions": one `Transition` per row, with a finite reward and a truth value for ``ended``; of chance at least
      one per row, with probabilities above 0 that sum to 1;
    - "states are values": no method changes a state that it is given, or one that it has answered before; a method
      that returns an array of its own, which the next call fills anew, breaks it;
    - "the same again": no method answers differently when asked again;
    - "rows alone": what is said of a row does not depend on the other rows, their number or their order;
    - "episodes end": a walk by allowed actions comes to an ended state within ``max_depth`` actions;
    - "returns": ``trajectory_return`` of a walk's rewards is a finite number, the same again, and changes no argument.

    Args:
        environment: what to check.
        roots: states that have not ended.
        max_states: how many states are looked at in breadth.
        max_depth: a walk of more actions counts as one without end; where a rollout cuts episodes off, leave out
            "episodes end".
        key: what tells states apart; by default what they contain, see `gflowdial.testing.state_keys`.
        leave_out: names of laws that are not checked.

    Raises:
        AssertionError: with the law, the state and what was answered.
        ValueError: there are no roots, or ``leave_out`` names no law.
    """
    if not len(roots):
        raise ValueError("there are no roots: give at least one state that has not ended")
    laws = kept_laws(_LAWS, leave_out)
    asked = _Asked(environment, key, frozenset(laws))
    walks = _explore(asked, list(roots), max_states, max_depth)
    for law in (_again, _alone):
        law(asked)
    _returns(asked, walks)


_LAWS = dict.fromkeys(
    (
        "the prior is a policy",
        "transitions",
        "states are values",
        "the same again",
        "rows alone",
        "episodes end",
        "returns",
    )
)


@dataclass
class _Asked:
    """An environment whose answers are held against the protocol when they come."""

    environment: AnyEnvironment[Any]
    key: Callable[[Any], Hashable]
    laws: frozenset[str]
    states: list[Any] = field(default_factory=list)
    answered: list[tuple[str, Any, Hashable]] = field(default_factory=list)

    def broken(self, law: str, what: str) -> None:
        """Raise for a law that is not left out."""
        if law in self.laws:
            name = type(self.environment).__name__
            raise BrokenLawError(f"{name} breaks a law of search environments ('{law}'): {what}.")

    def log_prior(self, states: Sequence[Any]) -> NDArray[np.floating[Any]]:
        answer = self._unchanged("log_prior", states, lambda: self.environment.log_prior(states))
        expected = (len(states), self.environment.num_actions)
        if not isinstance(answer, np.ndarray) or not np.issubdtype(answer.dtype, np.floating):
            kind = answer.dtype if isinstance(answer, np.ndarray) else type(answer).__name__
            raise BrokenLawError(
                f"{type(self.environment).__name__} breaks a law of search environments ('the prior is a policy'): "
                f"log_prior answers {kind} where a NumPy array of floating-point numbers is due."
            )
        if answer.shape != expected:
            raise BrokenLawError(
                f"{type(self.environment).__name__} breaks a law of search environments ('the prior is a policy'): "
                f"log_prior answers shape {list(answer.shape)} where [states, actions] = {list(expected)} is due."
            )
        for row in np.flatnonzero(np.isnan(answer).any(axis=1))[:1]:
            self.broken("the prior is a policy", f"log_prior is NaN at {_short(states[row])}: {answer[row].tolist()}")
        total = np.exp(answer.astype(np.float64)).sum(axis=1)
        for row in np.flatnonzero(np.isneginf(answer).all(axis=1))[:1]:
            self.broken("the prior is a policy", f"log_prior forbids every action at {_short(states[row])}")
        for row in np.flatnonzero(~(np.abs(total - 1) <= TOLERANCE))[:1]:
            self.broken(
                "the prior is a policy",
                f"log_prior is not normalised: its probabilities at {_short(states[row])} sum to {total[row]:.6g}",
            )
        return answer.copy()

    def outcomes(self, states: Sequence[Any], actions: NDArray[np.int64]) -> list[list[Transition[Any]]]:
        """All that the actions lead to; one transition each where there is no chance."""
        world, given = self.environment, actions.copy()
        chance = isinstance(world, ChanceEnvironment)
        method = "outcomes" if chance else "step"

        def ask() -> Any:
            return world.outcomes(states, given) if chance else world.step(states, given)  # type: ignore[union-attr]

        answer = self._unchanged(method, states, ask)
        if not np.array_equal(actions, given):
            self.broken("states are values", f"{method} changes the actions that it is given; work on a copy")
        if len(answer) != len(states):
            raise BrokenLawError(
                f"{type(world).__name__} breaks a law of search environments ('transitions'): {method} answers "
                f"{len(answer)} rows about {len(states)} states."
            )
        rows = [list(row) if chance else [row] for row in answer]
        for state, action, row in zip(states, actions.tolist(), rows, strict=True):
            self._transitions(f"{method} of action {action} at {_short(state)}", row, chance)
        # What was answered is kept, to see whether later calls change it.
        self.answered = self.answered[-64:] + [
            (method, transition.state, self.key(transition.state)) for row in rows for transition in row
        ]
        return rows

    def trajectory_return(self, rewards: Sequence[float], state: Any) -> float:
        given = list(rewards)
        answer = self._unchanged("trajectory_return", [state], lambda: self.environment.trajectory_return(given, state))
        if given != list(rewards):
            self.broken("states are values", "trajectory_return changes the rewards that it is given; work on a copy")
        if not np.isscalar(answer) or not np.isfinite(answer):
            self.broken("returns", f"trajectory_return is {answer!r} of {_short(list(rewards))} and {_short(state)}")
        return float(answer)

    def _transitions(self, where: str, row: list[Any], chance: bool) -> None:
        if not row:
            self.broken("transitions", f"{where} has no outcome")
        for transition in row:
            if not isinstance(transition, Transition):
                raise BrokenLawError(
                    f"{type(self.environment).__name__} breaks a law of search environments ('transitions'): {where} "
                    f"is a {type(transition).__name__}, no Transition."
                )
            if not np.isfinite(transition.reward):
                self.broken("transitions", f"the reward is {transition.reward}: {where}")
            if not isinstance(transition.ended, (bool, np.bool_)):
                self.broken("transitions", f"`ended` is {transition.ended!r}, no truth value: {where}")
        probability = [transition.probability for transition in row]
        if chance and (min(probability) <= 0 or not abs(sum(probability) - 1) <= TOLERANCE):
            self.broken("transitions", f"the probabilities {probability} must be above 0 and sum to 1: {where}")

    def _unchanged(self, method: str, states: Sequence[Any], ask: Callable[[], Any]) -> Any:
        before = [self.key(state) for state in states]
        try:
            answer = ask()
        except Exception as error:
            name = type(self.environment).__name__
            raise BrokenLawError(
                f"{name} breaks a law of search environments: {method} raised {type(error).__name__}: {error} about "
                f"{_short(states)}."
            ) from error
        for state, known in zip(states, before, strict=True):
            if self.key(state) != known:
                self.broken(
                    "states are values",
                    f"{method} changes a state that it is given, or fills a buffer of its own anew; it is now "
                    f"{_short(state)}",
                )
        for origin, state, known in self.answered:
            if self.key(state) != known:
                self.broken(
                    "states are values",
                    f"{method} changes a state that {origin} has answered before; return new objects, not a buffer; it "
                    f"is {_short(state)} now",
                )
        return answer


_Walk = tuple[list[float], Any]
"""The rewards of a walk, and where it ends."""


def _explore(asked: _Asked, roots: list[Any], max_states: int, max_depth: int) -> list[_Walk]:
    known = {asked.key(root): root for root in roots}
    layer = roots
    while layer and len(known) <= max_states:
        layer = layer[:max_states]
        allowed = asked.log_prior(layer) > -np.inf
        asked.states += layer
        row, action = np.nonzero(allowed)
        found = asked.outcomes([layer[i] for i in row], action)
        layer = []
        for transition in (transition for outcomes in found for transition in outcomes):
            name = asked.key(transition.state)
            # Histories may differ where states do not: equal states go on alike.
            if name not in known and not transition.ended:
                layer.append(transition.state)
            known.setdefault(name, transition.state)
    return [_walked(asked, root, max_depth, seed) for seed in range(2) for root in roots[:8]]


def _walked(asked: _Asked, state: Any, max_depth: int, seed: int) -> _Walk:
    generator, rewards = np.random.default_rng(seed), []
    for _ in range(max_depth):
        policy = np.exp(asked.log_prior([state])[0].astype(np.float64)) > 0
        action = generator.choice(np.flatnonzero(policy)) if policy.any() else 0
        outcomes = asked.outcomes([state], np.array([action]))[0]
        transition = outcomes[generator.integers(len(outcomes))]
        state = transition.state
        rewards.append(float(transition.reward))
        if transition.ended:
            return rewards, state
    asked.broken("episodes end", f"a walk has not ended after {max_depth} actions; it is at {_short(state)}")
    return rewards, state


def _questions(asked: _Asked) -> tuple[list[Any], NDArray[np.int64]]:
    """States that have not ended, and an action of each that is allowed."""
    states = asked.states[:: max(1, len(asked.states) // ALONE)][: 2 * ALONE]
    allowed = asked.log_prior(states) > -np.inf
    # Another action in every state, where there are several.
    order = (np.arange(allowed.shape[1]) + np.arange(len(states))[:, None]) % allowed.shape[1]
    first = np.take_along_axis(allowed, order, 1).argmax(1)
    return states, np.take_along_axis(order, first[:, None], 1)[:, 0]


def _read(asked: _Asked, states: list[Any], actions: NDArray[np.int64]) -> list[tuple[NDArray[np.floating[Any]], Any]]:
    prior, found = asked.log_prior(states), asked.outcomes(states, actions)
    kept = [[(asked.key(t.state), t.reward, bool(t.ended), t.probability) for t in row] for row in found]
    return list(zip(prior, kept, strict=True))


def _again(asked: _Asked) -> None:
    states, actions = _questions(asked)
    _compare(asked, "the same again", states, _read(asked, states, actions), _read(asked, states, actions), "again")


def _alone(asked: _Asked) -> None:
    states, actions = _questions(asked)
    together = _read(asked, states, actions)
    alone = [_read(asked, [states[i]], actions[i : i + 1])[0] for i in range(len(states))]
    _compare(asked, "rows alone", states, together, alone, "alone")
    turned = _read(asked, states[::-1], actions[::-1].copy())[::-1]
    _compare(asked, "rows alone", states, together, turned, "in another order")


def _compare(asked: _Asked, law: str, states: list[Any], first: list[Any], second: list[Any], how: str) -> None:
    for state, (prior, found), (other_prior, other_found) in zip(states, first, second, strict=True):
        if not np.allclose(prior, other_prior, rtol=1e-4, atol=1e-5):
            what = f"{prior.tolist()} and {how} {other_prior.tolist()}"
            asked.broken(law, f"log_prior of {_short(state)} is {what}")
        for one, other in zip(found, other_found, strict=False):
            if one[0] != other[0] or one[2] != other[2] or not np.allclose(one[1::2], other[1::2], rtol=1e-5):
                asked.broken(law, f"an action at {_short(state)} leads to {_short(one)}, and {how} to {_short(other)}")
        if len(found) != len(other_found):
            what = f"{len(found)} outcomes, and {how} {len(other_found)}"
            asked.broken(law, f"an action at {_short(state)} has {what}")


def _returns(asked: _Asked, walks: list[_Walk]) -> None:
    if "returns" not in asked.laws:
        return
    for rewards, state in walks:
        first = asked.trajectory_return(rewards, state)
        second = asked.trajectory_return(deepcopy(rewards), state)
        if not np.isclose(first, second, rtol=1e-9):
            asked.broken("returns", f"trajectory_return of {_short(rewards)} is {first}, and again {second}")


def _short(value: object) -> str:
    return reprlib.repr(value)
