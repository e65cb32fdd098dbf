"""Inventories: one move for every wording, in any script, and a name for what is wrong."""

import pytest

from gflowdial.dialogue import Inventory, Move, UnknownMoveError

INVENTORY = Inventory(
    "mixed",
    (
        Move("Ask", "Put a question.", ("Question", "To ask")),
        Move("質問する", synonyms=("質問",)),
        Move("Спросить", synonyms=("Вопрос",)),
        Move("Fragen stellen", synonyms=("Größe",)),
        Move("👍", synonyms=("+1",)),
        Move("👎"),
        Move("पूछो"),
        Move("पूछे"),
        Move("?!"),
    ),
)


def test_every_wording_resolves_to_its_move_and_its_action() -> None:
    for action, move in enumerate(INVENTORY.moves):
        for word in (move.name, *move.synonyms):
            for variant in (word, word.upper(), f"  {word.casefold()} "):
                assert INVENTORY.resolve(variant) == move.name
                assert INVENTORY.index(variant) == action
    assert INVENTORY.resolve("to-ask") == INVENTORY.resolve("To_Ask") == "Ask"
    assert INVENTORY.resolve("GRÖSSE") == INVENTORY.resolve("Gro\u0308ße") == "Fragen stellen"
    assert len(INVENTORY) == 9


@pytest.mark.parametrize(
    ("moves", "named"),
    [
        ((Move("Ask", synonyms=("Say",)), Move("Tell", synonyms=("say",))), "'say' stands for 'Ask' and for 'Tell'"),
        ((Move("Ask"), Move("Tell", synonyms=("ASK",))), "'ASK' stands for 'Ask' and for 'Tell'"),
        ((Move("Ask more"), Move("ask-more")), "'ask-more' stands for 'Ask more' and for 'ask-more'"),
        ((Move("Ask"), Move("Ask")), "names a move twice: Ask, Ask"),
        ((), "has no moves: give at least one"),
    ],
)
def test_a_wording_for_two_moves_is_refused(moves: tuple[Move, ...], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Inventory("bad", moves)


def test_a_move_may_repeat_its_own_wording() -> None:
    assert Inventory("one", (Move("Ask", synonyms=("ask", "Ask")),)).resolve("ASK") == "Ask"


@pytest.mark.parametrize("label", ["質問しない", "Нет", "", "   ", "😀", "Asks?"])
def test_an_unknown_label_is_named(label: str) -> None:
    with pytest.raises(UnknownMoveError, match=r"unknown move .* for inventory 'mixed'; (the closest are|it knows) '"):
        INVENTORY.resolve(label)
    with pytest.raises(UnknownMoveError):
        INVENTORY.index(label)
