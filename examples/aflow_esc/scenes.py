"""The scenes of emotional support, written for this project: the bundled ones, and a generator."""

import json
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path

from gflowdial.dialogue.scenes import drawn, load_scenes
from gflowdial.dialogue.values import Dialogue, Scene

BUNDLED = Path(__file__).with_name("scenes.json")
OPENINGS = Path(__file__).with_name("openings.json")


@dataclass(frozen=True)
class SupportScene(Scene):
    """Where a conversation of emotional support starts.

    Attributes:
        situation: what troubles the seeker, in the third or first person.
        emotion: the seeker's emotion, as the data names it.
        problem: the kind of problem, as the data names it.
    """

    situation: str
    emotion: str
    problem: str


@cache
def bundled_scenes() -> tuple[SupportScene, ...]:
    """The scenes that come with the example."""
    return tuple(load_scenes(BUNDLED, SupportScene))


def generated_scenes(count: int) -> list[SupportScene]:
    """Scenes composed of the phrases of `OPENINGS`: all pairs of emotion and problem in turn, in ever new words.

    The opening is one sentence for the problem and one for the emotion, in either order. The first k scenes do not
    depend on ``count``.

    Raises:
        ValueError: the phrases do not give so many scenes.
    """
    phrases = json.loads(OPENINGS.read_text(encoding="utf-8"))
    emotions, problems = phrases["emotions"], phrases["problems"]
    # Neighbours differ in both: 8 scenes have all emotions and all problems, 64 all pairs.
    pairs = [
        (list(emotions)[n % len(emotions)], list(problems)[(n + shift) % len(problems)])
        for shift in range(len(problems))
        for n in range(len(emotions))
    ]
    wordings = {}
    for emotion, problem in pairs:
        choices = list(product(problems[problem], enumerate(emotions[emotion]["says"]), (True, False)))
        wordings[emotion, problem] = drawn(choices, len(choices), f"{emotion}, {problem}")
    if count > (most := len(pairs) * min(map(len, wordings.values()))):
        raise ValueError(
            f"the phrases give {most} scenes, not {count}: ask for fewer, or add phrases to {OPENINGS.name}"
        )
    scenes = []
    for number in range(count):
        emotion, problem = pairs[number % len(pairs)]
        (event, told), (variant, feeling), event_first = wordings[emotion, problem][number // len(pairs)]
        mood = emotions[emotion]["is"][variant % len(emotions[emotion]["is"])]
        scenes.append(
            SupportScene(
                id=f"{emotion}-{problem.replace(' ', '-')}-{number // len(pairs)}",
                opening=f"{event} {feeling}" if event_first else f"{feeling} {event}",
                situation=f"Someone {told}, and {mood}.",
                emotion=emotion,
                problem=problem,
            )
        )
    return scenes


def emotion_and_problem(scene: Scene) -> str:
    """What the simulated world depends on."""
    assert isinstance(scene, SupportScene)
    return f"{scene.emotion}, {scene.problem}"


def scene_of(dialogue: Dialogue) -> SupportScene:
    """The scene of a dialogue of emotional support."""
    assert isinstance(dialogue.scene, SupportScene)
    return dialogue.scene


def chat_scene(text: str) -> SupportScene:
    """The scene of a chat, of which nothing is known but the first words."""
    return SupportScene("chat", text, text, "unknown", "unknown")
