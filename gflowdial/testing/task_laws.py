"""Laws of a dialogue task: scenes, roles, rewards, returns and templates that its stages count on."""

import reprlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gflowdial.dialogue.environment import DialogueEnvironment, DialogueState
from gflowdial.dialogue.moves import Inventory
from gflowdial.dialogue.roles import CONTINUES, Roles
from gflowdial.dialogue.task import Task
from gflowdial.dialogue.values import Dialogue, Scene, Turn
from gflowdial.testing.broken import BrokenLawError, kept_laws
from gflowdial.testing.search_laws import check_search_environment

SCENES = 3
"""Scenes that are played."""


def check_task(
    task: Task, *, roles: Sequence[str] | None = None, max_states: int = 40, leave_out: Sequence[str] = ()
) -> None:
    """Check that a dialogue task keeps what a run counts on, with each inventory and each kind of roles.

    The laws, by name:

    - "scenes": there are some, of the task's class, with an opening and ids that occur once; the same each time;
    - "generator": ``generate(k)`` are the first k of ``generate(n)``, which obey "scenes" too; a group is a text;
    - "rewards": of scores between ``low`` and ``high`` they are finite numbers, one per row, row by row;
    - "returns": they are finite numbers whatever the status, and the same again;
    - "templates": template and prompts can be formatted, turns show their text and differ by speaker;
    - "roles": each kind can be made without options; prior, agent, partner and judge answer in the form of their
      protocols, with statuses and scores that the task knows, also where some moves are not allowed;
    - "conversations": the conversation of task and roles keeps the laws of `check_search_environment`, so no role's
      answer changes with the batch or the next time, and conversations end.

    Args:
        task: what to check.
        roles: the kinds to check; by default all of the task's. Those that stand on a large language model take as
            long as its answers.
        max_states: how many dialogues are looked at in breadth for each kind and inventory.
        leave_out: names of laws that are not checked.

    Raises:
        AssertionError: with the law and what was found.
        ValueError: ``leave_out`` names no law, or ``roles`` a kind that the task does not have.
    """
    if unknown := [kind for kind in roles or () if kind not in task.roles]:
        raise ValueError(f"the task has no roles {unknown[0]!r}: choose from {', '.join(task.roles)}")
    laws: dict[str, Callable[[Task], None]] = {
        "scenes": _scenes,
        "generator": _generator,
        "rewards": _rewards,
        "returns": _returns,
        "templates": _templates,
        "roles": lambda task: _each(task, roles, _roles),
        "conversations": lambda task: _each(task, roles, lambda *made: _conversations(*made, max_states=max_states)),
    }
    for law, check in kept_laws(laws, leave_out).items():
        try:
            check(task)
        except BrokenLawError as broken:
            raise BrokenLawError(f"task {task.name!r} breaks a law of tasks ('{law}'): {broken}") from None
        except Exception as error:
            # Whatever a task raises of what it is asked is a finding.
            what = f"it raised {type(error).__name__}: {error}"
            raise BrokenLawError(f"task {task.name!r} breaks a law of tasks ('{law}'): {what}") from error


def _scenes(task: Task) -> None:
    _of_scenes(task, list(task.scenes()), list(task.scenes()), "scenes()")


def _of_scenes(task: Task, scenes: list[Scene], again: list[Scene], what: str) -> None:
    if not scenes:
        raise BrokenLawError(f"{what} gives no scene.")
    if scenes != again:
        raise BrokenLawError(f"{what} gives other scenes when asked again.")
    known: set[str] = set()
    for scene in scenes:
        if not isinstance(scene, task.scene):
            raise BrokenLawError(f"{what} gives a {type(scene).__name__}, no {task.scene.__name__}.")
        if not isinstance(scene.id, str) or not scene.id or scene.id in known:
            raise BrokenLawError(f"{what} gives the id {scene.id!r}, which is no text or occurs twice.")
        if not isinstance(scene.opening, str) or not scene.opening.strip():
            raise BrokenLawError(f"{what} gives scene {scene.id!r} the opening {scene.opening!r}, which says nothing.")
        known.add(scene.id)


def _generator(task: Task) -> None:
    if task.generate is None:
        return
    many, few = list(task.generate(12)), list(task.generate(5))
    _of_scenes(task, many, list(task.generate(12)), "generate(12)")
    if len(many) != 12 or few != many[:5]:
        raise BrokenLawError("generate(5) are not the first 5 of the 12 scenes of generate(12).")
    for scene in many if task.group is not None else ():
        if not isinstance(group := task.group(scene), str):  # type: ignore[misc]
            raise BrokenLawError(f"the group of scene {scene.id!r} is {group!r}, no text.")


def _rewards(task: Task) -> None:
    low, high = (np.array([getattr(criterion, end) for criterion in task.criteria]) for end in ("low", "high"))
    scores = np.stack([low, high, (low + high) / 2, low + (high - low) * np.linspace(0.2, 0.9, len(low))])
    rewards = task.reward(scores.copy())
    if not isinstance(rewards, np.ndarray) or rewards.shape != (len(scores),):
        shape = getattr(rewards, "shape", type(rewards).__name__)
        raise BrokenLawError(f"the reward of {len(scores)} rows of scores has shape {shape}.")
    if not np.isfinite(rewards).all():
        raise BrokenLawError(f"the rewards of the scores {scores.tolist()} are {rewards.tolist()}.")
    alone = np.array([task.reward(row[None].copy())[0] for row in scores])
    if not np.allclose(rewards, alone):
        raise BrokenLawError(f"the rewards {rewards.tolist()} of rows together are {alone.tolist()} one by one.")


