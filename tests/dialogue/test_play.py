"""Played conversations end as the environment says, pay its return, and do not hang on their company."""

import numpy as np
import pytest
from examples.aflow_esc.environment import SupportEnvironment, SupportState
from examples.aflow_esc.play import play
from examples.aflow_esc.policies import PriorPolicy, UniformPolicy

from examples.aflow_esc.scenes import bundled_scenes
from examples.aflow_esc.simulated import simulated_roles
from examples.aflow_esc.strategies import AFLOW

SCENES = bundled_scenes()[:4]
ENVIRONMENT = SupportEnvironment(simulated_roles(AFLOW, 0, 3), AFLOW, 3)
UNIFORM = UniformPolicy(len(AFLOW))


def test_episodes_are_replayed_by_the_environment() -> None:
    for scene, episodes in zip(SCENES, play(ENVIRONMENT, UNIFORM, SCENES, 5, 0), strict=True):
        for episode in episodes:
            assert episode.dialogue.scene == scene
            state, rewards = SupportState.begin(scene), []
            for name in episode.dialogue.strategies:
                (made,) = ENVIRONMENT.step([state], np.array([AFLOW.index(name)]))
                state = made.state
                rewards.append(made.reward)
            assert state == episode.state
            assert ENVIRONMENT.ended(state)
            assert episode.episode_return == ENVIRONMENT.trajectory_return(rewards, state)
            assert episode.entropies == pytest.approx([np.log(len(AFLOW))] * len(rewards))


def test_an_episode_does_not_hang_on_its_company() -> None:
    together = play(ENVIRONMENT, UNIFORM, SCENES, 4, 3)
    assert play(ENVIRONMENT, UNIFORM, SCENES[2:3], 2, 3)[0] == together[2][:2]
    assert play(ENVIRONMENT, UNIFORM, SCENES, 4, 4) != together
    assert len({episode.dialogue.strategies for episode in together[0]}) > 1


def test_strategies_are_drawn_from_the_policy() -> None:
    prior = PriorPolicy(ENVIRONMENT.roles.prior)
    episodes = 2000
    (played,) = play(SupportEnvironment(ENVIRONMENT.roles, AFLOW, 1), prior, SCENES[:1], episodes, 0)
    first = [AFLOW.index(episode.dialogue.strategies[0]) for episode in played]
    share = np.bincount(first, minlength=len(AFLOW)) / episodes
    wanted = np.exp(prior.log_policy([SupportState.begin(SCENES[0]).dialogue])[0])
    assert (np.abs(share - wanted) < 4 * np.sqrt(wanted * (1 - wanted) / episodes)).all()


def test_every_turn_is_told() -> None:
    turns = []
    played = play(ENVIRONMENT, UNIFORM, SCENES, 2, 0, lambda: turns.append(1))
    assert len(turns) == max(len(episode.entropies) for episodes in played for episode in episodes)
