"""Who plays whom in a conversation: one small batch protocol for each job.

A role answers row by row: its answer to a dialogue does not depend on the rest of the batch. What fails raises; no role
ever falls back to another.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from gflowdial.dialogue.values import Dialogue

CONTINUES = "continues"
"""The status of a partner who goes on talking; every other status ends the conversation."""


@dataclass(frozen=True)
class Reply:
    """The words of the partner, and what becomes of the conversation.

    Attributes:
        text: the words.
        status: `CONTINUES`, or one of the ends that the task names.
        probability: of this reply; below 1 where a `StochasticPartner` has others.
    """

    text: str
    status: str = CONTINUES
    probability: float = 1.0


@runtime_checkable
class Prior(Protocol):
    """Which move an untrained agent would choose."""

    def log_prior(self, dialogues: Sequence[Dialogue]) -> NDArray[np.float64]:
        """Normalised log-probabilities of the moves, ``[B, A]``; each dialogue ends with the partner."""


@runtime_checkable
class Agent(Protocol):
    """Who puts a move into words."""

    def reply(self, dialogues: Sequence[Dialogue], moves: Sequence[str]) -> list[str]:
        """The agent's next words in each dialogue, following the named move."""


@runtime_checkable
class Partner(Protocol):
    """Who answers, always in the same way."""

    def respond(self, dialogues: Sequence[Dialogue]) -> list[Reply]:
        """The partner's answers; each dialogue ends with the agent and carries no names of moves."""


@runtime_checkable
class StochasticPartner(Protocol):
    """Who answers in one of several ways."""

    def replies(self, dialogues: Sequence[Dialogue]) -> Sequence[Sequence[Reply]]:
        """All answers to each dialogue, as in `Partner.respond`; their probabilities sum to 1.

        A partner that can say anything gives n samples of probability 1/n each.
        """


@runtime_checkable
class Judge(Protocol):
    """Who scores an exchange."""

    def score(self, dialogues: Sequence[Dialogue]) -> NDArray[np.float64]:
        """Scores of the last exchange, the agent's turn and the answer to it, ``[B, C]`` in the task's criteria."""


@dataclass(frozen=True)
class Roles:
    """Who plays whom.

    Attributes:
        enumerable: whether a scene's conversations can all be played through, so that the exact flow can be known.
        canned: whether the agent chooses its words from a fixed list, which a chat says.
    """

    prior: Prior
    agent: Agent
    partner: Partner | StochasticPartner
    judge: Judge
    enumerable: bool = False
    canned: bool = False
