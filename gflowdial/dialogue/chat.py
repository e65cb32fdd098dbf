"""Talk with a policy in the terminal. The task's notice and its guard stand in front of it."""

import sys
from collections.abc import Callable, Iterator
from typing import Protocol, TextIO, runtime_checkable

import numpy as np

from gflowdial.dialogue.choosing import draw, top_moves
from gflowdial.dialogue.config import ConfigError
from gflowdial.dialogue.policies import LearnedPolicy
from gflowdial.dialogue.speakers import Speaker
from gflowdial.dialogue.task import Task
from gflowdial.dialogue.values import Dialogue, Scene, Turn

_GOODBYES = ("quit", "exit", "bye")


@runtime_checkable
class Alert(Protocol):
    """What a guard answers."""

    @property
    def reply(self) -> str:
        """The words."""


@runtime_checkable
class Guard(Protocol):
    """What sees each line of a chat before the policy."""

    def __call__(self, text: str) -> "Alert | None":
        """What is said in the place of the policy; None where the policy may answer."""


def chat(
    task: Task,
    policy: LearnedPolicy,
    speaker: Speaker,
    begin: Callable[[str], Scene],
    *,
    ranks_by_value: bool,
    top_k: int,
    locale: str,
    lines: TextIO = sys.stdin,
    out: TextIO = sys.stdout,
) -> None:
    """Answer the lines of ``lines`` until they end or say goodbye; nothing is stored.

    The guard sees every line before the policy does. What it answers overrides the policy, and the line is kept from
    it.

    Args:
        task: what a conversation is.
        policy: who chooses the moves.
        speaker: who puts them into words.
        begin: the scene, from the first line.
        ranks_by_value: whether the policy's log V counts too; see `top_moves`.
        top_k: how many moves to choose from.
        locale: whose resources the guard names.
        lines: what the person says.
        out: where the answers go.

    Raises:
        ConfigError: the guard does not know ``locale``.
    """
    try:
        guard: Guard | None = None if task.guard is None else task.guard(locale)
    except ValueError as error:
        raise ConfigError(f"--locale: {error}") from None
    name, inventory = task.agent.lower(), policy.encoder.inventory
    stream = np.random.default_rng()
    print(f"{task.notice}\n{speaker.manner}\n(Say {', '.join(_GOODBYES)} to end.)", file=out)
    dialogue: Dialogue | None = None
    for text in _said(lines, out):
        warning = None if guard is None else guard(text)
        if warning is not None:
            print(f"{name}: {warning.reply}", file=out)
            continue
        dialogue = Dialogue.begin(begin(text)) if dialogue is None else dialogue.then(Turn("partner", text))
        output = policy.read(dialogue)
        log_policy = task.restrict(output.log_policy.double().cpu().numpy(), [dialogue], inventory)[0]
        log_value = output.log_value[0].double().cpu().numpy() if ranks_by_value else None
        move = inventory.names[draw(top_moves(log_policy, top_k, log_value), stream)]
        reply = speaker.agent.reply([dialogue], [move])[0]
        dialogue = dialogue.then(Turn("agent", reply, move))
        print(f"{name} ({move}): {reply}", file=out)


def _said(lines: TextIO, out: TextIO) -> Iterator[str]:
    while True:
        print("you: ", end="", file=out, flush=True)
        line = lines.readline()
        text = line.strip()
        if not line or text.casefold() in _GOODBYES:
            print("Take care.", file=out)
            return
        if text:
            yield text
