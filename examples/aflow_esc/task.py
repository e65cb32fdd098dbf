"""Emotional support as a dialogue task, after AFlow (arXiv 2602.08826)."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from examples.aflow_esc.corpora import load_for
from examples.aflow_esc.crisis import CrisisCheck, research_notice
from examples.aflow_esc.prompts import PROMPTS
from examples.aflow_esc.scenes import SupportScene, bundled_scenes, chat_scene, emotion_and_problem, generated_scenes
from examples.aflow_esc.simulated import simulated_roles
from examples.aflow_esc.strategies import INVENTORIES
from gflowdial.dialogue.task import Criterion, Task, Template

CRITERIA = (
    Criterion("Empathy", question="does the supporter understand and share the seeker's feelings?"),
    Criterion("Information", question="does the supporter say something useful and specific?"),
    Criterion("Naturalness", question="is the reply fluent, and does it fit what the seeker said?"),
    Criterion("Strategic efficacy", question="does the reply help the seeker to move forward?"),
)
WEIGHTS = (0.1 / 2.5, 0.1 / 2.5, 0.1 / 2.5, 0.2 / 2.5)
"""The paper's weights over its 2.5, in `CRITERIA` order: with scores from 1 to 5 a turn's reward lies in [0.2, 1]."""


def trajectory_return(rewards: Sequence[float], status: str) -> float:
    """The mean turn reward, and 0 if the seeker left unhelped."""
    return 0.0 if status == "left" else fmean(rewards)


TASK = Task(
    name="emotional support",
    inventories=tuple(INVENTORIES.values()),
    scenes=bundled_scenes,
    scene=SupportScene,
    roles={"simulated": simulated_roles},
    criteria=CRITERIA,
    agent="Supporter",
    partner="Seeker",
    ends={"helped": "success", "left": "left"},
    weights=WEIGHTS,
    trajectory_return=trajectory_return,
    max_turns=4,
    template=Template(
        opening="A seeker and a supporter talk. Emotion: {scene.emotion}. Problem: {scene.problem}.",
        move="\nStrategy:",
    ),
    prompts=PROMPTS,
    load=load_for,
    generate=generated_scenes,
    group=emotion_and_problem,
    guard=CrisisCheck,
    notice=research_notice(),
    chat_scene=chat_scene,
    licence="Apache-2.0, as this project",
    tokenizer=Path(__file__).with_name("tokenizer"),
    safety="Research software, not care: no counsellor, no medical device. Keep the crisis check in front of it.",
)
