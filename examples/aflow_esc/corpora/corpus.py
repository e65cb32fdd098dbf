"""From raw records to dialogues: labels resolved, utterances merged into turns, every fault reported."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, get_args

from examples.aflow_esc.corpora import forms
from examples.aflow_esc.corpora.forms import MalformedError, Record, Utterance
from examples.aflow_esc.corpora.reading import read_parts
from examples.aflow_esc.scenes import SupportScene
from examples.aflow_esc.strategies import AFLOW, INVENTORIES, TO_AFLOW
from gflowdial.dialogue.corpus import Corpus, CorpusError, Problem
from gflowdial.dialogue.moves import Inventory, UnknownMoveError
from gflowdial.dialogue.values import Dialogue, Turn

MergeLabel = Literal["first", "last"]


@dataclass(frozen=True)
class SupportCorpus(Corpus):
    """What a file of emotional support holds.

    Attributes:
        form: the name of its form; see `forms`.
        merge_label: which label a turn of several utterances keeps.
        utterance_counts: the supporter's messages by strategy, before merging.
    """

    form: str = ""
    merge_label: MergeLabel = "first"
    utterance_counts: Counter[str] = field(default_factory=Counter)


def load_corpus(
    path: Path,
    inventory: Inventory | None = None,
    *,
    merge_label: MergeLabel = "first",
    strict: bool = False,
) -> SupportCorpus:
    """Load a file of dialogues in any form of `forms`, told apart by content.

    Args:
        path: a JSON list, one JSON object a line, or an object with such lists as ``train``, ``valid`` and ``test``.
        inventory: who resolves the labels; by default the one of the form.
        merge_label: whether a turn merged from several utterances keeps their first or their last label.
        strict: raise at the first problem instead of listing it.

    Raises:
        CorpusError: an unusable file, a form that is none of those, no well-formed dialogue at all, or with
            ``strict`` the first problem.
    """
    if merge_label not in get_args(MergeLabel):
        raise ValueError(f"merge_label must be one of {get_args(MergeLabel)}, not {merge_label!r}")
    declared = read_parts(path)
    records = [raw for part in declared.values() for raw in part]
    part_of = [part for part, found in declared.items() for _ in found]
    form = _detect(path, records)
    inventory = inventory or INVENTORIES[forms.FORMS[form].inventory]
    dialogues: list[Dialogue] = []
    problems: list[Problem] = []
    counts: Counter[str] = Counter()
    utterances = 0
    parts: dict[str, str] = {}
    outcomes: dict[str, float] = {}
    for index, raw in enumerate(records):
        record, faults = _read(raw, form, inventory, path, index)
        problems += faults
        if strict and problems:
            raise CorpusError(f"{problems[0]}; mend it, or load without strict to list and skip such faults")
        if record is not None:
            scene_id = f"{path.stem}-{index}"
            dialogues.append(_dialogue(scene_id, record, merge_label))
            if part_of[index]:
                parts[scene_id] = part_of[index]
            if record.outcome is not None:
                outcomes[scene_id] = record.outcome
            counts.update(u.label for u in record.utterances if u.label is not None)
            utterances += len(record.utterances)
    if not dialogues:
        raise CorpusError(
            f"{path}: none of its {len(records)} dialogues is well-formed; mend the file. First fault: {problems[0]}"
        )
    facts = {"merge_label": merge_label}
    return SupportCorpus(inventory, dialogues, problems, utterances, facts, parts, outcomes, form, merge_label, counts)


def load_for(path: Path, inventory: Inventory, strict: bool) -> Corpus:
    """The dialogues of a file with their labels in ``inventory``: the file's own, or AFlow's.

    Raises:
        CorpusError: as `load_corpus`.
        ValueError: the labels cannot be named in ``inventory``.
    """
    corpus = load_corpus(path, strict=strict)
    if corpus.inventory == inventory:
        return corpus
    if inventory != AFLOW:
        raise ValueError(f"the labels are {corpus.inventory.name}'s; choose that or aflow, not {inventory.name}")
    names = TO_AFLOW[corpus.inventory.name]
    return replace(corpus, inventory=inventory, dialogues=[relabel(dialogue, names) for dialogue in corpus.dialogues])


def relabel(dialogue: Dialogue, names: Mapping[str, str | None]) -> Dialogue:
    """The dialogue with its strategies renamed, for instance by `TO_AFLOW`; None takes a label away.

    Raises:
        UnknownMoveError: a strategy that ``names`` does not list.
    """
    return replace(dialogue, turns=tuple(_relabel(turn, names) for turn in dialogue.turns))


def _relabel(turn: Turn, names: Mapping[str, str | None]) -> Turn:
    if turn.move is None:
        return turn
    if turn.move not in names:
        raise UnknownMoveError(f"no new name for strategy {turn.move!r}; the map lists {', '.join(names)}")
    return replace(turn, move=names[turn.move])


def _detect(path: Path, records: list[Any]) -> str:
    form = next(filter(None, map(forms.detect, records)), None)
    if form is None:
        known = "; ".join(f"{name}, {form}" for name, form in forms.FORMS.items())
        raise CorpusError(f"{path}: fits none of the known forms; give objects of one of them: {known}")
    return form


def _read(raw: Any, form: str, inventory: Inventory, path: Path, index: int) -> tuple[Record | None, list[Problem]]:
    """The record with canonical labels, and what is wrong with it; a malformed one is None."""
    try:
        record = forms.read(raw, form)
        if all(utterance.speaker != "partner" for utterance in record.utterances):
            raise MalformedError("the seeker says nothing")
    except MalformedError as error:
        place = (index,) if error.utterance is None else (index, error.utterance)
        return None, [Problem(path, place, str(error))]
    resolved, problems = [], []
    for number, utterance in enumerate(record.utterances):
        try:
            resolved.append(_resolve(utterance, inventory))
        except UnknownMoveError as error:
            resolved.append(utterance._replace(label=None))
            problems.append(Problem(path, (index, number), str(error)))
    return record._replace(utterances=resolved), problems


def _resolve(utterance: Utterance, inventory: Inventory) -> Utterance:
    if utterance.speaker == "partner":
        return utterance
    if utterance.label is None:
        raise UnknownMoveError("the supporter's utterance has no strategy label")
    return utterance._replace(label=inventory.resolve(utterance.label))


def _dialogue(scene_id: str, record: Record, merge_label: MergeLabel) -> Dialogue:
    turns = tuple(_merge(record.utterances, merge_label))
    opening = next(turn.text for turn in turns if turn.speaker == "partner")
    return Dialogue(SupportScene(scene_id, opening, record.situation, record.emotion, record.problem), turns)


def _merge(utterances: list[Utterance], merge_label: MergeLabel) -> Iterator[Turn]:
    for speaker, group in groupby(utterances, key=lambda utterance: utterance.speaker):
        said = list(group)
        labels = [utterance.label for utterance in said if utterance.label is not None]
        move = labels[0 if merge_label == "first" else -1] if labels else None
        yield Turn(speaker, " ".join(utterance.text for utterance in said), move)
