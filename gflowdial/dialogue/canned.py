"""Roles for simulated worlds: an agent with one phrase per move, and a prior that prefers none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gflowdial.dialogue.values import Dialogue


@dataclass(frozen=True)
class CannedAgent:
    """An agent that says one phrase per move, so that its moves can be told from its words.

    Attributes:
        phrases: by the name of the move; no two are the same.
    """

    phrases: Mapping[str, str]

    def reply(self, dialogues: Sequence[Dialogue], moves: Sequence[str]) -> list[str]:
        """The phrases of the moves."""
        return [self.phrases[move] for _, move in zip(dialogues, moves, strict=True)]

    def moves_of(self, dialogue: Dialogue) -> tuple[str, ...]:
        """The agent's moves in a dialogue, by its words alone.

        Raises:
            ValueError: the agent says something that is no phrase of its.
        """
        said = [turn.text for turn in dialogue.turns if turn.speaker == "agent"]
        if unknown := [text for text in said if text not in self._moves]:
            raise ValueError(f"{unknown[0]!r} is none of the agent's phrases: give the moves their phrases")
        return tuple(self._moves[text] for text in said)

    @cached_property
    def _moves(self) -> dict[str, str]:
        return {phrase: move for move, phrase in self.phrases.items()}


@dataclass(frozen=True)
class UniformPrior:
    """Every move alike."""

    num_moves: int

    def log_prior(self, dialogues: Sequence[Dialogue]) -> NDArray[np.float64]:
        """``-log A`` for every move, ``[B, A]``."""
        return np.full((len(dialogues), self.num_moves), -np.log(self.num_moves))
