"""A dialogue task: one object that says what a conversation is, what an agent can do in it, and what it is worth."""

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gflowdial.dialogue.corpus import Corpus
from gflowdial.dialogue.moves import Inventory
from gflowdial.dialogue.roles import CONTINUES, Roles
from gflowdial.dialogue.values import Dialogue, Scene


@dataclass(frozen=True)
class Criterion:
    """One of the judge's scores.

    Attributes:
        name: how the judge and the results call it.
        low: the least score.
        high: the greatest score.
        question: what it asks, for a language model.
    """

    name: str
    low: float = 1.0
    high: float = 5.0
    question: str = ""


@dataclass(frozen=True)
class Template:
    """How a language-model policy reads a dialogue: the opening, the turns, and the words after which it names a move.

    The texts are formatted with ``{scene}``, whose fields are ``{scene.name}``, ``{agent}`` and ``{partner}``, the
    speakers' names, and in a turn with ``{text}``.

    Attributes:
        opening: what every prefix of a scene begins with.
        agent: a turn of the agent.
        partner: a turn of the partner.
        move: the words before the name of a move; a turn that names its move has both in front.
    """

    opening: str = "{agent} and {partner} talk."
    agent: str = "\n{agent}: {text}"
    partner: str = "\n{partner}: {text}"
    move: str = "\nMove:"


@dataclass(frozen=True)
class PromptTemplate:
    """What a language model in a role is told: the system message, the user's message, and how its answer begins.

    See `Prompts` for what the texts are formatted with.
    """

    system: str
    user: str
    answer: str = ""


@dataclass(frozen=True)
class StatusQuestion:
    """How the partner's status is read off the partner's own words.

    The model is asked ``prompt``, formatted with ``{text}``, ``{agent}`` and ``{partner}``, and the probabilities of
    ``answers`` are read after ``prompt.answer``. The first status of ``above`` whose answer is more probable than its
    threshold holds; otherwise the conversation goes on.

    Attributes:
        prompt: the question.
        answers: what may be answered, each behind a blank.
        above: status, then the answer that speaks for it and the threshold.

    Raises:
        ValueError: ``above`` names an answer that is not among ``answers``.
    """

    prompt: PromptTemplate
    answers: tuple[str, ...]
    above: Mapping[str, tuple[str, float]]

    def __post_init__(self) -> None:
        if odd := {answer for answer, _ in self.above.values()} - {*self.answers}:
            raise ValueError(f"the status question reads {', '.join(sorted(odd))}: name it among its `answers`")


@dataclass(frozen=True)
class Prompts:
    """What language models in the roles are told, as data.

    All texts are formatted with ``{scene}``, ``{agent}``, ``{partner}`` and ``{transcript}``, the dialogue with one
    line per turn; ``prior`` also with ``{moves}``, the inventory with one line per move; ``agent`` with ``{move}`` and
    ``{description}``; ``judge`` with ``{criteria}``, one line per criterion, and the ends of the scale, ``{low}`` and
    ``{high}``. The answers of ``prior`` and ``status`` are formatted with ``{agent}`` and ``{partner}`` alone.

    Attributes:
        prior: which move fits; the names of the moves are read after its answer.
        agent: the agent's next words.
        partner: the partner's next words.
        judge: the scores; each criterion's name is put behind its answer, and the digits are read after it.
        status: whether the partner goes on; None: always.
    """

    prior: PromptTemplate = PromptTemplate(
        "You judge conversations between {agent} and {partner}. These are the moves of {agent}:\n{moves}",
        "{transcript}\n\nWhich move fits best now?",
        "Move:",
    )
    agent: PromptTemplate = PromptTemplate(
        "You are {agent} and talk with {partner}. Answer in one or two short sentences.",
        "{transcript}\n\nWrite what {agent} says next. {description}",
        "{agent}:",
    )
    partner: PromptTemplate = PromptTemplate(
        "You complete the script of a play.", "A talk of {agent} and {partner}.", "{transcript}\n{partner}:"
    )
    judge: PromptTemplate = PromptTemplate(
        "You judge conversations between {agent} and {partner}. These are the criteria:\n{criteria}",
        "{transcript}\n\nRate the last turn of {agent}, with the answer to it, from {low} (poor) to {high} (good).",
    )
    status: StatusQuestion | None = None


