"""Recorded dialogues of a task, with what is wrong with them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gflowdial.dialogue.moves import Inventory
from gflowdial.dialogue.values import Dialogue


class CorpusError(ValueError):
    """A dialogue file that cannot be used; the message names the file, the place, the reason and the way out."""


@dataclass(frozen=True)
class Problem:
    """A fault in the data.

    Attributes:
        file: where.
        index: the dialogue's number in the file, and the utterance's in the dialogue if it lies in one; from 0.
        reason: what is wrong.
    """

    file: Path
    index: tuple[int, ...]
    reason: str

    def __str__(self) -> str:
        place = ", ".join(f"{name} {i}" for name, i in zip(("dialogue", "utterance"), self.index, strict=False))
        return f"{self.file}, {place}: {self.reason}"


@dataclass(frozen=True)
class Corpus:
    """What a file holds.

    Attributes:
        inventory: whose names the turns' moves are.
        dialogues: the well-formed ones.
        problems: labels that were not understood (the turn stays, unlabelled) and malformed records (left out).
        utterances: messages in ``dialogues``, before they were merged into turns.
        facts: what else results say about how the file was read.
        parts: by scene id the part that the file itself declares for a dialogue, ``"train"``, ``"validation"`` or
            ``"held_out"``; empty where it declares none.
        outcomes: by scene id how well a dialogue ended, from 0 to 1, where the file rates it.
    """

    inventory: Inventory
    dialogues: list[Dialogue]
    problems: list[Problem]
    utterances: int
    facts: Mapping[str, Any] = field(default_factory=dict)
    parts: Mapping[str, str] = field(default_factory=dict)
    outcomes: Mapping[str, float] = field(default_factory=dict)
