"""The chat of emotional support: the notice, the crisis check before the policy, and the scenes of chats."""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from miniature import run

from examples.aflow_esc.crisis import RESEARCH_NOTICE, research_notice
from examples.aflow_esc.scenes import bundled_scenes, chat_scene
from gflowdial.dialogue import Dialogue, cli
from gflowdial.dialogue.policies import LearnedPolicy
from gflowdial.dialogue.runs import Run
from gflowdial.dialogue.setting import Setting

CRISIS = "I want to kill myself tonight."
Talk = Callable[..., tuple[str, list[Dialogue]]]


@pytest.fixture
def talk(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Talk:
    """What the command ``chat`` prints for some lines, and which dialogues the policy was shown."""
    read_at: list[Dialogue] = []
    read = LearnedPolicy.read

    def remembered(policy: LearnedPolicy, dialogue: Dialogue) -> Any:
        read_at.append(dialogue)
        return read(policy, dialogue)

    monkeypatch.setattr(LearnedPolicy, "read", remembered)
    chat = cli.chat

    def talk(lines: str, *options: str) -> tuple[str, list[Dialogue]]:
        read_at.clear()
        with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as out:
            said.write(lines)
            said.seek(0)
            monkeypatch.setattr(cli, "chat", partial(chat, lines=said, out=out))
            assert run("chat", "--output", finished, *options) == 0
            out.seek(0)
            return out.read(), list(read_at)

    return talk


def test_the_notice_comes_before_the_first_word(talk: Talk) -> None:
    said, read_at = talk("quit\n")
    assert said.startswith(f"{research_notice()}\nReplies are chosen from a fixed list of phrases.\n")
    assert said.startswith(RESEARCH_NOTICE)
    assert "The conversation is not stored." in said
    assert said.rstrip().endswith("Take care.")
    assert not read_at


def test_a_crisis_overrides_the_policy_and_is_kept_from_it(talk: Talk) -> None:
    said, read_at = talk(f"hello\n{CRISIS}\nI am calmer now.\n", "--locale", "GB")
    assert "you do not have to carry this alone" in said
    assert "116 123" in said
    assert len(read_at) == 2
    assert not any(CRISIS in turn.text for dialogue in read_at for turn in dialogue.turns)
    assert said.count("supporter (") == 2


def test_a_crisis_in_the_first_words_is_answered_before_anything_else(talk: Talk) -> None:
    said, read_at = talk(f"{CRISIS}\nquit\n")
    assert "you do not have to carry this alone" in said
    assert not read_at


def test_a_chat_takes_place_in_a_scene_of_its_own_or_in_one_that_is_named(talk: Talk) -> None:
    _, (dialogue,) = talk("I lost my keys.\n")
    assert dialogue == Dialogue.begin(chat_scene("I lost my keys."))
    known = bundled_scenes()[0]
    _, (dialogue,) = talk("I lost my keys.\n", "--scene", known.id)
    scene = dialogue.scene
    assert (scene.id, scene.emotion, scene.problem) == (known.id, known.emotion, known.problem)
    assert scene.opening == dialogue.turns[0].text == "I lost my keys."


def test_an_unknown_scene_names_the_known_ones(finished: Path) -> None:
    setting = Setting.of(Run.open(finished))
    with pytest.raises(cli.ConfigError, match=f"--scene: there is no scene 'x'; there are .*{bundled_scenes()[0].id}"):
        cli._chat_scene(setting, "x", "hello")
