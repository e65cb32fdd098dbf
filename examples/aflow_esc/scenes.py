"""The scenes of emotional support, written for this project."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from gflowdial.dialogue.scenes import load_scenes
from gflowdial.dialogue.values import Dialogue, Scene

BUNDLED = Path(__file__).with_name("scenes.json")


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


def scene_of(dialogue: Dialogue) -> SupportScene:
    """The scene of a dialogue of emotional support."""
    assert isinstance(dialogue.scene, SupportScene)
    return dialogue.scene


def chat_scene(text: str) -> SupportScene:
    """The scene of a chat, of which nothing is known but the first words."""
    return SupportScene("chat", text, text, "unknown", "unknown")
