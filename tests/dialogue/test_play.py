"""Played conversations end as the environment says, pay its return, and do not depend on their company."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import chisquare
from small_world import MASKED, TASK, environment, every, scenes

from gflowdial.dialogue.environment import DialogueEnvironment, DialogueState, StochasticDialogueEnvironment
from gflowdial.dialogue.play import play
from gflowdial.dialogue.policies import PriorPolicy, UniformPolicy

SCENES = scenes()[:4]
WORLD = environment()
CHANCE = environment(stochastic=True)
UNIFORM = UniformPolicy(3)


@pytest.mark.parametrize("world", [WORLD, CHANCE, environment(MASKED), environment(MASKED, stochastic=True)])
def test_episodes_are_replayed_by_the_environment(world: DialogueEnvironment) -> None:
    for scene, episodes in zip(SCENES, play(world, UNIFORM, SCENES, 5, 0), strict=True):
        for episode in episodes:
            assert episode.dialogue.scene == scene
            state, rewards, entropies = DialogueState.begin(scene), [], []
            answers = [turn.text for turn in episode.dialogue.turns[2::2]]
            for name, answer in zip(episode.dialogue.moves, answers, strict=True):
                mask = [True] * 3 if world.task.allowed is None else world.task.allowed(state.dialogue, world.inventory)
                assert mask[world.inventory.index(name)]
                entropies.append(np.log(sum(mask)))
                action = np.array([world.inventory.index(name)])
                stochastic = isinstance(world, StochasticDialogueEnvironment)
                made = world.outcomes([state], action)[0] if stochastic else world.step([state], action)
                (taken,) = [each for each in made if each.state.dialogue.turns[-1].text == answer]
                state = taken.state
                rewards.append(taken.reward)
            assert state == episode.state
            assert world.ended(state)
            assert episode.episode_return == world.trajectory_return(rewards, state)
            assert episode.entropies == pytest.approx(entropies)


@pytest.mark.parametrize("world", [WORLD, CHANCE])
def test_an_episode_does_not_depend_on_its_company(world: DialogueEnvironment) -> None:
    together = play(world, UNIFORM, SCENES, 4, 3)
    assert play(world, UNIFORM, SCENES[2:3], 2, 3)[0] == together[2][:2]
    assert play(world, UNIFORM, SCENES, 4, 4) != together
    assert len({episode.dialogue.moves for episode in together[0]}) > 1


def test_moves_are_drawn_from_the_policy() -> None:
    prior = PriorPolicy(WORLD.roles.prior)
    episodes = 2000
    (played,) = play(environment(turns=1), prior, SCENES[:1], episodes, 0)
    first = [TASK.inventory().index(episode.dialogue.moves[0]) for episode in played]
    share = np.bincount(first, minlength=3) / episodes
    wanted = np.exp(prior.log_policy([DialogueState.begin(SCENES[0]).dialogue])[0])
    assert (np.abs(share - wanted) < 4 * np.sqrt(wanted * (1 - wanted) / episodes)).all()


@pytest.mark.parametrize("task", [TASK, MASKED])
def test_a_partner_s_answers_are_drawn_by_their_probabilities(task: object) -> None:
    """Whole conversations come as often as the enumerated tree says: moves by policy, answers by chance."""
    world = environment(task, turns=2, stochastic=True)
    tree = every(world)
    forest, prior = tree.forest, world.log_prior([DialogueState.begin(SCENES[0])])
    assert bool((tree.log_chance[forest.leaves] < 0).any())
    log_reach = np.zeros(forest.num_nodes)
    for node, above in list(enumerate(forest.parent.tolist()))[1:]:
        acts = tree.log_prior[above].numpy()
        log_reach[node] = log_reach[above] + (tree.log_chance[node] if tree.chance[above] else acts[tree.action[node]])
    assert np.exp(log_reach[forest.leaves]).sum() == pytest.approx(1)
    np.testing.assert_allclose(tree.log_prior[0], prior[0])
    episodes = 1500
    (played,) = play(world, PriorPolicy(world.roles.prior), SCENES[:1], episodes, 0)
    dialogues = [tree.states[leaf].dialogue for leaf in forest.leaves.tolist()]
    times = Counter(episode.dialogue for episode in played)
    count = [times[dialogue] for dialogue in dialogues]
    assert sum(count) == episodes
    expected = episodes * np.exp(log_reach[forest.leaves])
    # Chi-square wants five or so in every cell: rare conversations are one cell.
    rare = expected < 5
    observed, wanted = np.array(count), expected
    if rare.any():
        observed = np.append(observed[~rare], observed[rare].sum())
        wanted = np.append(wanted[~rare], wanted[rare].sum())
    assert len(wanted) > 5
    assert chisquare(observed, wanted).pvalue > 1e-3


def test_every_turn_is_told() -> None:
    turns = []
    played = play(WORLD, UNIFORM, SCENES, 2, 0, lambda: turns.append(1))
    assert len(turns) == max(len(episode.entropies) for episodes in played for episode in episodes)


def test_speakers_take_turns() -> None:
    for episodes in play(CHANCE, UNIFORM, SCENES, 3, 0):
        for episode in episodes:
            turns = episode.dialogue.turns
            assert turns[0].speaker == turns[-1].speaker == "partner"
            assert all(a.speaker != b.speaker for a, b in pairwise(turns))