def _returns(task: Task) -> None:
    for status in (CONTINUES, *task.ends):
        for rewards in ([0.5], [0.25, 1.0, 0.75]):
            given = list(rewards)
            first, second = task.trajectory_return(given, status), task.trajectory_return(given, status)
            if given != rewards:
                raise BrokenLawError(f"trajectory_return changes the rewards {rewards} that it is given.")
            if not np.isscalar(first) or not np.isfinite(first) or first != second:
                raise BrokenLawError(
                    f"trajectory_return of {rewards} with status {status!r} is {first!r}, and again {second!r}."
                )


def _templates(task: Task) -> None:
    scene = next(iter(task.scenes()))
    names = {"scene": scene, "agent": task.agent, "partner": task.partner}
    everything = {
        **names,
        "transcript": "A: a\nB: b",
        "moves": "Ask: asks",
        "move": "Ask",
        "description": "asks",
        "criteria": "score: how good",
        "low": "1",
        "high": "5",
        "text": "words",
    }
    _formatted("template.opening", task.template.opening, names)
    _formatted("template.move", task.template.move, names)
    turns = {
        who: _formatted(f"template.{who}", getattr(task.template, who), {**names, "text": "§words§"}) for who in _WHO
    }
    for who, turn in turns.items():
        if "§words§" not in turn:
            raise BrokenLawError(f"template.{who} does not show the text of a turn; put {{text}} into it.")
    if turns["agent"] == turns["partner"]:
        raise BrokenLawError("template.agent and template.partner are alike: a policy cannot tell who speaks.")
    for job in ("prior", "agent", "partner", "judge"):
        prompt = getattr(task.prompts, job)
        for part in ("system", "user", "answer"):
            _formatted(f"prompts.{job}.{part}", getattr(prompt, part), everything)


_WHO = ("agent", "partner")


def _formatted(name: str, text: str, values: dict[str, Any]) -> str:
    try:
        return text.format(**values)
    except (KeyError, IndexError, AttributeError, ValueError) as error:
        raise BrokenLawError(f"{name} cannot be formatted: {type(error).__name__}: {error}.") from None


def _each(task: Task, kinds: Sequence[str] | None, check: Callable[[Task, Inventory, str, Roles], None]) -> None:
    for kind in task.roles if kinds is None else kinds:
        for inventory in task.inventories:
            try:
                made = task.roles[kind](inventory)
            except Exception as error:
                raise BrokenLawError(f"roles {kind!r} cannot be made: {type(error).__name__}: {error}.") from None
            check(task, inventory, kind, made)


def _roles(task: Task, inventory: Inventory, kind: str, roles: Roles) -> None:
    if not isinstance(roles, Roles):
        raise BrokenLawError(f"roles {kind!r} are a {type(roles).__name__}, no Roles.")
    dialogues = [Dialogue.begin(scene) for scene in list(task.scenes())[:SCENES]]
    prior = roles.prior.log_prior(dialogues)
    if not isinstance(prior, np.ndarray) or prior.shape != (len(dialogues), len(inventory)):
        shape = getattr(prior, "shape", type(prior).__name__)
        raise BrokenLawError(
            f"the prior of roles {kind!r} answers {shape} where {(len(dialogues), len(inventory))} is due."
        )
    total = np.exp(prior).sum(1)
    if not (np.abs(total - 1) < 1e-4).all():
        raise BrokenLawError(f"the prior of roles {kind!r} is not normalised: probabilities sum to {total.tolist()}.")
    if task.allowed is not None:
        for dialogue in dialogues:
            mask = task.allowed(dialogue, inventory)
            if len(mask) != len(inventory) or not any(mask) or any(entry not in (True, False) for entry in mask):
                raise BrokenLawError(
                    f"allowed is {list(mask)} in scene {dialogue.scene.id!r}: give one truth value per move, one of "
                    "them true."
                )
    for move in inventory.names:
        words = roles.agent.reply(dialogues, [move] * len(dialogues))
        if len(words) != len(dialogues) or not all(isinstance(text, str) and text.strip() for text in words):
            raise BrokenLawError(f"the agent of roles {kind!r} says {reprlib.repr(words)} by move {move!r}.")
        spoken = [dialogue.then(Turn("agent", text)) for dialogue, text in zip(dialogues, words, strict=True)]
        partner: Any = roles.partner
        stochastic = hasattr(partner, "replies")
        answers = partner.replies(spoken) if stochastic else [[reply] for reply in partner.respond(spoken)]
        if len(answers) != len(spoken):
            raise BrokenLawError(f"the partner of roles {kind!r} answers {len(answers)} of {len(spoken)} dialogues.")
        for replies in answers:
            for reply in replies:
                if not isinstance(reply.text, str) or not reply.text.strip():
                    raise BrokenLawError(f"the partner of roles {kind!r} says {reply.text!r} to move {move!r}.")
                if reply.status != CONTINUES and reply.status not in task.ends:
                    raise BrokenLawError(
                        f"the partner of roles {kind!r} answers with status {reply.status!r}, which is none of "
                        f"{', '.join(map(repr, (CONTINUES, *task.ends)))}."
                    )


def _conversations(task: Task, inventory: Inventory, kind: str, roles: Roles, *, max_states: int) -> None:
    environment = DialogueEnvironment.of(task, roles, inventory)
    begun = [DialogueState.begin(scene) for scene in list(task.scenes())[:SCENES]]
    try:
        check_search_environment(environment, begun, max_states=max_states, max_depth=task.max_turns)
    except ValueError as error:
        raise BrokenLawError(f"with roles {kind!r}: {error}.") from None
    except BrokenLawError as broken:
        raise BrokenLawError(f"with roles {kind!r}: {broken}") from None
