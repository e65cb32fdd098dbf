"""The conversation as an environment: who sees what, what is scored, and what may go on."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from small_world import MASKED, MOVES, TASK, environment, every, hashed, random, scenes

from gflowdial.dialogue import Criterion, Dialogue, Reply, Roles
from gflowdial.dialogue.environment import DialogueEnvironment, DialogueState, StochasticDialogueEnvironment
from gflowdial.search import ChanceEnvironment, SearchConfig, SearchEnvironment, search

SCENES = scenes()[:6]
CRITERIA = tuple(Criterion(name) for name in ("one", "two", "three", "four"))
SCORED = dataclasses.replace(TASK, criteria=CRITERIA, turn_reward=lambda scores: scores.mean(axis=1))


class Scripted:
    """All four roles; what they say depends on the dialogue alone, and what they were shown is kept."""

    def __init__(self, scores: Sequence[float] = (1, 2, 3, 4), leave_at: int = 99, help_at: int = 99) -> None:
        self.scores, self.leave_at, self.help_at = scores, leave_at, help_at
        self.heard: list[Dialogue] = []
        self.scored: list[Dialogue] = []
        self.replied: list[Dialogue] = []
        self.calls: list[str] = []

    def log_prior(self, dialogues: Sequence[Dialogue]) -> NDArray[np.float64]:
        self.calls.append("prior")
        return np.full((len(dialogues), len(MOVES)), -math.log(len(MOVES)))

    def reply(self, dialogues: Sequence[Dialogue], moves: Sequence[str]) -> list[str]:
        self.calls.append("reply")
        self.replied += dialogues
        return [f"reply {len(d.turns)} to {d.turns[-1].text}" for d, _ in zip(dialogues, moves, strict=True)]

    def respond(self, dialogues: Sequence[Dialogue]) -> list[Reply]:
        self.calls.append("respond")
        self.heard += dialogues
        return [Reply(f"answer {len(d.turns)}", self._status(len(d.turns) // 2)) for d in dialogues]

    def _status(self, turn: int) -> str:
        return "left" if turn >= self.leave_at else "helped" if turn >= self.help_at else "continues"

    def score(self, dialogues: Sequence[Dialogue]) -> NDArray[np.float64]:
        self.calls.append("score")
        self.scored += dialogues
        return np.tile(np.array(self.scores, float), (len(dialogues), 1))


def scripted(script: Scripted, max_turns: int = 10) -> DialogueEnvironment:
    return DialogueEnvironment.of(SCORED, Roles(script, script, script, script), MOVES, max_turns)


def begun() -> list[DialogueState]:
    return [DialogueState.begin(scene) for scene in SCENES]


def test_it_fills_the_protocol_that_its_partner_asks_for() -> None:
    plain = scripted(Scripted())
    assert isinstance(plain, SearchEnvironment)
    assert not isinstance(plain, ChanceEnvironment)
    assert plain.num_actions == 3
    assert isinstance(environment(stochastic=True), ChanceEnvironment)


def test_a_step_is_one_call_per_role_for_the_whole_batch() -> None:
    script = Scripted()
    states = begun()
    actions = np.arange(6) % 3
    transitions = scripted(script).step(states, actions)
    assert script.calls == ["reply", "respond", "score"]
    for n, transition in enumerate(transitions):
        opening, reply, answer = transition.state.dialogue.turns
        assert opening.text == SCENES[n].opening
        assert (reply.text, answer.text) == (f"reply 1 to {opening.text}", "answer 2")
        assert reply.move == MOVES.names[actions[n]]
        assert not transition.ended
        assert transition.probability == 1
    assert states == begun(), "states are values"


def test_the_partner_never_sees_a_move() -> None:
    script = Scripted()
    found = search(scripted(script), begun(), range(6))
    assert script.heard
    for dialogue in script.heard:
        assert dialogue.moves == ()
        assert dialogue.turns[-1].speaker == "agent"
    assert any(state.dialogue.moves for state in found.states), "the agent's own record keeps them"


def test_the_expanded_exchange_is_the_one_scored() -> None:
    script = Scripted()
    transitions = scripted(script).step(begun(), np.zeros(6, np.int64))
    assert script.scored == [transition.state.dialogue for transition in transitions]
    assert all(len(dialogue.turns) == 3 for dialogue in script.scored)


def test_rewards_and_returns_are_the_task_s() -> None:
    world = environment()
    for state in begun():
        (made,) = world.step([state], np.array([1]))
        assert made.reward == TASK.reward(world.roles.judge.score([made.state.dialogue]))[0]
        for status, expected in (("continues", 0.4), ("helped", 0.4), ("left", 0.0)):
            final = dataclasses.replace(state, status=status)
            assert world.trajectory_return([0.2, 0.6], final) == pytest.approx(expected)


@pytest.mark.parametrize(("settings", "turns"), [({"leave_at": 2}, 2), ({"help_at": 3}, 3), ({}, 4)])
def test_an_ended_dialogue_is_never_expanded(settings: dict[str, int], turns: int) -> None:
    script = Scripted(**settings)
    world = scripted(script, max_turns=4)
    config = SearchConfig(simulations=40, rollout_length=5, kappa=0.0, prior_weight=0.0)
    found = search(world, begun()[:1], [0], config)
    assert max(state.dialogue.agent_turns for state in found.states) <= turns
    assert max(len(dialogue.moves) for dialogue in script.replied) < turns
    for ended, state in zip(found.ended.tolist(), found.states, strict=True):
        assert ended == world.ended(state)
    over = dataclasses.replace(begun()[0], status="helped")
    with pytest.raises(ValueError, match="has ended"):
        world.step([over], np.array([0]))


def test_a_partner_who_leaves_brings_the_return_to_nothing() -> None:
    found = search(scripted(Scripted(leave_at=1)), begun()[:1], [0], SearchConfig(simulations=20))
    assert found.leaf_return.tolist() == [0.0] * len(found.leaf_return)
    assert found.reward[1:].min() > 0, "the turn's own reward stands"


@pytest.mark.parametrize(
    ("scores", "named"),
    [
        ((0, 1, 1, 1), r"the judge scores one with 0\.0 to 0\.0: scores must lie in \[1, 5\]"),
        ((1, 1, 6, 1), "the judge scores three"),
        ((math.nan, 1, 1, 1), "the judge scores one with nan"),
        ((1, 1), r"the judge answers in shape \(1, 2\): expected \(1, 4\)"),
    ],
)
def test_wrong_scores_are_named(scores: tuple[float, ...], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        scripted(Scripted(scores)).step(begun()[:1], np.array([0]))


def test_an_unknown_status_is_named() -> None:
    class Bored(Scripted):
        def _status(self, turn: int) -> str:  # noqa: ARG002
            return "bored"

    with pytest.raises(ValueError, match=r"status 'bored': task 'small' knows 'continues', 'helped', 'left'"):
        scripted(Bored()).step(begun()[:1], np.array([0]))


def test_wrong_settings_are_named() -> None:
    script = Scripted()
    roles = Roles(script, script, script, script)
    for turns in (0, -1):
        with pytest.raises(ValueError, match=f"max_turns is {turns}: give at least 1"):
            DialogueEnvironment.of(SCORED, roles, MOVES, turns)
    assert DialogueEnvironment.of(SCORED, roles, MOVES).max_turns == SCORED.max_turns


@pytest.mark.parametrize("task", [TASK, MASKED])
def test_outcomes_are_all_answers_of_the_partner(task: object) -> None:
    world = environment(task, stochastic=True)
    assert isinstance(world, StochasticDialogueEnvironment)
    actions = np.arange(6) % 3
    together = world.outcomes(begun(), actions)
    assert {len(answers) for answers in together} > {1}
    for state, action, answers in zip(begun(), actions, together, strict=True):
        assert [answers] == world.outcomes([state], np.array([action]))
        said = world.roles.agent.reply([state.dialogue], [MOVES.names[action]])[0]
        spoken = answers[0].state.dialogue.turns[:-1]
        assert (spoken[-1].text, spoken[-1].move) == (said, MOVES.names[action])
        heard = dataclasses.replace(answers[0].state.dialogue, turns=spoken).without_moves()
        for reply, made in zip(world.roles.partner.replies([heard])[0], answers, strict=True):
            assert made.state.dialogue.turns == (*spoken, made.state.dialogue.turns[-1])
            assert (made.state.dialogue.turns[-1].text, made.state.status) == (reply.text, reply.status)
            assert made.probability == reply.probability
            assert made.ended == world.ended(made.state)
        assert sum(made.probability for made in answers) == pytest.approx(1)


def test_search_in_chance_has_chance_nodes_and_enumeration_has_all_of_them() -> None:
    world = environment(turns=2, stochastic=True)
    exact = every(world)
    found = search(world, begun()[:1], [0], SearchConfig(simulations=400, max_depth=2, rollout_length=2))
    outcomes = {  # By dialogue and what was just done: every answer with its probability.
        exact.states[node].dialogue: math.exp(exact.log_chance[node])
        for node, above in list(enumerate(exact.forest.parent.tolist()))[1:]
        if exact.chance[above]
    }
    total = np.bincount(
        exact.forest.edge_parent, exact.log_chance[exact.forest.edge_child].exp(), exact.forest.num_nodes
    )
    np.testing.assert_allclose(total[exact.chance.numpy()], 1)
    assert bool(found.chance.any())
    for node, above in list(enumerate(found.forest.parent.tolist()))[1:]:
        assert bool(found.chance[node]) != bool(found.chance[above])
        if found.chance[above]:
            assert math.exp(found.log_chance[node]) == pytest.approx(outcomes[found.states[node].dialogue])
        else:
            assert found.states[node] == found.states[above]
    assert len(exact.forest.leaves) > 20


def test_enumeration_is_every_history() -> None:
    """Against a recursion that knows nothing of trees."""

    def below(world: DialogueEnvironment, state: DialogueState) -> list[DialogueState]:
        if world.ended(state):
            return [state]
        allowed = np.flatnonzero(world.log_prior([state])[0] > -np.inf)
        found = []
        for action in allowed.tolist():
            stochastic = isinstance(world, StochasticDialogueEnvironment)
            made = (world.outcomes if stochastic else world.step)([state], np.array([action]))
            answers = made[0] if stochastic else made
            found += [end for answer in answers for end in below(world, answer.state)]
        return found

    for task in (TASK, MASKED):
        for stochastic in (False, True):
            world = environment(task, turns=2, stochastic=stochastic)
            tree = every(world)
            leaves = [tree.states[leaf] for leaf in tree.forest.leaves.tolist()]
            expected = below(world, begun()[0])
            assert len(leaves) == len(expected) == len(set(leaves))
            assert set(leaves) == set(expected)


def test_a_mask_that_leaves_nothing_or_has_another_shape_is_named() -> None:
    for allowed, named in (
        (lambda d, inventory: [False] * 3, "no allowed move has any probability after 'opening 0"),  # noqa: ARG005
        (lambda d, inventory: [True] * 2, "task.allowed answers in shape"),  # noqa: ARG005
    ):
        world = environment(dataclasses.replace(TASK, allowed=allowed), hashed(MOVES))
        with pytest.raises(ValueError, match=named):
            world.log_prior(begun()[:1])
    assert random(MOVES).enumerable
