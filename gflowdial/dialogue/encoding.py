"""Dialogues as tokens: what each turn adds to a prefix, and where the policy reads its state.

Every segment is tokenised by itself, so that two dialogues which share turns share tokens.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from gflowdial.dialogue.environment import DialogueState
from gflowdial.dialogue.moves import Inventory
from gflowdial.dialogue.task import Template
from gflowdial.dialogue.values import Dialogue, Scene, Turn
from gflowdial.estimators.packing import PackedPrefixes, pack_prefixes
from gflowdial.search import SearchTree


@dataclass(frozen=True)
class DialogueTexts:
    """The texts that the segments of a dialogue are.

    Attributes:
        template: the texts between the words of a dialogue.
        agent: the agent's name.
        partner: the partner's name.
    """

    template: Template
    agent: str
    partner: str

    def opening(self, scene: Scene) -> str:
        """What every prefix of a scene begins with."""
        return self.template.opening.format(scene=scene, agent=self.agent, partner=self.partner)

    def turn(self, turn: Turn) -> str:
        """One turn, behind the move that it follows."""
        form = self.template.agent if turn.speaker == "agent" else self.template.partner
        words = form.format(text=turn.text, agent=self.agent, partner=self.partner)
        return words if turn.move is None else f"{self.template.move} {turn.move}{words}"

    def of(self, dialogues: Iterable[Dialogue]) -> Iterator[str]:
        """Every segment of the dialogues."""
        for dialogue in dialogues:
            yield self.opening(dialogue.scene)
            yield from map(self.turn, dialogue.turns)


@dataclass(frozen=True)
class DialogueEncoder:
    """Tokenises dialogues for the policy.

    A prefix reads: the template's opening, the turns, each of the agent's behind the move that it follows, and at the
    end the words after which the language model would name the next move.

    Attributes:
        tokenizer: the language model's.
        inventory: the moves, the policy's actions.
        texts: the texts of the segments.
        max_tokens: prefixes longer than this lose their earliest turns.
    """

    tokenizer: Any
    inventory: Inventory
    texts: DialogueTexts
    max_tokens: int = 1024
    _known: dict[str, list[int]] = field(default_factory=dict, repr=False, compare=False)
    _turns: dict[Turn, list[int]] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def branch(self) -> list[int]:
        """The tokens after which a state is read."""
        return self._tokens(self.texts.template.move)

    @cached_property
    def names(self) -> list[list[int]]:
        """The tokens of each move's name, as the language model would write it next.

        Where the name of one move begins that of another, all end with the token that follows a name.
        """
        names = [self._tokens(f" {name}") for name in self.inventory.names]
        if any(a != b and b[: len(a)] == a for a in names for b in names):
            names = [[*name, self._tokens(self.texts.turn(Turn("agent", ".")))[0]] for name in names]
        return names

    def opening(self, scene: Scene) -> list[int]:
        """The tokens that every prefix of a scene begins with."""
        return self._tokens(self.texts.opening(scene))

    def turn(self, turn: Turn) -> list[int]:
        """The tokens of one turn."""
        # Prefixes share most of their turns: their texts are not put together again.
        if turn not in self._turns:
            self._turns[turn] = self._tokens(self.texts.turn(turn))
        return self._turns[turn]

    def transcript(self, dialogue: Dialogue) -> list[int]:
        """A whole dialogue, for training the language model itself."""
        return self.opening(dialogue.scene) + [token for turn in dialogue.turns for token in self.turn(turn)]

    def pack(self, dialogues: Sequence[Dialogue], continuations: Sequence[Sequence[int]] = ()) -> PackedPrefixes:
        """Prefixes to read the policy at, in order; what they share is laid out once."""
        parent: list[int] = []
        tokens: list[list[int]] = []
        read: list[bool] = []
        node_of: dict[tuple[int, Scene | Turn], int] = {}
        asked = []
        for dialogue in dialogues:
            node = -1
            parts: list[Scene | Turn] = [dialogue.scene, *self._kept(dialogue)]
            for part in parts:
                key = (node, part)
                if key not in node_of:
                    node_of[key] = len(parent)
                    parent.append(node)
                    tokens.append(self.turn(part) if isinstance(part, Turn) else self.opening(part))
                    read.append(False)
                node = node_of[key]
            read[node] = True
            asked.append(node)
        packed = pack_prefixes(parent, tokens, read, self.branch, continuations)
        order = np.searchsorted(packed.node.numpy(), asked)
        return packed.select(order.tolist())

    def tree_tokens(self, tree: SearchTree[DialogueState]) -> list[list[int]]:
        """What each node of a tree adds to its parent's prefix."""
        tokens = []
        for above, state in zip(tree.forest.parent.tolist(), tree.states, strict=True):
            known = len(tree.states[above].dialogue.turns) if above >= 0 else 0
            first = [] if above >= 0 else self.opening(state.dialogue.scene)
            tokens.append(first + [token for turn in state.dialogue.turns[known:] for token in self.turn(turn)])
        return tokens

    def decisions(self, dialogue: Dialogue, limit: int | None = None) -> list[int]:
        """The labelled turns of the agent that answer the partner, as indices into the turns.

        Those before the partner's first words are no answers; those beyond the first ``limit``, or whose prefix exceeds
        ``max_tokens``, are left out.
        """
        length = len(self.opening(dialogue.scene)) + len(self.branch)
        before = np.cumsum([length, *(len(self.turn(turn)) for turn in dialogue.turns)])
        return [turn for turn in self._answers(dialogue)[:limit] if before[turn] <= self.max_tokens]

    def too_long(self, dialogue: Dialogue, limit: int | None = None) -> int:
        """How many of the first ``limit`` labelled answers `decisions` leaves out because their prefix is too long."""
        return len(self._answers(dialogue)[:limit]) - len(self.decisions(dialogue, limit))

    def dropped_turns(self, dialogue: Dialogue) -> int:
        """How many of the earliest turns `pack` leaves out of a prefix that exceeds ``max_tokens``."""
        return len(dialogue.turns) - len(self._kept(dialogue))

    def _answers(self, dialogue: Dialogue) -> list[int]:
        heard = next((n for n, turn in enumerate(dialogue.turns) if turn.speaker == "partner"), len(dialogue.turns))
        return [n for n, turn in enumerate(dialogue.turns) if n > heard and turn.speaker == "agent" and turn.move]

    def _kept(self, dialogue: Dialogue) -> tuple[Turn, ...]:
        """The turns that fit: the earliest go first, whole, so that shared prefixes stay shared."""
        room = self.max_tokens - len(self.opening(dialogue.scene)) - len(self.branch)
        turns = dialogue.turns
        lengths = [len(self.turn(turn)) for turn in turns]
        first = 0
        while sum(lengths[first:]) > room and first < len(turns) - 1:
            first += 1
        return turns[first:]

    def _tokens(self, text: str) -> list[int]:
        if text not in self._known:
            self._known[text] = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return self._known[text]
