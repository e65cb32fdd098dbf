"""Inventories are data: names, wordings and maps agree with one another."""

import pytest

from examples.aflow_esc.strategies import AFLOW, ESCONV, EXTES, INVENTORIES, TO_AFLOW
from examples.aflow_esc.task import TASK
from gflowdial.dialogue.moves import UnknownMoveError, inventories_of


def test_sizes_and_order() -> None:
    assert [len(inv) for inv in (ESCONV, EXTES, AFLOW)] == [8, 16, 8]
    assert [AFLOW.index(name) for name in AFLOW.names] == list(range(8))


@pytest.mark.parametrize("inv", INVENTORIES.values(), ids=lambda inv: inv.name)
def test_every_wording_resolves_to_one_strategy_whatever_its_case(inv) -> None:
    wordings = [(word, s.name) for s in inv.moves for word in (s.name, *s.synonyms)]
    assert len({word.casefold() for word, _ in wordings}) == len(wordings)
    for word, name in wordings:
        for variant in (word, word.upper(), f"  {word.lower()} ", word.replace(" ", "_")):
            assert inv.resolve(variant) == name


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("Questions", "Question"),
        ("Other", "Others"),
        ("Direct Guidance", "Providing Suggestions"),
        ("Approval and Reassurance", "Affirmation and Reassurance"),
        ("Restatement", "Restatement or Paraphrasing"),
        ("self disclosure", "Self-disclosure"),
    ],
)
def test_the_stray_labels_of_the_data(label: str, name: str) -> None:
    assert ESCONV.resolve(label) == name


@pytest.mark.parametrize("name", TO_AFLOW)
def test_the_maps_are_total_and_reach_all_they_can(name: str) -> None:
    names = TO_AFLOW[name]
    assert set(names) == set(INVENTORIES[name].names)
    assert set(names.values()) <= {*AFLOW.names, None}


def test_others_mean_nothing_to_aflow() -> None:
    assert [TO_AFLOW[name]["Others"] for name in ("esconv", "extes")] == [None, None]


def test_data_without_a_name_are_no_inventory() -> None:
    with pytest.raises(ValueError, match=r"hold no inventories.*give each move a name"):
        inventories_of({"one": [{"synonyms": ["ask"]}]})


def test_an_unknown_label_is_named_with_close_matches() -> None:
    with pytest.raises(UnknownMoveError, match=r"'Claryfication'.*closest are 'Clarification'"):
        AFLOW.resolve("Claryfication")
    with pytest.raises(UnknownMoveError, match=r"'zzz'.*it knows"):
        AFLOW.resolve("zzz")


def test_an_unknown_inventory_names_the_known_ones() -> None:
    assert TASK.inventory("AFLOW") is AFLOW
    with pytest.raises(ValueError, match=r"'aflo'.*aflow, esconv, extes"):
        TASK.inventory("aflo")
