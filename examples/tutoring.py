"""Tutoring as a dialogue task: ``gflowdial run --task tutoring:TASK --config tutoring.yaml``.

A tutor talks with a student who understands a move or does not: the answer is left to chance, with a probability that
depends on what the student knows and dares. So a chance node follows each move, and the exact flow is an expected one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np

from gflowdial.dialogue import Criterion, Dialogue, Inventory, Move, Reply, Roles, Scene, Task, Template
from gflowdial.dialogue.canned import CannedAgent, UniformPrior
from gflowdial.dialogue.scenes import drawn

# The rules of the world.


@dataclass(frozen=True)
class Lesson(Scene):
    """What is taught, and what the student knows of it and dares at first, each from 0 to 2."""

    topic: str
    skill: int
    courage: int


class Mind(NamedTuple):
    """What the student knows, 0 to 4, and dares, 0 to 2."""

    skill: int
    courage: int


PHRASES = {
    "Explain": "Let me explain it once more.",
    "Show an example": "Look at this example.",
    "Give a hint": "Here is a hint.",
    "Set a problem": "Try this problem by yourself.",
    "Encourage": "You are getting there, go on.",
}
# From how much skill and courage a move is understood, and how much skill and courage that brings.
NEEDS = {
    "Explain": (0, 0),
    "Show an example": (1, 0),
    "Give a hint": (1, 1),
    "Set a problem": (2, 1),
    "Encourage": (0, 0),
}
BRINGS = {
    "Explain": (1, 0),
    "Show an example": (1, 0),
    "Give a hint": (1, 1),
    "Set a problem": (2, 0),
    "Encourage": (0, 1),
}


def chance(mind: Mind, move: str) -> float:
    """The probability that the student understands a move."""
    skill, courage = NEEDS[move]
    return max(0.8 - 0.3 * max(skill - mind.skill, 0) - 0.3 * max(courage - mind.courage, 0), 0.1)


def after(mind: Mind, move: str, understood: bool) -> Mind:
    """The student after a move; one that is not understood costs courage, unless it set no task."""
    if not understood:
        return Mind(mind.skill, max(mind.courage - (move in ("Give a hint", "Set a problem")), 0))
    skill, courage = BRINGS[move]
    return Mind(min(mind.skill + skill, 4), min(mind.courage + courage, 2))


def words(mind: Mind, understood: bool) -> str:
    """What the student says, which shows what they know and dare."""
    skill = ("I know nothing of it.", "I know a little.", "I see how it begins.", "I can nearly do it.", "I can do it.")
    courage = ("I will never learn it.", "I will try.", "This is fun.")
    return f"{'Yes!' if understood else 'No.'} {skill[mind.skill]} {courage[mind.courage]}"


def lesson(topic: str, skill: int, courage: int) -> Lesson:
    """A lesson with the student's first words."""
    return Lesson(f"{topic}-{skill}-{courage}", words(Mind(skill, courage), False), topic, skill, courage)


TOPICS = ("fractions", "gravity", "verbs", "loops")
MORE_TOPICS = (
    "angles atoms chords planets commas rivers circuits primes cells maps vectors acids verse magnets ratios fossils "
    "rhythm tides nouns graphs enzymes volcanoes decimals perspective lenses treaties glaciers recursion scales trade"
)
LESSONS = [*product((*TOPICS, *MORE_TOPICS.split()), range(3), range(3))]


# The task. --8<-- [start:task]

MOVES = Inventory("tutoring", tuple(Move(name, phrase) for name, phrase in PHRASES.items()))


def scenes() -> list[Lesson]:
    """Four topics, each with three levels of skill and of courage."""
    return [lesson(*each) for each in product(TOPICS, range(3), range(3))]


class World(CannedAgent):
    """The tutor's phrases, the student's answers and the judge, all from the words of a dialogue."""

    def mind(self, dialogue: Dialogue) -> Mind:
        """The student after all moves that were answered."""
        lesson, moves = dialogue.scene, self.moves_of(dialogue)
        assert isinstance(lesson, Lesson)
        mind = Mind(lesson.skill, lesson.courage)
        answers = [turn.text.startswith("Yes!") for turn in dialogue.turns[1:] if turn.speaker == "partner"]
        for move, understood in zip(moves, answers, strict=False):
            mind = after(mind, move, understood)
        return mind

    def replies(self, dialogues: Sequence[Dialogue]) -> list[list[Reply]]:
        """That the student understands, and that they do not."""
        return [self._both(self.mind(dialogue), self.moves_of(dialogue)[-1]) for dialogue in dialogues]

    def _both(self, mind: Mind, move: str) -> list[Reply]:
        p = chance(mind, move)
        yes, no = after(mind, move, True), after(mind, move, False)
        status = "mastered" if yes.skill == 4 else "continues"
        return [Reply(words(yes, True), status, p), Reply(words(no, False), probability=1 - p)]

    def score(self, dialogues: Sequence[Dialogue]) -> np.ndarray:
        """How much of the topic the student knows, ``[B, 1]``."""
        return np.array([[self.mind(dialogue).skill / 4] for dialogue in dialogues])


def simulated(inventory: Inventory) -> Roles:
    """The simulated tutor and student."""
    world = World(PHRASES)
    return Roles(UniformPrior(len(inventory)), world, world, world, enumerable=True, canned=True)


TASK = Task(
    name="tutoring",
    inventories=(MOVES,),
    scenes=scenes,
    generate=lambda count: [lesson(*each) for each in drawn(LESSONS, count)],
    group=lambda scene: scene.id.partition("-")[2],
    scene=Lesson,
    roles={"simulated": simulated},
    criteria=(Criterion("knowledge", 0.0, 1.0),),
    agent="Tutor",
    partner="Student",
    ends={"mastered": "mastered"},
    trajectory_return=lambda rewards, _: rewards[-1],
    max_turns=3,
    template=Template(opening="A tutor and a student talk about {scene.topic}.", move="\nMove:"),
)
