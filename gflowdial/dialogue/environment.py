"""A task's conversation as a search environment: moves are actions, the roles are the world."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from gflowdial.dialogue.moves import Inventory
from gflowdial.dialogue.roles import CONTINUES, Partner, Reply, Roles, StochasticPartner
from gflowdial.dialogue.task import Task
from gflowdial.dialogue.values import Dialogue, Scene, Turn
from gflowdial.search import Transition


@dataclass(frozen=True)
class DialogueState:
    """A dialogue prefix that ends with the partner's turn, and what becomes of the conversation.

    Attributes:
        dialogue: the prefix.
        status: of the conversation, as the partner's last turn leaves it.
        scores: of the last exchange, one per criterion; none where no judge has scored.
    """

    dialogue: Dialogue
    status: str = CONTINUES
    scores: tuple[float, ...] = ()

    @staticmethod
    def begin(scene: Scene) -> "DialogueState":
        """The partner has just opened the conversation."""
        return DialogueState(Dialogue.begin(scene))


@dataclass(frozen=True)
class DialogueEnvironment:
    """The roles' conversation as a batched environment, with one call per role and step.

    An action is an index into the inventory. The agent speaks by that move, the partner answers without being shown any
    move, and the judge scores this exchange.

    Attributes:
        task: what a conversation is, and what it is worth.
        roles: who plays whom.
        inventory: the moves.
        max_turns: how many turns the agent may take before a dialogue ends.

    Raises:
        ValueError: ``max_turns`` is below 1.
    """

    task: Task
    roles: Roles
    inventory: Inventory
    max_turns: int

    def __post_init__(self) -> None:
        if self.max_turns < 1:
            raise ValueError(f"max_turns is {self.max_turns}: give at least 1")

    @staticmethod
    def of(task: Task, roles: Roles, inventory: Inventory, max_turns: int | None = None) -> "DialogueEnvironment":
        """The environment that fits the partner: one with chance nodes where the partner is stochastic."""
        kind = StochasticDialogueEnvironment if isinstance(roles.partner, StochasticPartner) else DialogueEnvironment
        return kind(task, roles, inventory, task.max_turns if max_turns is None else max_turns)

    @property
    def num_actions(self) -> int:
        """How many moves there are."""
        return len(self.inventory)

    def ended(self, state: DialogueState) -> bool:
        """Whether the partner has ended the conversation, or the agent's turns are used up."""
        return state.status != CONTINUES or state.dialogue.agent_turns >= self.max_turns

    def log_prior(self, states: Sequence[DialogueState]) -> NDArray[np.float64]:
        """The prior's log-probabilities over the allowed moves, ``[B, A]``; -inf at the others."""
        dialogues = [state.dialogue for state in states]
        return self.restrict(self.roles.prior.log_prior(dialogues), dialogues)

    def restrict(self, log_policy: NDArray[np.float64], dialogues: Sequence[Dialogue]) -> NDArray[np.float64]:
        """``log_policy [B, A]`` over the allowed moves; see `Task.restrict`."""
        return self.task.restrict(log_policy, dialogues, self.inventory)

    def step(self, states: Sequence[DialogueState], actions: NDArray[np.int64]) -> list[Transition[DialogueState]]:
        """One exchange in every state: the agent's turn, the partner's answer, its scores.

        Raises:
            ValueError: a state has ended, or a role answers in a form that the task does not allow.
        """
        return [answers[0] for answers in self._exchange(states, actions)]

    def trajectory_return(self, rewards: Sequence[float], state: DialogueState) -> float:
        """The task's return of a conversation."""
        return self.task.trajectory_return(rewards, state.status)

    def _exchange(
        self, states: Sequence[DialogueState], actions: NDArray[np.int64]
    ) -> list[Sequence[Transition[DialogueState]]]:
        """All answers of the partner in every state."""
        if any(map(self.ended, states)):
            raise ValueError("a dialogue has ended: take steps only where `ended` is false")
        moves = [self.inventory.names[action] for action in actions]
        words = self.roles.agent.reply([state.dialogue for state in states], moves)
        spoken = [
            state.dialogue.then(Turn("agent", text, move))
            for state, text, move in zip(states, words, moves, strict=True)
        ]
        replies = self._replies([dialogue.without_moves() for dialogue in spoken])
        after = [
            (dialogue.then(Turn("partner", reply.text)), self._checked(reply.status))
            for dialogue, answers in zip(spoken, replies, strict=True)
            for reply in answers
        ]
        scores = self._scores([dialogue for dialogue, _ in after])
        reached = [
            DialogueState(dialogue, status, tuple(row))
            for (dialogue, status), row in zip(after, scores.tolist(), strict=True)
        ]
        rewards = self.task.reward(scores).tolist()
        probabilities = [reply.probability for answers in replies for reply in answers]
        made = [
            Transition(state, reward, self.ended(state), probability)
            for state, reward, probability in zip(reached, rewards, probabilities, strict=True)
        ]
        bounds = [0, *accumulate(map(len, replies))]
        return [made[start:stop] for start, stop in pairwise(bounds)]

    def _replies(self, dialogues: list[Dialogue]) -> Sequence[Sequence[Reply]]:
        partner = self.roles.partner
        if isinstance(partner, StochasticPartner):
            return partner.replies(dialogues)
        assert isinstance(partner, Partner)
        return [(reply,) for reply in partner.respond(dialogues)]

    def _checked(self, status: str) -> str:
        if status != CONTINUES and status not in self.task.ends:
            raise ValueError(
                f"the partner answers with status {status!r}: task {self.task.name!r} knows "
                f"{', '.join(map(repr, (CONTINUES, *self.task.ends)))}"
            )
        return status

    def _scores(self, dialogues: list[Dialogue]) -> NDArray[np.float64]:
        scores = self.roles.judge.score(dialogues)
        criteria = self.task.criteria
        if scores.shape != (len(dialogues), len(criteria)):
            raise ValueError(
                f"the judge answers in shape {scores.shape}: expected {(len(dialogues), len(criteria))}, one column "
                "per criterion"
            )
        for criterion, column in zip(criteria, scores.T, strict=True):
            if not ((column >= criterion.low) & (column <= criterion.high)).all():
                raise ValueError(
                    f"the judge scores {criterion.name} with {column.min()} to {column.max()}: scores must lie in "
                    f"[{criterion.low:g}, {criterion.high:g}]"
                )
        return scores


class StochasticDialogueEnvironment(DialogueEnvironment):
    """The conversation with a partner who answers in one of several ways: a chance node follows each move."""

    def outcomes(
        self, states: Sequence[DialogueState], actions: NDArray[np.int64]
    ) -> list[Sequence[Transition[DialogueState]]]:
        """All answers of the partner to each move, with their probabilities; errors as in `step`."""
        return self._exchange(states, actions)
