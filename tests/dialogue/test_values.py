"""Conversations as values: chat messages in and out, prefixes, moves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gflowdial.dialogue import Dialogue, Scene, Turn

SCENE = Scene("s", "Hello.")
words = st.text(min_size=1, max_size=8)
turns = st.lists(
    st.one_of(
        st.builds(Turn, st.just("partner"), words),
        st.builds(Turn, st.just("agent"), words, st.one_of(st.none(), st.sampled_from(["Ask", "Tell"]))),
    ),
    max_size=6,
)


@given(turns)
def test_messages_and_back(said: list[Turn]) -> None:
    dialogue = Dialogue(SCENE, tuple(said))
    back = Dialogue.from_messages(dialogue.to_messages(), SCENE)
    assert back == dialogue.without_moves()
    assert Dialogue.from_messages(dialogue.to_messages("Be kind."), SCENE) == back
    with_moves = [
        {**message, **({"move": turn.move} if turn.move else {})}
        for message, turn in zip(dialogue.to_messages(), said, strict=True)
    ]
    assert Dialogue.from_messages(with_moves, SCENE) == dialogue


def test_messages_have_the_roles_of_chat_templates() -> None:
    dialogue = Dialogue.begin(SCENE).then(Turn("agent", "Hi.", "Ask"), Turn("partner", "Bye."))
    said = [
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": "Bye."},
    ]
    assert dialogue.to_messages() == said
    assert dialogue.to_messages("Be kind.") == [{"role": "system", "content": "Be kind."}, *said]


def test_without_a_scene_the_first_words_of_the_partner_open_one() -> None:
    greeted = [{"role": "assistant", "content": "Hi."}, {"role": "user", "content": "Hello."}]
    dialogue = Dialogue.from_messages(greeted)
    assert dialogue.scene == Scene("messages", "Hello.")
    assert dialogue.turns == (Turn("agent", "Hi."), Turn("partner", "Hello."))


def test_a_person_names_no_move() -> None:
    (turn,) = Dialogue.from_messages([{"role": "user", "content": "Hello.", "move": "Ask"}]).turns
    assert turn.move is None


@pytest.mark.parametrize(
    ("message", "named"),
    [
        ({"role": "tool", "content": "3"}, "message 1 has role 'tool' and content '3': give"),
        ({"content": "3"}, "message 1 has role ''"),
        ({"role": "user"}, "message 1 has role 'user' and content ''"),
        ({"role": "assistant", "content": ""}, "message 1 has role 'assistant' and content ''"),
    ],
)
def test_bad_messages_are_refused(message: dict[str, str], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Dialogue.from_messages([{"role": "system", "content": "Be kind."}, message], SCENE)


@pytest.mark.parametrize(
    "messages", [[], [{"role": "system", "content": "x"}], [{"role": "assistant", "content": "x"}]]
)
def test_without_a_partner_there_is_no_scene(messages: list[dict[str, str]]) -> None:
    with pytest.raises(ValueError, match="no message has the role 'user': give one, or a scene"):
        Dialogue.from_messages(messages)
    assert Dialogue.from_messages(messages, SCENE).scene == SCENE


@given(turns)
def test_moves_and_turns_are_counted(said: list[Turn]) -> None:
    dialogue = Dialogue.begin(SCENE).then(*said)
    assert dialogue.turns == (Turn("partner", "Hello."), *said)
    assert dialogue.moves == tuple(turn.move for turn in said if turn.move)
    assert dialogue.agent_turns == sum(turn.speaker == "agent" for turn in said)
    bare = dialogue.without_moves()
    assert bare.moves == ()
    assert [(turn.speaker, turn.text) for turn in bare.turns] == [(turn.speaker, turn.text) for turn in dialogue.turns]
