"""The chat: the notice first, the guard before the policy, who writes the replies, and an end at a goodbye."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from learners import talk, untrained
from small_world import MOVES, TASK, Hashed
from tiny_model import tiny_model

from gflowdial.dialogue import Dialogue
from gflowdial.dialogue.config import ConfigError, RunConfig
from gflowdial.dialogue.policies import LearnedPolicy
from gflowdial.dialogue.setting import Setting
from gflowdial.dialogue.speakers import DescribingAgent, Speaker, speaker_of
from gflowdial.estimators.language_model import PolicyOutput

ALARM = "Fire, fire!"
SETTINGS: dict[str, Any] = {
    "task": "small_world:TASK",
    "experiment": "conversation",
    "seeds": [0],
    "model": {"kind": "tiny"},
    "training": {"methods": ["behaviour_cloning"]},
}


@dataclass(frozen=True)
class Alert:
    reply: str


def guard(locale: str) -> Callable[[str], Alert | None]:
    if locale == "nowhere":
        raise ValueError("no help is known for 'nowhere'")
    return lambda text: Alert(f"Please leave the house, {locale}.") if "fire" in text.casefold() else None


GUARDED = replace(TASK, guard=guard, notice="Only a test.")


@dataclass(frozen=True)
class Fixed(LearnedPolicy):
    """Prefers one move, and remembers what it was shown."""

    action: int = 2
    ranked: int = 2
    read_at: list[Dialogue] = field(default_factory=list)

    def read(self, dialogue: Dialogue) -> PolicyOutput:
        self.read_at.append(dialogue)
        logits, values = torch.zeros(1, 3), torch.zeros(1, 3)
        logits[0, self.action], values[0, self.ranked] = 5.0, 9.0
        return PolicyOutput(logits.log_softmax(-1), values, torch.zeros(1))


def fixed(action: int = 2, ranked: int = 2) -> Fixed:
    policy = untrained(MOVES)
    return Fixed(policy.model, policy.encoder, action=action, ranked=ranked)


def test_the_notice_comes_before_the_first_word() -> None:
    said = talk(GUARDED, policy := fixed(), "quit\n", Speaker(Hashed(), "Replies are the task's own."))
    assert said.startswith("Only a test.\nReplies are the task's own.\n(Say quit, exit, bye to end.)\nyou: ")
    assert said.rstrip().endswith("Take care.")
    assert not policy.read_at


@pytest.mark.parametrize("lines", ["hello\nQUIT\nmore\n", "hello\nbye\nmore\n", "hello\n exit \nmore\n", "hello\n"])
def test_it_ends_at_a_goodbye_or_the_end_of_the_lines(lines: str) -> None:
    said = talk(TASK, policy := fixed(), lines)
    assert said.rstrip().endswith("Take care.")
    assert len(policy.read_at) == 1


@pytest.mark.parametrize("action", range(3))
def test_replies_follow_the_best_move_and_the_history_grows(action: int) -> None:
    said = talk(TASK, policy := fixed(action), "I lost my job.\n\n   \nIt was sudden.\n", Speaker(Hashed(), "Own."))
    assert said.count(f"agent ({MOVES.names[action]}): ") == 2
    first, second = policy.read_at
    assert [turn.text for turn in first.turns] == ["I lost my job."]
    assert first.scene == replace(TASK.scenes()[0], opening="I lost my job.")
    assert [turn.speaker for turn in second.turns] == ["partner", "agent", "partner"]
    assert second.turns[1].move == MOVES.names[action]
    assert second.turns[1].text in said
    assert second.turns[2].text == "It was sudden."
    assert Hashed().reply([first], [MOVES.names[action]])[0] == second.turns[1].text


def test_the_value_ranks_where_it_was_trained_to() -> None:
    assert f"agent ({MOVES.names[0]})" in talk(TASK, fixed(0, 1), "hello\n")
    assert f"agent ({MOVES.names[1]})" in talk(TASK, fixed(0, 1), "hello\n", ranks_by_value=True)


def test_the_guard_overrides_the_policy_and_keeps_the_line_from_it() -> None:
    said = talk(GUARDED, policy := fixed(), f"hello\n{ALARM}\nI am calmer now.\n", locale="GB")
    assert "agent: Please leave the house, GB." in said
    assert len(policy.read_at) == 2
    assert not any(ALARM in turn.text for dialogue in policy.read_at for turn in dialogue.turns)
    assert said.count("agent (") == 2


def test_an_alarm_in_the_first_words_is_answered_before_anything_else() -> None:
    said = talk(GUARDED, policy := fixed(), f"{ALARM}\nquit\n")
    assert "Please leave the house" in said
    assert not policy.read_at
    # The conversation then begins with the next line.
    talk(GUARDED, policy, f"{ALARM}\nhello\n")
    assert [turn.text for turn in policy.read_at[0].turns] == ["hello"]


def test_a_locale_that_the_guard_does_not_know_is_named() -> None:
    with pytest.raises(ConfigError, match="--locale: no help is known for 'nowhere'"):
        talk(GUARDED, fixed(), "hello\n", locale="nowhere")


def speaker(**settings: Any) -> Speaker:
    return speaker_of(Setting(RunConfig.model_validate({**SETTINGS, **settings})))


def test_a_run_s_own_canned_roles_speak_and_say_so() -> None:
    found = speaker(roles={"kind": "hashed"})
    assert found.manner == "Replies are chosen from a fixed list of phrases."
    assert isinstance(found.agent, Hashed)


def test_a_run_without_roles_describes_its_moves() -> None:
    found = speaker(roles=None, experiment="labels")
    assert found.manner == "Replies are canned: each says what the move does."
    said = talk(TASK, fixed(0), "hello\n", found)
    assert "agent (Ask): [Put a question.]" in said
    dialogue = Dialogue.begin(TASK.scenes()[0])
    assert DescribingAgent(MOVES).reply([dialogue] * 2, ["Tell", "Wait"]) == ["[State a fact.]", "[Wait]"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    model, tokenizer = tiny_model()
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.mark.parametrize("role", [True, False])
def test_a_language_model_writes_samples_that_end_at_a_sentence(
    folder: Path, role: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the roles where they are a language model's, of the policy where there are no roles."""
    model = {"kind": "pretrained", "name": str(folder)}
    roles = {"kind": "local", "model": str(folder)}
    settings = {"roles": roles} if role else {"model": model, "roles": None, "experiment": "labels"}
    found = speaker(**settings)
    assert found.manner == f"Replies are written by the language model {folder}, sampled anew each time."
    writing: dict[str, Any] = found.agent.writing
    assert writing["temperature"] > 0
    assert writing["whole_sentences"]
    assert writing["seed"] != speaker(**settings).agent.writing["seed"]
    dialogues, moves = [Dialogue.begin(scene) for scene in TASK.scenes()], ["Ask"] * 7
    # A model that would go on for ever is cut, and ends with its last whole sentence.
    monkeypatch.setattr("gflowdial.dialogue.local.model._whole_sentences", cut)
    CUT.clear()
    replies = found.agent.reply(dialogues, moves)
    assert CUT
    assert set(CUT) <= set(replies)


CUT: list[str] = []


def cut(text: str) -> str:
    """The text up to its last full stop, or a mark that it was cut."""
    match = re.match(r".*\.", text, re.DOTALL)
    CUT.append(match[0] if match else "cut.")
    return CUT[-1]


def test_the_agents_of_a_chat_are_agents(folder: Path) -> None:
    found: Sequence[Speaker] = [
        speaker(roles={"kind": "hashed"}),
        speaker(roles=None, experiment="labels"),
        speaker(roles={"kind": "local", "model": str(folder)}),
    ]
    for each in found:
        assert talk(TASK, fixed(1), "hello\nthere\n", each).count("agent (Tell): ") == 2