RoleMaker = Callable[..., Roles]
"""Roles of one kind, ``make(inventory, **options)``. The options are keyword arguments with a type and a default, which
a configuration may set by name."""


def mean_reward(rewards: Sequence[float], status: str) -> float:  # noqa: ARG001 (a task may look at it)
    """The mean reward of the turns."""
    return float(np.mean(rewards))


@dataclass(frozen=True)
class Task:
    """What a conversation is.

    Attributes:
        name: of the task.
        inventories: the moves; a run chooses one by its name, by default the first.
        scenes: the scenes that come with the task.
        roles: kinds of roles by name; ``"local"``, a local language model in all roles, is always there.
        criteria: what the judge scores.
        agent: the agent's name, as prompts and tables call it.
        partner: the partner's name.
        ends: the statuses that end a conversation, each with what the results call its probability.
        weights: w of the criteria in the reward of a turn, Σ_c w_c·score_c; None: 1/C each.
        turn_reward: the reward of turns from their scores, ``[B, C] -> [B]``, where it is no weighted sum; None: it is.
        trajectory_return: the return G of a conversation from its turn rewards and its last status.
        max_turns: how many turns the agent may take.
        allowed: which moves may be taken after a dialogue, one truth value per move; None: all.
        template: how a policy reads a dialogue.
        prompts: what language models in the roles are told.
        load: recorded dialogues of a file, their moves in an inventory; with a third argument true it stops at the
            first fault. None: the task knows no recorded dialogues.
        generate: ``generate(n)`` is n simulated scenes, whose first k are ``generate(k)``; it raises a ValueError where
            it has fewer. None: the task has no generator.
        group: the group of a generated scene; the scenes of a group are in one part of the data, and of each group one
            is evaluated. None: each scene is a group of its own.
        guard: ``guard(locale)`` is what sees each line of a chat before the policy; see
            `gflowdial.dialogue.chat.Guard`. None: nothing does.
        notice: what a chat tells first.
        chat_scene: the scene of a chat, from the person's first words; None: a scene of the task with these words.
        scene: the class of the scenes.
        licence: of the bundled scenes.
        tokenizer: the folder of the tokenizer for models that are trained from scratch; None: one is trained on
            conversations of the prior.
        safety: what a policy's model card says about its use.
    """

    name: str
    inventories: tuple[Inventory, ...]
    scenes: Callable[[], Sequence[Scene]]
    roles: Mapping[str, RoleMaker]
    criteria: tuple[Criterion, ...] = (Criterion("score"),)
    agent: str = "Agent"
    partner: str = "Partner"
    ends: Mapping[str, str] = field(default_factory=dict)
    weights: tuple[float, ...] | None = None
    turn_reward: Callable[[NDArray[np.float64]], NDArray[np.float64]] | None = None
    trajectory_return: Callable[[Sequence[float], str], float] = mean_reward
    max_turns: int = 4
    allowed: Callable[[Dialogue, Inventory], Sequence[bool]] | None = None
    template: Template = Template()
    prompts: Prompts = Prompts()
    load: Callable[[Path, Inventory, bool], Corpus] | None = None
    generate: Callable[[int], Sequence[Scene]] | None = None
    group: Callable[[Scene], str] | None = None
    guard: Callable[[str], Any] | None = None
    notice: str = "This is research software: it makes mistakes, and nobody reads along."
    chat_scene: Callable[[str], Scene] | None = None
    scene: type[Scene] = Scene
    licence: str = "not stated"
    tokenizer: Path | None = None
    safety: str = "Research software; not for decisions about people."

    def __post_init__(self) -> None:
        if CONTINUES in self.ends:
            raise ValueError(f"task {self.name!r}: {CONTINUES!r} ends no conversation; leave it out of `ends`")
        if not self.inventories:
            raise ValueError(f"task {self.name!r} has no inventory: give at least one")
        if self.weights is not None and self.turn_reward is not None:
            raise ValueError(f"task {self.name!r} has weights and a turn_reward: give one of them")
        if self.weights is not None and len(self.weights) != len(self.criteria):
            raise ValueError(
                f"task {self.name!r} has {len(self.weights)} weights and {len(self.criteria)} criteria: give one each"
            )
        if self.weights is not None and not (min(self.weights) >= 0 and sum(self.weights) > 0):
            raise ValueError(f"task {self.name!r} has weights {self.weights}: give numbers from 0, not all of them 0")

    def inventory(self, name: str | None = None) -> Inventory:
        """The inventory of this name; without one the first.

        Raises:
            ValueError: there is none of this name.
        """
        if name is None:
            return self.inventories[0]
        for inventory in self.inventories:
            if inventory.name == name.casefold():
                return inventory
        known = ", ".join(inventory.name for inventory in self.inventories)
        raise ValueError(f"no inventory {name!r} in task {self.name!r}; choose one of {known}")

    @property
    def own_weights(self) -> tuple[float, ...]:
        """The weights of the criteria in the reward of a turn.

        Raises:
            ValueError: the task has a ``turn_reward``, which is no weighted sum.
        """
        if self.turn_reward is not None:
            raise ValueError(f"task {self.name!r} has a turn_reward and no weights: give it weights to change them")
        return self.weights or (1 / len(self.criteria),) * len(self.criteria)

    def reward(self, scores: NDArray[np.float64], weights: Sequence[float] | None = None) -> NDArray[np.float64]:
        """The reward of turns from their scores, ``[B, C] -> [B]``.

        Args:
            scores: of the criteria.
            weights: other weights than the task's, of which the ratios count: they are scaled to the task's sum.

        Raises:
            ValueError: there are ``weights``, but the task's reward is no weighted sum.
        """
        if weights is None and self.turn_reward is not None:
            return self.turn_reward(scores)
        own = np.array(self.own_weights)
        used = own if weights is None else np.array(weights) * (own.sum() / np.sum(weights))
        # A matrix product may round by the size of the batch; a row's own sum does not.
        return np.asarray((scores * used).sum(axis=1))

    def restrict(
        self, log_policy: NDArray[np.float64], dialogues: Sequence[Dialogue], inventory: Inventory
    ) -> NDArray[np.float64]:
        """``log_policy [B, A]`` over the allowed moves alone, normalised anew; -inf at the others.

        Raises:
            ValueError: no move is allowed, or the policy gives none of the allowed ones any probability.
        """
        if self.allowed is None:
            return log_policy
        mask = np.array([self.allowed(dialogue, inventory) for dialogue in dialogues], dtype=np.bool_)
        if mask.shape != log_policy.shape:
            raise ValueError(f"task.allowed answers in shape {mask.shape}: give one truth value per move")
        kept = np.where(mask, log_policy, -np.inf)
        total = np.logaddexp.reduce(kept, axis=1, keepdims=True)
        if not np.isfinite(total).all():
            dialogue = dialogues[int(np.flatnonzero(~np.isfinite(total[:, 0]))[0])]
            raise ValueError(
                f"no allowed move has any probability after {dialogue.turns[-1].text!r} in scene "
                f"{dialogue.scene.id!r}: allow one in task.allowed, or end the conversation there"
            )
        return np.asarray(kept - total)


class TaskError(ValueError):
    """A task that cannot be found; the message says how to name one."""


def load_task(name: str) -> Task:
    """The task of this name, ``module:object``; a module in the working directory is found too.

    Raises:
        TaskError: there is no such module, or no such task in it.
    """
    module, colon, attribute = name.partition(":")
    if not colon or not all(part.isidentifier() for part in [*module.split("."), attribute]):
        raise TaskError(f"task {name!r} must read module:object, for instance haggling:TASK")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        task = getattr(importlib.import_module(module), attribute, None)
    except ModuleNotFoundError as error:
        if error.name is None or not (module + ".").startswith(error.name + "."):
            raise
        raise TaskError(f"task {name!r}: there is no module {module!r} here or among the installed packages") from None
    if not isinstance(task, Task):
        raise TaskError(f"task {name!r}: module {module!r} has no Task of the name {attribute!r}")
    return task
