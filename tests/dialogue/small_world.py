"""A small random task: what its roles say is a hash of the dialogue. Moves may be forbidden, the partner may be random.

`TASK` and `MASKED` can be named in a configuration, as ``small_world:TASK``.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gflowdial.dialogue import Criterion, Dialogue, Inventory, Move, Reply, Roles, Scene, Task
from gflowdial.dialogue.environment import DialogueEnvironment, DialogueState
from gflowdial.search import SearchTree, enumerate_tree

MOVES = Inventory("small", (Move("Ask", "Put a question."), Move("Tell", "State a fact."), Move("Wait")))


@dataclass(frozen=True)
class Place(Scene):
    """A scene with a field of its own."""

    name: str
    floor: int = 0


def scenes() -> list[Place]:
    return [Place(f"s{n}", f"opening {n}, \u2028 ünicode", f"place {n}", n) for n in range(7)]


def draw(dialogue: Dialogue, salt: str) -> float:
    """A number in [0, 1) that depends on the dialogue alone."""
    return zlib.crc32((salt + repr(dialogue)).encode()) / 2**32


def status(number: float) -> str:
    return "left" if number < 0.1 else "helped" if number < 0.3 else "continues"


class Hashed:
    """Prior, agent, partner and judge."""

    def __init__(self, inventory: Inventory = MOVES) -> None:
        self.inventory, self.dialogues_answered = inventory, 0

    def log_prior(self, dialogues: Sequence[Dialogue]) -> NDArray[np.float64]:
        weights = np.array([[0.1 + draw(d, name) for name in self.inventory.names] for d in dialogues])
        return np.log(weights / weights.sum(axis=1, keepdims=True))

    def reply(self, dialogues: Sequence[Dialogue], moves: Sequence[str]) -> list[str]:
        self.dialogues_answered += len(dialogues)
        return [f"{move} {draw(d, move):.3f}" for d, move in zip(dialogues, moves, strict=True)]

    def respond(self, dialogues: Sequence[Dialogue]) -> list[Reply]:
        numbers = [draw(d, "status") for d in dialogues]
        return [Reply(f"{number:.3f}", status(number)) for number in numbers]

    def score(self, dialogues: Sequence[Dialogue]) -> NDArray[np.float64]:
        return np.array([[1 + 4 * draw(d, "sense"), draw(d, "warmth")] for d in dialogues])


class Random:
    """A partner with one to three answers."""

    def replies(self, dialogues: Sequence[Dialogue]) -> list[list[Reply]]:
        return [self._replies(dialogue) for dialogue in dialogues]

    def _replies(self, dialogue: Dialogue) -> list[Reply]:
        count = 1 + int(3 * draw(dialogue, "count"))
        weight = np.array([0.2 + draw(dialogue, f"weight {k}") for k in range(count)])
        numbers = [draw(dialogue, f"status {k}") for k in range(count)]
        return [
            Reply(f"answer {k}", status(number), float(p))
            for k, (number, p) in enumerate(zip(numbers, weight / weight.sum(), strict=True))
        ]


def allowed(dialogue: Dialogue, inventory: Inventory) -> list[bool]:
    """About half of the moves, one at least."""
    numbers = [draw(dialogue, f"allowed {name}") for name in inventory.names]
    return [number > 0.5 or number == max(numbers) for number in numbers]


def hashed(inventory: Inventory) -> Roles:
    roles = Hashed(inventory)
    return Roles(roles, roles, roles, roles, enumerable=True, canned=True)


def random(inventory: Inventory) -> Roles:
    return replace(hashed(inventory), partner=Random())


TASK = Task(
    name="small",
    inventories=(MOVES,),
    scenes=scenes,
    scene=Place,
    roles={"hashed": hashed, "random": random},
    criteria=(Criterion("sense"), Criterion("warmth", 0.0, 1.0)),
    ends={"helped": "success", "left": "left"},
    turn_reward=lambda scores: (scores[:, 0] / 5 + scores[:, 1]) / 2,
    trajectory_return=lambda rewards, status: 0.0 if status == "left" else sum(rewards) / len(rewards),
    max_turns=3,
)
MASKED = replace(TASK, name="masked", allowed=allowed)


def environment(
    task: Task = TASK, roles: Roles | None = None, turns: int = 3, *, stochastic: bool = False
) -> DialogueEnvironment:
    inventory = task.inventory()
    made = roles or (random if stochastic else hashed)(inventory)
    return DialogueEnvironment.of(task, made, inventory, turns)


def begun(count: int = 1) -> list[DialogueState]:
    return [DialogueState.begin(scene) for scene in scenes()[:count]]


def every(world: DialogueEnvironment, count: int = 1) -> SearchTree[DialogueState]:
    """All conversations of the first scenes."""
    return enumerate_tree(world, begun(count))
