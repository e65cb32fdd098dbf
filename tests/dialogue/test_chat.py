"""The chat: the notice first, crisis before the policy, and an end when one says goodbye."""

import io
from dataclasses import dataclass, field

import pytest
import torch
from examples.aflow_esc.chat import chat
from examples.aflow_esc.config import ConfigError, RunConfig
from examples.aflow_esc.dialogues import Dialogue
from examples.aflow_esc.setting import Setting
from miniature import SETTINGS

from examples.aflow_esc.crisis import RESEARCH_NOTICE
from examples.aflow_esc.strategies import AFLOW
from gflowdial.estimators.language_model import PolicyOutput

CRISIS = "I want to kill myself tonight."


@dataclass
class Fixed:
    """Prefers one strategy, and remembers what it was shown."""

    action: int = 2
    read_at: list[Dialogue] = field(default_factory=list)

    def read(self, dialogue: Dialogue) -> PolicyOutput:
        self.read_at.append(dialogue)
        logits = torch.zeros(1, len(AFLOW))
        logits[0, self.action] = 5.0
        return PolicyOutput(logits.log_softmax(-1), torch.zeros(1, len(AFLOW)), torch.zeros(1))


def talk(lines: str, policy: Fixed) -> str:
    out = io.StringIO()
    setting = Setting(RunConfig.model_validate(SETTINGS))
    chat(setting, policy, "afpo_anchored", 1, "international", io.StringIO(lines), out)
    return out.getvalue()


def test_the_notice_comes_before_the_first_word() -> None:
    said = talk("quit\n", policy := Fixed())
    assert said.startswith(RESEARCH_NOTICE)
    assert "The conversation is not stored." in said
    assert said.rstrip().endswith("Take care.")
    assert not policy.read_at


@pytest.mark.parametrize("lines", ["hello\nQUIT\nmore\n", "hello\nbye\nmore\n", "hello\n exit \nmore\n", "hello\n"])
def test_it_ends_at_a_goodbye_or_the_end_of_the_lines(lines: str) -> None:
    said = talk(lines, policy := Fixed())
    assert said.rstrip().endswith("Take care.")
    assert len(policy.read_at) == 1


def test_replies_follow_the_best_strategy_and_the_history_grows() -> None:
    said = talk("I lost my job.\n\n   \nIt was sudden.\n", policy := Fixed(4))
    assert said.count(f"supporter ({AFLOW.names[4]}): ") == 2
    first, second = policy.read_at
    assert [turn.text for turn in first.turns] == ["I lost my job."]
    assert [turn.speaker for turn in second.turns] == ["seeker", "supporter", "seeker"]
    assert second.turns[1].strategy == AFLOW.names[4]
    assert second.turns[1].text in said
    assert second.turns[2].text == "It was sudden."


def test_a_crisis_overrides_the_policy_and_is_kept_from_it() -> None:
    said = talk(f"hello\n{CRISIS}\nI am calmer now.\n", policy := Fixed())
    assert "you do not have to carry this alone" in said
    assert len(policy.read_at) == 2
    assert not any(CRISIS in turn.text for dialogue in policy.read_at for turn in dialogue.turns)
    assert said.count("supporter (") == 2


def test_a_crisis_in_the_first_words_is_answered_before_anything_else() -> None:
    said = talk(f"{CRISIS}\nquit\n", policy := Fixed())
    assert "you do not have to carry this alone" in said
    assert not policy.read_at


def test_without_roles_there_is_nobody_to_speak() -> None:
    setting = Setting(RunConfig.model_validate({**SETTINGS, "roles": None}))
    out = io.StringIO()
    with pytest.raises(ConfigError, match="roles is missing"):
        chat(setting, Fixed(), "afpo_anchored", 1, "international", io.StringIO("hello\n"), out)
    assert not out.getvalue()
