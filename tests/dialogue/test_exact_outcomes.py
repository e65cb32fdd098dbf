"""Outcomes of any task, with chance and masks: enumerated ones against brute force, played ones against enumerated."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from small_world import MASKED, MOVES, TASK, begun, draw, environment, every, hashed, random, scenes

from gflowdial.dialogue import Dialogue
from gflowdial.dialogue.environment import DialogueEnvironment, DialogueState, StochasticDialogueEnvironment
from gflowdial.dialogue.outcomes import (
    EnumeratedScene,
    Outcome,
    best_log_pf,
    enumerated_outcome,
    greedy_log_pf,
    mean_outcome,
    policy_log_pf,
    sampled_outcome,
)
from gflowdial.dialogue.play import play
from gflowdial.dialogue.policies import GreedyPolicy, PriorPolicy, UniformPolicy
from gflowdial.search import Transition, enumerate_tree

TAU = 0.2


@dataclass(frozen=True)
class Whim:
    """A policy drawn from a hash."""

    salt: int

    def log_policy(self, dialogues: Sequence[Dialogue]) -> NDArray[np.float64]:
        scores = np.array([[3 * draw(d, f"{self.salt} {name}") for name in MOVES.names] for d in dialogues])
        return scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)


def answers(world: DialogueEnvironment, state: DialogueState, action: int) -> Sequence[Transition[DialogueState]]:
    taken = np.array([action])
    return (
        world.outcomes([state], taken)[0]
        if isinstance(world, StochasticDialogueEnvironment)
        else world.step([state], taken)
    )


def allowed(world: DialogueEnvironment, state: DialogueState) -> list[int]:
    return np.flatnonzero(world.log_prior([state])[0] > -np.inf).tolist()


def log_flow(world: DialogueEnvironment, state: DialogueState, rewards: tuple[float, ...]) -> float:
    """log F: Σ R at an end, Σ over moves of the flow that is expected over answers."""
    if world.ended(state):
        return world.trajectory_return(rewards, state) / TAU
    return float(np.logaddexp.reduce(list(move_flows(world, state, rewards).values())))


def move_flows(world: DialogueEnvironment, state: DialogueState, rewards: tuple[float, ...]) -> dict[int, float]:
    return {
        action: float(
            np.logaddexp.reduce(
                [
                    np.log(made.probability) + log_flow(world, made.state, (*rewards, made.reward))
                    for made in answers(world, state, action)
                ]
            )
        )
        for action in allowed(world, state)
    }


Policy = Any


def policy_at(
    world: DialogueEnvironment, policy: Policy, state: DialogueState, rewards: tuple[float, ...]
) -> dict[int, float]:
    """Probabilities of the allowed moves; None is the exact flow policy."""
    if policy is None:
        flows = move_flows(world, state, rewards)
        total = np.logaddexp.reduce(list(flows.values()))
        return {action: float(np.exp(flow - total)) for action, flow in flows.items()}
    p = np.exp(policy.log_policy([state.dialogue])[0])
    moves = allowed(world, state)
    return {action: float(p[action] / p[moves].sum()) for action in moves}


def leaves(
    world: DialogueEnvironment, policy: Policy, state: DialogueState, rewards: tuple[float, ...] = (), p: float = 1.0
) -> Iterator[tuple[DialogueState, float, float, list[tuple[float, float]]]]:
    """Each whole conversation: its end, its return, its probability, and the entropies on the way with their reach."""
    if world.ended(state):
        yield state, world.trajectory_return(rewards, state), p, []
        return
    probabilities = policy_at(world, policy, state, rewards)
    entropy = -sum(q * np.log(q) for q in probabilities.values() if q > 0)
    first = True
    for action, q in probabilities.items():
        for made in answers(world, state, action):
            reach = p * q * made.probability
            for end, value, mass, way in leaves(world, policy, made.state, (*rewards, made.reward), reach):
                # Every state counts once.
                yield end, value, mass, [*([(entropy, p)] if first else []), *way]
                first = False


def by_force(world: DialogueEnvironment, policy: Policy, root: DialogueState) -> dict[str, float | None]:
    found, exact = list(leaves(world, policy, root)), list(leaves(world, None, root))
    mass, target = np.array([row[2] for row in found]), np.array([row[2] for row in exact])
    assert [row[0] for row in found] == [row[0] for row in exact]
    assert mass.sum() == pytest.approx(1)
    ways = [step for row in found for step in row[3]]
    return {
        "expected_return": float(mass @ np.array([row[1] for row in found])),
        "success": float(mass @ np.array([row[0].status == "helped" for row in found])),
        "left": float(mass @ np.array([row[0].status == "left" for row in found])),
        "turns": float(mass @ np.array([row[0].dialogue.agent_turns for row in found])),
        "entropy": sum(h * p for h, p in ways) / sum(p for _, p in ways),
        "total_variation": float(abs(mass - target).sum() / 2),
        **of_ratios(mass, target),
        "good_conversations": among_64(mass, np.array([row[1] for row in found])),
        "environment_steps": 0.0,
    }


def of_ratios(mass: NDArray[np.float64], target: NDArray[np.float64]) -> dict[str, float | None]:
    """KL(target ‖ policy), and tanh(L/4) with L the greatest difference of two log-ratios."""
    if (mass == 0).any():
        return {"kl": None, "certificate": None}
    ratio = np.log(target) - np.log(mass)
    spread = max(abs(a - b) for a in ratio for b in ratio)
    return {"kl": float(sum(target * ratio)), "certificate": float(np.tanh(spread / 4))}


def among_64(mass: NDArray[np.float64], returns: NDArray[np.float64]) -> float:
    """The expected number of good conversations, each of which is among 64 samples or is not."""
    chances = [1 - prod([1 - p] * 64) for p, value in zip(mass, returns, strict=True) if value >= 0.9 * max(returns)]
    return float(sum(chances))


def best_return(world: DialogueEnvironment, state: DialogueState, rewards: tuple[float, ...] = ()) -> float:
    """max E[G]: the greatest over moves of the mean over answers."""
    if world.ended(state):
        return world.trajectory_return(rewards, state)
    return max(
        sum(
            made.probability * best_return(world, made.state, (*rewards, made.reward))
            for made in answers(world, state, a)
        )
        for a in allowed(world, state)
    )


@given(
    st.sampled_from([TASK, MASKED]),
    st.booleans(),
    st.integers(0, 6),
    st.one_of(st.none(), st.builds(Whim, st.integers(0, 99)), st.just(UniformPolicy(3))),
)
@settings(max_examples=24)
def test_enumerated_outcomes_equal_brute_force(task: Any, stochastic: bool, number: int, policy: Policy) -> None:
    world = environment(task, (random if stochastic else hashed)(MOVES), turns=2)
    root = DialogueState.begin(scenes()[number])
    tree = enumerate_tree(world, [root])
    found = enumerated_outcome(world, tree, policy, TAU)
    agrees(found, by_force(world, policy, root))
    assert found["total_variation"] <= found["certificate"] + 1e-12
    if policy is None:
        assert found["total_variation"] == pytest.approx(0, abs=1e-9)
        assert found["certificate"] == pytest.approx(0, abs=1e-9)
        return
    # The same policy, greedy: played with one move at a time, and from its table.
    scene, likeliest = EnumeratedScene.of(world, tree, TAU), GreedyPolicy(policy, world)
    found = scene.outcome(greedy_log_pf(tree, policy_log_pf(world, tree, policy)))
    assert found == scene.outcome(policy_log_pf(world, tree, likeliest))
    agrees(found, by_force(world, likeliest, root))
    assert found["entropy"] == 0


def agrees(found: Outcome, wanted: dict[str, float | None]) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name] == (None if value is None else pytest.approx(value, abs=1e-9)), name


@pytest.mark.parametrize("task", [TASK, MASKED])
@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("number", [0, 1, 4])
def test_nothing_earns_more_than_the_best(task: Any, stochastic: bool, number: int) -> None:
    world = environment(task, (random if stochastic else hashed)(MOVES), turns=2)
    root = DialogueState.begin(scenes()[number])
    tree = enumerate_tree(world, [root])
    scene = EnumeratedScene.of(world, tree, TAU)
    best = scene.outcome(best_log_pf(tree))
    assert best["expected_return"] == pytest.approx(best_return(world, root))
    for policy in (None, Whim(1), GreedyPolicy(Whim(2), world), UniformPolicy(3)):
        other = enumerated_outcome(world, tree, policy, TAU)
        assert other["expected_return"] <= best["expected_return"] + 1e-12


@pytest.mark.parametrize("task", [TASK, MASKED])
@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("policy", [UniformPolicy(3), Whim(1), PriorPolicy(hashed(MOVES).prior)])
def test_a_policy_played_often_has_the_outcome_that_was_enumerated(task: Any, stochastic: bool, policy: Policy) -> None:
    world = environment(task, stochastic=stochastic, turns=2)
    episodes = 600
    (played,) = play(world, policy, [begun()[0].dialogue.scene], episodes, 0)
    found, exact = sampled_outcome(world, played), enumerated_outcome(world, every(world), policy, TAU)
    assert {name for name, value in found.items() if value is None} == {
        "total_variation",
        "kl",
        "certificate",
        "good_conversations",
    }
    returns = np.array([episode.episode_return for episode in played])
    # Returns and shares lie in [0, 1], turns in [1, 2]: a standard deviation is at most half the range.
    for name, spread in (("expected_return", returns.std()), ("success", 0.5), ("left", 0.5), ("turns", 1.0)):
        assert found[name] == pytest.approx(exact[name], abs=4 * spread / np.sqrt(episodes) + 1e-12), name
    # The mean over states that are reached, from playing as from enumeration.
    entropies = np.concatenate([episode.entropies for episode in played])
    assert entropies.mean() == pytest.approx(exact["entropy"], abs=4 * np.log(3) / np.sqrt(len(entropies)))


def test_means_are_of_what_is_known() -> None:
    mean = mean_outcome([{"a": 1.0, "b": None}, {"a": 2.0, "b": 3.0}])
    assert mean == {"a": 1.5, "b": None}
