"""The support conversation as an environment: who sees what, what is scored, and what may go on."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import pytest
from examples.aflow_esc.dialogues import Dialogue, Scene
from examples.aflow_esc.environment import SupportEnvironment, SupportState
from examples.aflow_esc.roles.protocols import CRITERIA, Roles, SeekerReply, Status
from numpy.typing import NDArray

from examples.aflow_esc.strategies import AFLOW
from gflowdial.search import SearchConfig, SearchEnvironment, search

SCENES = [Scene(f"s{n}", f"situation {n}", "fear", "job", f"opening {n}") for n in range(6)]


class Scripted:
    """All four roles; what they say hangs on the dialogue alone, and what they were shown is kept."""

    def __init__(self, scores: Sequence[float] = (1, 2, 3, 4), leave_at: int = 99, help_at: int = 99) -> None:
        self.scores, self.leave_at, self.help_at = scores, leave_at, help_at
        self.heard: list[Dialogue] = []
        self.scored: list[Dialogue] = []
        self.replied: list[Dialogue] = []
        self.calls: list[str] = []

    def log_prior(self, dialogues: Sequence[Dialogue]) -> NDArray[np.float64]:
        self.calls.append("prior")
        return np.full((len(dialogues), len(AFLOW)), -math.log(len(AFLOW)))

    def reply(self, dialogues: Sequence[Dialogue], strategies: Sequence[str]) -> list[str]:
        self.calls.append("reply")
        self.replied += dialogues
        return [f"reply {len(d.turns)} to {d.turns[-1].text}" for d, _ in zip(dialogues, strategies, strict=True)]

    def respond(self, dialogues: Sequence[Dialogue]) -> list[SeekerReply]:
        self.calls.append("respond")
        self.heard += dialogues
        return [SeekerReply(f"answer {len(d.turns)}", self._status(len(d.turns) // 2)) for d in dialogues]

    def _status(self, turn: int) -> Status:
        return "left" if turn >= self.leave_at else "helped" if turn >= self.help_at else "continues"

    def score(self, dialogues: Sequence[Dialogue]) -> NDArray[np.float64]:
        self.calls.append("score")
        self.scored += dialogues
        return np.tile(np.array(self.scores, float), (len(dialogues), 1))


def environment(script: Scripted, max_turns: int = 10) -> SupportEnvironment:
    return SupportEnvironment(Roles(script, script, script, script), AFLOW, max_turns)


def test_it_fills_the_search_protocol() -> None:
    env: SearchEnvironment[SupportState] = environment(Scripted())
    assert env.num_actions == 8


def test_a_step_is_one_call_per_role_for_the_whole_batch() -> None:
    script = Scripted()
    states = [SupportState.begin(scene) for scene in SCENES]
    transitions = environment(script).step(states, np.arange(6))
    assert script.calls == ["reply", "respond", "score"]
    for n, transition in enumerate(transitions):
        opening, reply, answer = transition.state.dialogue.turns
        assert (opening.text, reply.text, answer.text) == (
            f"opening {n}",
            f"reply 1 to opening {n}",
            "answer 2",
        )
        assert reply.strategy == AFLOW.names[n]
        assert not transition.ended
    assert states == [SupportState.begin(scene) for scene in SCENES], "states are values"


def test_the_seeker_never_sees_a_strategy() -> None:
    script = Scripted()
    found = search(environment(script), [SupportState.begin(s) for s in SCENES], range(6))
    assert script.heard
    for dialogue in script.heard:
        assert dialogue.strategies == ()
        assert dialogue.turns[-1].speaker == "supporter"
    assert any(state.dialogue.strategies for state in found.states), "the supporter's own record keeps them"


def test_the_expanded_exchange_is_the_one_scored() -> None:
    script = Scripted()
    transitions = environment(script).step([SupportState.begin(scene) for scene in SCENES], np.zeros(6, np.int64))
    assert script.scored == [transition.state.dialogue for transition in transitions]
    assert all(len(dialogue.turns) == 3 for dialogue in script.scored)


def test_turn_reward_is_the_weighted_mean_score() -> None:
    state = SupportState.begin(SCENES[0])
    for scores, reward in (
        ((1, 1, 1, 1), 0.2),
        ((5, 5, 5, 5), 1.0),
        ((1, 2, 3, 4), (0.1 + 0.2 + 0.3 + 0.8) / 2.5),
    ):
        [transition] = environment(Scripted(scores)).step([state], np.array([0]))
        assert transition.reward == pytest.approx(reward)


def test_return_is_the_mean_reward_and_nothing_if_the_seeker_left() -> None:
    env = environment(Scripted())
    state = SupportState.begin(SCENES[0])
    for status, expected in (("continues", 0.4), ("helped", 0.4), ("left", 0.0)):
        final = dataclasses.replace(state, status=status)
        assert env.trajectory_return([0.2, 0.6], final) == pytest.approx(expected)


@pytest.mark.parametrize(("settings", "turns"), [({"leave_at": 2}, 2), ({"help_at": 3}, 3), ({}, 4)])
def test_an_ended_dialogue_is_never_expanded(settings: dict[str, int], turns: int) -> None:
    script = Scripted(**settings)
    env = environment(script, max_turns=4)
    config = SearchConfig(simulations=40, rollout_length=5, kappa=0.0, prior_weight=0.0)
    found = search(env, [SupportState.begin(SCENES[0])], [0], config)
    assert max(state.turns_taken for state in found.states) <= turns
    assert max(len(dialogue.strategies) for dialogue in script.replied) < turns
    for ended, state in zip(found.ended.tolist(), found.states, strict=True):
        assert ended == env.ended(state)
    over = dataclasses.replace(SupportState.begin(SCENES[0]), status="helped")
    with pytest.raises(ValueError, match="has ended"):
        env.step([over], np.array([0]))


def test_a_seeker_who_leaves_brings_the_return_to_nothing() -> None:
    found = search(
        environment(Scripted(leave_at=1)), [SupportState.begin(SCENES[0])], [0], SearchConfig(simulations=20)
    )
    assert found.leaf_return.tolist() == [0.0] * len(found.leaf_return)
    assert found.reward[1:].min() > 0, "the turn's own reward stands"


@pytest.mark.parametrize("scores", [(0, 1, 1, 1), (1, 1, 6, 1), (math.nan, 1, 1, 1), (1, 1)])
def test_wrong_scores_are_named(scores: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="the rewarder"):
        environment(Scripted(scores)).step([SupportState.begin(SCENES[0])], np.array([0]))


def test_wrong_settings_are_named() -> None:
    script = Scripted()
    roles = Roles(script, script, script, script)
    with pytest.raises(ValueError, match="max_turns is 0"):
        SupportEnvironment(roles, AFLOW, 0)
    with pytest.raises(ValueError, match=CRITERIA[0]):
        SupportEnvironment(roles, AFLOW, weights=(0.1, 0.1))
