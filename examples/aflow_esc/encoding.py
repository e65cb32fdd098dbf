"""Dialogues as tokens: what each turn adds to a prefix, and where the policy reads its state.

Every segment is tokenised by itself, so that two dialogues which share turns share tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import numpy as np
from transformers import PreTrainedTokenizerBase

from examples.aflow_esc.dialogues import Dialogue, Scene, Turn
from examples.aflow_esc.strategies import Inventory
from examples.aflow_esc.tree_record import TreeRecord
from gflowdial.estimators.packing import PackedPrefixes, pack_prefixes
from gflowdial.training.trees import TreeExample

_BRANCH = "\nStrategy:"


@dataclass(frozen=True)
class DialogueEncoder:
    """Tokenises dialogues for the policy.

    A prefix reads: the scene's problem and emotion, the turns, each supporter's turn behind the strategy it follows,
    and at the end ``Strategy:``, after which the language model would name the next one.

    Attributes:
        tokenizer: the language model's.
        inventory: the strategies, the policy's actions.
        max_tokens: prefixes longer than this lose their earliest turns.
    """

    tokenizer: PreTrainedTokenizerBase
    inventory: Inventory
    max_tokens: int = 1024
    _known: dict[str, list[int]] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def branch(self) -> list[int]:
        """The tokens after which a state is read."""
        return self._tokens(_BRANCH)

    @cached_property
    def action_tokens(self) -> list[int]:
        """The first token of each strategy's name, as the language model would write it next.

        Raises:
            ValueError: if two names begin with the same token.
        """
        first = [self._tokens(f" {name}")[0] for name in self.inventory.names]
        if len(set(first)) < len(first):
            raise ValueError(
                f"two strategies of inventory {self.inventory.name!r} begin with the same token for this tokenizer: "
                "rename one, or use another tokenizer"
            )
        return first

    def opening(self, scene: Scene) -> list[int]:
        """The tokens that every prefix of a scene begins with."""
        return self._tokens(f"A seeker and a supporter talk. Emotion: {scene.emotion}. Problem: {scene.problem}.")

    def turn(self, turn: Turn) -> list[int]:
        """The tokens of one turn."""
        if turn.speaker == "seeker":
            return self._tokens(f"\nSeeker: {turn.text}")
        strategy = "" if turn.strategy is None else f"{_BRANCH} {turn.strategy}"
        return self._tokens(f"{strategy}\nSupporter: {turn.text}")

    def transcript(self, dialogue: Dialogue) -> list[int]:
        """A whole dialogue, for training the language model itself."""
        return self.opening(dialogue.scene) + [token for turn in dialogue.turns for token in self.turn(turn)]

    def pack(self, dialogues: Sequence[Dialogue]) -> PackedPrefixes:
        """Prefixes to read the policy at, in order; what they share is laid out once."""
        parent: list[int] = []
        tokens: list[list[int]] = []
        read: list[bool] = []
        node_of: dict[tuple[Scene, tuple[Turn, ...]], int] = {}
        asked = []
        for dialogue in dialogues:
            turns = self._kept(dialogue)
            node = -1
            for end in range(len(turns) + 1):
                key = (dialogue.scene, turns[:end])
                if key not in node_of:
                    node_of[key] = len(parent)
                    parent.append(node)
                    tokens.append(self.turn(turns[end - 1]) if end else self.opening(dialogue.scene))
                    read.append(False)
                node = node_of[key]
            read[node] = True
            asked.append(node)
        packed = pack_prefixes(parent, tokens, read, self.branch)
        order = np.searchsorted(packed.node.numpy(), asked)
        return packed.select(order.tolist())

    def example(self, record: TreeRecord) -> TreeExample:
        """A search tree as a training example."""
        nodes = record.nodes
        uniform = [1 / len(self.inventory)] * len(self.inventory)
        tokens = [self.opening(record.scene) + self.turn(Turn("seeker", record.scene.opening))]
        for node in nodes[1:]:
            spoken = Turn("supporter", node.supporter or "", node.strategy)
            tokens.append(self.turn(spoken) + self.turn(Turn("seeker", node.seeker)))
        with np.errstate(divide="ignore"):
            log_prior = np.log(np.array([node.prior or uniform for node in nodes]))
        return TreeExample(
            parent=[node.parent for node in nodes],
            tokens=tokens,
            action=np.array(record.actions, dtype=np.int64),
            visits=np.array([node.visits for node in nodes], dtype=np.int64),
            value=np.array([node.value for node in nodes], dtype=np.float64),
            leaf_return=np.array([node.leaf_return or 0.0 for node in nodes], dtype=np.float64),
            log_prior=log_prior,
        )

    def recorded_example(self, dialogue: Dialogue, decisions: Sequence[int]) -> TreeExample:
        """A recorded dialogue as a chain: what its supporter chose at ``decisions``, each with return 1.

        Args:
            dialogue: with strategies.
            decisions: the supporter's turns that count, as indices into the turns, ascending; see `decisions`.
        """
        turns = [self.turn(turn) for turn in dialogue.turns]
        bounds = [0, *decisions, min(decisions[-1] + 2, len(turns))]
        tokens = [[token for turn in turns[a:b] for token in turn] for a, b in pairwise(bounds)]
        tokens[0] = self.opening(dialogue.scene) + tokens[0]
        nodes = len(tokens)
        labels = [self.inventory.index(dialogue.turns[index].strategy or "") for index in decisions]
        return TreeExample(
            parent=list(range(-1, nodes - 1)),
            tokens=tokens,
            action=np.array([-1, *labels], dtype=np.int64),
            visits=np.ones(nodes, dtype=np.int64),
            value=np.ones(nodes),
            leaf_return=np.ones(nodes),
            log_prior=np.full((nodes, len(self.inventory)), -np.log(len(self.inventory))),
        )

    def decisions(self, dialogue: Dialogue, limit: int | None = None) -> list[int]:
        """The labelled turns of the supporter that answer a seeker, as indices into the turns.

        Those before the seeker's first words are no answers; those beyond the first ``limit``, or whose prefix exceeds
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
        heard = next((n for n, turn in enumerate(dialogue.turns) if turn.speaker == "seeker"), len(dialogue.turns))
        return [n for n, turn in enumerate(dialogue.turns) if n > heard and turn.speaker != "seeker" and turn.strategy]

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
        # Prefixes share most of their turns, and a tree asks for every one of them again and again.
        if text not in self._known:
            self._known[text] = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return self._known[text]
