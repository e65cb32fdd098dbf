"""A small dialogue task with one planted fault each, and unusual tasks without a fault."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gflowdial.dialogue import Criterion, Dialogue, Inventory, Move, Reply, Roles, Scene, Task, Template
from gflowdial.dialogue.canned import CannedAgent, UniformPrior

MOVES = Inventory("moves", (Move("Ask"), Move("Praise"), Move("Leave")))
PHRASES = {"Ask": "How are you?", "Praise": "Well done.", "Leave": "Goodbye."}


class World(CannedAgent):
    def respond(self, dialogues: Sequence[Dialogue]) -> list[Reply]:
        return [self.reply_to(self.moves_of(dialogue)) for dialogue in dialogues]

    def reply_to(self, moves: tuple[str, ...]) -> Reply:
        return Reply(f"I heard {len(moves)}.", "left" if moves[-1] == "Leave" else "continues")

    def score(self, dialogues: Sequence[Dialogue]) -> Any:
        return np.array([[1.0 + self.moves_of(dialogue).count("Praise")] for dialogue in dialogues])


def _roles(world: Any, prior: Any = None) -> dict[str, Callable[..., Roles]]:
    return {"simulated": lambda inventory: Roles(prior or UniformPrior(len(inventory)), world, world, world)}


TASK = Task(
    name="small",
    inventories=(MOVES,),
    scenes=lambda: [Scene("one", "Hello."), Scene("two", "Good evening.")],
    generate=lambda n: [Scene(f"drawn-{i}", f"Hello {i}.") for i in range(n)],
    roles=_roles(World(PHRASES)),
    criteria=(Criterion("score", 1.0, 5.0),),
    ends={"left": "left"},
    max_turns=3,
)


def _world(name: str, **methods: Callable[..., Any]) -> Task:
    world = type(name, (World,), methods)(PHRASES)
    return replace(TASK, roles=_roles(world))


def _plain(self: World, dialogues: Sequence[Dialogue]) -> list[Reply]:
    return World.respond(self, dialogues)


class LoudPrior:
    def log_prior(self, dialogues: Sequence[Dialogue]) -> Any:
        return np.zeros((len(dialogues), 3))


COUNT = iter(range(10**9))

FAULTS: dict[str, Task] = {
    "no scenes": replace(TASK, scenes=list),
    "an id twice": replace(TASK, scenes=lambda: [Scene("one", "Hello."), Scene("one", "Good evening.")]),
    "an empty opening": replace(TASK, scenes=lambda: [Scene("one", " ")]),
    "other scenes each time": replace(TASK, scenes=lambda: [Scene(f"s{next(COUNT)}", "Hello.")]),
    "generator by count": replace(TASK, generate=lambda n: [Scene(f"{n}-{i}", "Hello.") for i in range(n)]),
    "generator of one id": replace(TASK, generate=lambda n: [Scene("same", "Hello.")] * n),
    "groups as numbers": replace(TASK, group=lambda scene: len(scene.id)),  # type: ignore[arg-type,return-value]
    "reward of all rows": replace(TASK, turn_reward=lambda scores: scores.mean(axis=1) / scores.mean()),
    "reward in one column": replace(TASK, turn_reward=lambda scores: scores),
    "log of a score of 0": replace(
        TASK, criteria=(Criterion("score", 0.0, 5.0),), turn_reward=lambda scores: np.log(scores[:, 0])
    ),
    "return is NaN": replace(TASK, trajectory_return=lambda rewards, status: float("nan")),  # noqa: ARG005
    "return pops": replace(TASK, trajectory_return=lambda rewards, status: rewards.pop()),  # type: ignore[attr-defined]  # noqa: ARG005
    "template without text": replace(TASK, template=Template(partner="\n{partner}: ...")),
    "template of an unknown field": replace(TASK, template=Template(opening="{scene.price}")),
    "speakers alike": replace(TASK, template=Template(agent="\n- {text}", partner="\n- {text}")),
    "one move allowed too few": replace(TASK, allowed=lambda dialogue, inventory: [True, True]),  # noqa: ARG005
    "nothing allowed": replace(TASK, allowed=lambda dialogue, inventory: [False] * 3),  # noqa: ARG005
    "prior not normalised": replace(TASK, roles=_roles(World(PHRASES), LoudPrior())),
    "an unknown status": _world("UnknownStatus", reply_to=lambda self, moves: Reply("Bye.", "gone")),  # noqa: ARG005
    "silence": _world("Silence", reply_to=lambda self, moves: Reply("")),  # noqa: ARG005
    "scores out of range": _world("OutOfRange", score=lambda self, d: 9 * World.score(self, d)),
    "scores of the batch": _world("OfTheBatch", score=lambda self, d: World.score(self, d) / len(d) + 1),
    "scores in a row": _world("InARow", score=lambda self, d: World.score(self, d).ravel()),
    "another answer each time": _world(
        "Moody",
        reply_to=lambda self, moves: Reply(f"{next(COUNT)}"),  # noqa: ARG005
    ),
    "answers in another order": _world("Turned", respond=lambda self, d: World.respond(self, d)[::-1]),
    "roles with an option that is due": replace(
        TASK,
        roles={"simulated": lambda inventory, key: _roles(World(PHRASES))["simulated"](inventory)},  # noqa: ARG005
    ),
}

SOUND: dict[str, Task] = {
    "the small task": TASK,
    "no generator": replace(TASK, generate=None),
    "moves not allowed": replace(
        TASK, allowed=lambda dialogue, inventory: [n != "Leave" or len(dialogue.turns) > 1 for n in inventory.names]
    ),
    "one turn": replace(TASK, max_turns=1),
    "negative returns": replace(TASK, trajectory_return=lambda rewards, status: -100.0 * len(rewards) - len(status)),
}
