"""An environment's answers, checked when they come."""

import reprlib
from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from gflowdial.search.environment import AnyEnvironment, ChanceEnvironment, SearchEnvironment, State, Transition

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

TOLERANCE = 1.1e-4
"""How far probabilities may sum from 1; what comes from float32 passes."""


def ask_prior(environment: AnyEnvironment[State], states: Sequence[State]) -> Floats:
    """The prior's log-probabilities ``[B, A]`` at states that have not ended."""
    return check_prior("prior", environment.log_prior(states), states, environment.num_actions)


def check_prior(name: str, log_prior: Floats, states: Sequence[State], num_actions: int) -> Floats:
    """Log-probabilities as they are, where they have a row per state and each is normalised."""
    expected = (len(states), num_actions)
    if log_prior.shape != expected:
        raise ValueError(f"the {name} answered in shape {log_prior.shape}: expected {expected}")
    total = np.exp(log_prior).sum(axis=1)
    if not (np.abs(total - 1) <= TOLERANCE).all():
        nothing = np.flatnonzero(np.isneginf(log_prior).all(axis=1))
        if len(nothing):
            raise ValueError(
                f"the {name} forbids every action in {reprlib.repr(states[nothing[0]])}, which has not ended: allow an "
                "action there, or end the episode"
            )
        raise ValueError(f"the {name}'s probabilities do not sum to 1: return normalised log-probabilities")
    return log_prior


def ask_outcomes(
    environment: AnyEnvironment[State], states: Sequence[State], actions: Ints
) -> list[Sequence[Transition[State]]]:
    """Everything that each action can lead to; of an environment without chance, the one transition."""
    if not isinstance(environment, ChanceEnvironment):
        return [[transition] for transition in take_step(environment, states, actions)]
    outcomes = environment.outcomes(states, actions)
    if len(outcomes) != len(states):
        raise ValueError(f"the environment answered {len(states)} actions with {len(outcomes)} lists of outcomes")
    for state, answers in zip(states, outcomes, strict=True):
        probability = np.array([answer.probability for answer in answers])
        if not (probability > 0).all() or abs(probability.sum() - 1) > TOLERANCE:
            raise ValueError(
                f"the outcomes of an action in {reprlib.repr(state)} have the probabilities {probability.tolist()}: "
                "they must sum to 1, and what cannot happen is left out"
            )
        check_finite("reward", np.array([answer.reward for answer in answers]))
    return outcomes


def take_step(
    environment: AnyEnvironment[State], states: Sequence[State], actions: Ints, uniforms: Floats | None = None
) -> list[Transition[State]]:
    """What each action leads to; in a `ChanceEnvironment` ``uniforms [B]`` draw the outcomes."""
    if uniforms is not None:
        answers = ask_outcomes(environment, states, actions)
        return [some[draw(some, uniform)] for some, uniform in zip(answers, uniforms.tolist(), strict=True)]
    transitions = cast(SearchEnvironment[State], environment).step(states, actions)
    if len(transitions) != len(states):
        raise ValueError(f"the environment answered {len(states)} steps with {len(transitions)} transitions")
    check_finite("reward", np.array([transition.reward for transition in transitions]))
    return transitions


def draw(outcomes: Sequence[Transition[State]], uniform: float) -> int:
    """The number of an outcome, by its probability."""
    return int(sample(np.array([[outcome.probability for outcome in outcomes]]), np.array([uniform]))[0])


def sample(policy: Floats, uniforms: Floats) -> Ints:
    """One action per row of ``policy [B, A]``, by inverting its distribution function at ``uniforms [B]`` in [0, 1)."""
    below = np.cumsum(policy, axis=1)
    # An action of probability 0 adds nothing to the sum: no number lies between the sums before and after it.
    actions: Ints = (uniforms[:, None] * below[:, -1:] >= below[:, :-1]).sum(axis=1)
    return actions


def check_finite(name: str, values: Floats) -> None:
    """Refuse rewards and returns that are no numbers."""
    if not np.isfinite(values).all():
        wrong = values[~np.isfinite(values)][0]
        raise ValueError(f"the environment gave a {name} of {wrong}: it must be a finite number")
