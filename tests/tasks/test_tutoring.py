"""Tutoring: the rules of its world, and a partner who answers by chance."""

from itertools import product

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from examples.tutoring import BRINGS, MOVES, NEEDS, PHRASES, TASK, Lesson, Mind, World, after, chance, scenes, simulated
from examples.tutoring import words as say
from gflowdial.dialogue.environment import DialogueEnvironment, DialogueState, StochasticDialogueEnvironment
from gflowdial.dialogue.outcomes import enumerated_outcome, exact_log_pf
from gflowdial.dialogue.play import play
from gflowdial.dialogue.policies import UniformPolicy
from gflowdial.dialogue.values import Dialogue
from gflowdial.search import HistoryEnvironment, SearchTree, enumerate_tree

ENVIRONMENT = DialogueEnvironment.of(TASK, simulated(MOVES), MOVES)
LESSONS = scenes()
MINDS = [Mind(skill, courage) for skill, courage in product(range(5), range(3))]


@pytest.fixture(scope="module", params=LESSONS[::5], ids=lambda lesson: lesson.id)
def tree(request: pytest.FixtureRequest) -> SearchTree[DialogueState]:
    """Every lesson of one kind."""
    return enumerate_tree(ENVIRONMENT, [DialogueState.begin(request.param)])


def test_probabilities_sum_to_one(tree: SearchTree[DialogueState]) -> None:
    assert isinstance(ENVIRONMENT, StochasticDialogueEnvironment)
    forest = tree.forest
    total = torch.zeros(forest.num_nodes, dtype=torch.float64)
    total = total.index_add(0, forest.edge_parent, tree.log_chance[forest.edge_child].exp())
    torch.testing.assert_close(total[tree.chance], torch.ones_like(total[tree.chance]))
    assert bool(tree.chance.any())
    for state in tree.states[:40]:
        if not ENVIRONMENT.ended(state):
            answers = ENVIRONMENT.outcomes([state] * len(MOVES), np.arange(len(MOVES)))
            for made in answers:
                assert len(made) == 2
                assert sum(each.probability for each in made) == pytest.approx(1)
                assert all(0 < each.probability < 1 for each in made)


@pytest.mark.parametrize("mind", MINDS)
def test_what_is_understood_helps_and_what_is_not_costs_at_most_courage(mind: Mind) -> None:
    for move in MOVES.names:
        assert 0.1 <= chance(mind, move) <= 0.8
        yes, no = after(mind, move, True), after(mind, move, False)
        assert mind.skill <= yes.skill <= 4
        assert mind.courage <= yes.courage <= 2
        assert (no.skill, max(mind.courage - 1, 0) <= no.courage <= mind.courage) == (mind.skill, True)
    assert set(NEEDS) == set(BRINGS) == set(PHRASES)


def test_the_answers_show_the_mind_and_can_be_told_apart() -> None:
    said = [say(mind, understood) for mind in MINDS for understood in (True, False)]
    assert len(set(said)) == len(said)


def test_the_words_alone_replay_the_world(tree: SearchTree[DialogueState]) -> None:
    world = World(PHRASES)
    assert len(set(PHRASES.values())) == len(PHRASES)
    for node, state in enumerate(tree.states):
        if tree.chance[node] or not state.dialogue.moves:
            continue
        bare = state.dialogue.without_moves()
        assert world.moves_of(bare) == state.dialogue.moves
        assert world.mind(bare) == world.mind(state.dialogue)
        heard = Dialogue(bare.scene, bare.turns[:-1])
        (replies,) = world.replies([heard])
        (reply,) = [reply for reply in replies if reply.text == bare.turns[-1].text]
        assert reply.status == state.status
        assert reply.probability == pytest.approx(float(tree.log_chance[node].exp()))
        assert say(world.mind(bare), reply is replies[0]) == reply.text


def test_the_return_is_what_the_student_knows_at_the_end(tree: SearchTree[DialogueState]) -> None:
    leaves = [tree.states[leaf] for leaf in tree.forest.leaves.tolist()]
    known = [World(PHRASES).mind(state.dialogue).skill / 4 for state in leaves]
    assert tree.leaf_return.tolist() == known
    assert all((state.status == "mastered") == (value == 1) for state, value in zip(leaves, known, strict=True))


def test_the_exact_flow_is_an_expected_one_and_ahead_of_uniform(tree: SearchTree[DialogueState]) -> None:
    forest, log_pf = tree.forest, exact_log_pf(tree, 0.1)
    total = torch.zeros(forest.num_nodes, dtype=torch.float64).index_add(0, forest.edge_parent, log_pf.exp())
    torch.testing.assert_close(total[forest.num_children > 0], torch.ones_like(total[forest.num_children > 0]))
    by_chance = tree.chance[forest.edge_parent]
    torch.testing.assert_close(log_pf[by_chance], tree.log_chance[forest.edge_child][by_chance])
    exact = enumerated_outcome(ENVIRONMENT, tree, None, 0.1)
    uniform = enumerated_outcome(ENVIRONMENT, tree, UniformPolicy(len(MOVES)), 0.1)
    assert exact["expected_return"] > uniform["expected_return"]
    assert exact["mastered"] > uniform["mastered"]


def test_play_draws_the_answers() -> None:
    lesson = LESSONS[4]
    world = DialogueEnvironment.of(TASK, simulated(MOVES), MOVES, 1)
    episodes = 2000
    (played,) = play(world, UniformPolicy(len(MOVES)), [lesson], episodes, 0)
    mind = Mind(lesson.skill, lesson.courage)
    observed, expected = [], []
    for move in MOVES.names:
        answers = [e.dialogue.turns[-1].text.startswith("Yes!") for e in played if e.dialogue.moves == (move,)]
        observed += [sum(answers), len(answers) - sum(answers)]
        p = chance(mind, move)
        expected += [episodes / len(MOVES) * p, episodes / len(MOVES) * (1 - p)]
    assert chisquare(observed, expected).pvalue > 1e-3


def test_chance_is_no_history() -> None:
    with pytest.raises(ValueError, match="StochasticDialogueEnvironment is stochastic"):
        HistoryEnvironment(ENVIRONMENT, [DialogueState.begin(LESSONS[0])], 3)
    assert len({lesson.id for lesson in LESSONS}) == len(LESSONS) == 36
    assert isinstance(LESSONS[0], Lesson)
