"""The simulated world: deterministic, readable from the words alone, and exactly solvable."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.aflow_esc.scenes import bundled_scenes
from examples.aflow_esc.simulated import (
    ExactFlow,
    all_phrases,
    best_return,
    evaluate_policy,
    path_of,
    prior_policy,
    simulated_roles,
    uniform_policy,
    wording,
)
from examples.aflow_esc.strategies import AFLOW, ESCONV
from examples.aflow_esc.task import TASK
from gflowdial.dialogue.environment import DialogueEnvironment, DialogueState
from gflowdial.dialogue.roles import Roles
from gflowdial.dialogue.values import Dialogue, Scene, Turn
from gflowdial.search import SearchTree, enumerate_tree

SCENES = bundled_scenes()
scenes = st.sampled_from(SCENES)
paths = st.lists(st.integers(0, 7), min_size=1, max_size=4)


def tree_of(scene: Scene, horizon: int, roles: Roles | None = None) -> SearchTree[DialogueState]:
    """Every conversation of a scene."""
    environment = DialogueEnvironment.of(TASK, roles or simulated_roles(), AFLOW, horizon)
    return enumerate_tree(environment, [DialogueState.begin(scene)])


def play(roles: Roles, scene, path) -> Dialogue:
    """The dialogue along ``path``, as far as the seeker stays."""
    dialogue = Dialogue.begin(scene)
    for action in path:
        words = roles.agent.reply([dialogue], [AFLOW.names[action]])[0]
        dialogue = dialogue.then(Turn("agent", words, AFLOW.names[action]))
        answer = roles.partner.respond([dialogue.without_moves()])[0]
        dialogue = dialogue.then(Turn("partner", answer.text))
        if answer.status != "continues":
            break
    return dialogue


@given(scenes, paths, st.integers(0, 3), st.sampled_from(["deterministic", "stochastic"]))
@settings(deadline=None)
def test_the_words_alone_carry_the_strategy_and_replay_the_dialogue(scene, path, seed, mode) -> None:
    dialogue = play(simulated_roles(world_seed=seed, mode=mode), scene, path)
    assert play(simulated_roles(world_seed=seed, mode=mode), scene, path) == dialogue
    assert [AFLOW.names[a] for a in path_of(dialogue.without_moves())] == list(dialogue.moves)


@given(st.lists(st.tuples(scenes, paths), min_size=2, max_size=5))
@settings(deadline=None)
def test_a_row_does_not_depend_on_its_batch(rows) -> None:
    roles = simulated_roles()
    dialogues = [play(roles, scene, path) for scene, path in rows]
    fresh = simulated_roles()
    assert np.array_equal(fresh.judge.score(dialogues), np.vstack([roles.judge.score([d]) for d in dialogues]))
    assert np.array_equal(fresh.prior.log_prior(dialogues), np.vstack([roles.prior.log_prior([d]) for d in dialogues]))


@given(scenes, paths, st.sampled_from(["deterministic", "stochastic"]))
@settings(deadline=None)
def test_scores_are_integers_and_the_prior_is_normalised(scene, path, mode) -> None:
    roles = simulated_roles(mode=mode)
    dialogue = play(roles, scene, path)
    scores = roles.judge.score([dialogue])
    assert scores.shape == (1, 4)
    assert set(scores.ravel()) <= {1, 2, 3, 4, 5}
    assert np.exp(roles.prior.log_prior([dialogue])).sum() == pytest.approx(1, abs=1e-12)


def test_every_phrase_is_one_strategy_s_own_and_short() -> None:
    assert set(wording.SUPPORTER) == set(AFLOW.names)
    assert len(set(all_phrases())) == len(all_phrases())
    assert all(6 <= len(phrase.split()) <= 12 for phrase in wording.STRATEGY_OF)


@pytest.mark.parametrize("scene", SCENES[::12], ids=lambda scene: scene.id)
@pytest.mark.parametrize("tau", [0.05, 0.2])
def test_dynamic_programming_equals_enumeration(scene, tau: float) -> None:
    tree = tree_of(scene, 3)
    forest, leaves = tree.forest, tree.forest.leaves
    flow = ExactFlow(scene, tau, horizon=3)
    parent, log_flow = forest.parent.tolist(), np.full(forest.num_nodes, -np.inf)
    log_flow[leaves] = tree.leaf_return / tau
    for node in reversed(range(1, forest.num_nodes)):
        log_flow[parent[node]] = np.logaddexp(log_flow[parent[node]], log_flow[node])
    assert flow.log_z == pytest.approx(log_flow[0], abs=1e-12, rel=1e-12)
    children: list[list[int]] = [[] for _ in parent]
    for node, above in enumerate(parent[1:], 1):
        children[above].append(node)
    for node in [n for n, below in enumerate(children) if below][:40]:
        expected = log_flow[children[node]] - log_flow[node]
        assert np.allclose(flow.log_policy(tree.states[node].dialogue), expected, atol=1e-12, rtol=0)

    returns, ends = tree.leaf_return.numpy(), [tree.states[leaf] for leaf in leaves.tolist()]
    turns = np.array([len(end.dialogue.moves) for end in ends])
    status = np.array([end.status for end in ends])
    assert best_return(scene, 3) == pytest.approx(returns.max(), abs=1e-12)
    for policy, weight in ((uniform_policy, 8.0**-turns), (flow.policy, np.exp(returns / tau - log_flow[0]))):
        enumerated = [weight @ returns, weight @ (status == "helped"), weight @ (status == "left"), weight @ turns]
        assert np.allclose(evaluate_policy(scene, policy, 3), enumerated, atol=1e-12)


def test_the_tree_is_in_order_and_its_leaves_are_ends() -> None:
    tree = tree_of(SCENES[0], 2)
    parent, ended = tree.forest.parent.tolist(), tree.ended.tolist()
    assert parent[0] == tree.action[0] == -1
    assert all(above < node for node, above in enumerate(parent))
    assert {node for node, over in enumerate(ended) if not over} == set(parent) - {-1}
    assert tree.ended.nonzero().squeeze(1).tolist() == tree.forest.leaves.tolist()
    assert bool(tree.leaf_return.isfinite().all())


def test_the_problem_is_the_one_described() -> None:
    uniform = np.array([evaluate_policy(scene, uniform_policy) for scene in SCENES]).mean(axis=0)
    prior = np.array([evaluate_policy(scene, prior_policy) for scene in SCENES]).mean(axis=0)
    best = np.array([best_return(scene) for scene in SCENES])
    assert 0.15 <= uniform[1] <= 0.30
    assert 0.15 <= uniform[2] <= 0.31
    assert best.min() > 0.7 > 0.45 > max(uniform[0], prior[0])


def test_the_best_first_strategy_depends_on_the_scene() -> None:
    first = {int(ExactFlow(scene, 0.02).log_policy(Dialogue.begin(scene)).argmax()) for scene in SCENES}
    assert len(first) >= 4


def test_the_stochastic_mode_draws_anew_and_replays() -> None:
    returns = [
        tree_of(SCENES[0], 2, simulated_roles(mode="stochastic", draw=draw)).leaf_return.numpy() for draw in (0, 1, 0)
    ]
    assert np.array_equal(returns[0], returns[2])
    assert not np.array_equal(returns[0], returns[1])


def test_an_unlisted_emotion_and_problem_still_play() -> None:
    scene = replace(SCENES[0], id="other", emotion="wonder", problem="a parking ticket")
    assert 0 < best_return(scene) <= 1


def test_misuse_is_named() -> None:
    with pytest.raises(ValueError, match="'aflow' only, not 'esconv'"):
        simulated_roles(ESCONV)
    with pytest.raises(ValueError, match="unknown mode 'wild'"):
        simulated_roles(mode="wild")
    with pytest.raises(ValueError, match="at least 1"):
        tree_of(SCENES[0], 0)
    with pytest.raises(ValueError, match="above 0"):
        ExactFlow(SCENES[0], 0.0)
    with pytest.raises(ValueError, match=r"do not understand.*'Cheer up'"):
        path_of(Dialogue.begin(SCENES[0]).then(Turn("agent", "Cheer up")))
    with pytest.raises(ValueError, match="nothing to score"):
        simulated_roles().judge.score([Dialogue.begin(SCENES[0])])
