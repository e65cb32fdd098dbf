"""Emotional support as a task: the reward of a turn, the return of a conversation, and its roles in the environment."""

from collections.abc import Sequence

import numpy as np
import pytest

from examples.aflow_esc.scenes import bundled_scenes
from examples.aflow_esc.simulated import simulated_roles
from examples.aflow_esc.strategies import AFLOW
from examples.aflow_esc.task import TASK, WEIGHTS
from gflowdial.dialogue.environment import DialogueEnvironment, DialogueState
from gflowdial.search import SearchConfig, search


@pytest.mark.parametrize(
    ("scores", "reward"),
    [((1, 1, 1, 1), 0.2), ((5, 5, 5, 5), 1.0), ((1, 2, 3, 4), (0.1 + 0.2 + 0.3 + 0.8) / 2.5)],
)
def test_turn_reward_is_the_weighted_mean_score(scores: Sequence[float], reward: float) -> None:
    assert TASK.reward(np.array([scores], float)) == pytest.approx(reward)


def test_a_turn_s_reward_does_not_depend_on_its_batch() -> None:
    scores = np.random.default_rng(0).uniform(1, 5, (100, 4))
    alone = np.concatenate([TASK.reward(row[None]) for row in scores])
    assert np.array_equal(TASK.reward(scores), alone)


def test_return_is_the_mean_reward_and_nothing_if_the_seeker_left() -> None:
    for status, expected in (("continues", 0.4), ("helped", 0.4), ("left", 0.0)):
        assert TASK.trajectory_return([0.2, 0.6], status) == pytest.approx(expected)


def test_what_the_task_says() -> None:
    assert TASK.inventory() is AFLOW
    assert len(WEIGHTS) == len(TASK.criteria) == 4
    assert [(criterion.low, criterion.high) for criterion in TASK.criteria] == [(1, 5)] * 4
    assert dict(TASK.ends) == {"helped": "success", "left": "left"}
    environment = DialogueEnvironment.of(TASK, simulated_roles(), AFLOW)
    assert environment.num_actions == 8
    assert environment.max_turns == 4


def test_the_simulated_roles_fit_the_environment() -> None:
    environment = DialogueEnvironment.of(TASK, simulated_roles(), AFLOW)
    roots = [DialogueState.begin(scene) for scene in bundled_scenes()[:3]]
    found = search(environment, roots, range(3), SearchConfig(simulations=30, max_depth=4, rollout_length=4))
    assert bool(found.ended.any())
    assert float(found.reward[found.reward > 0].min()) >= 0.2
    assert float(found.value.min()) >= 0
    assert float(found.value.max()) <= 1
