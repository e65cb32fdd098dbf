"""The simulated world: deterministic, readable from the words alone, and exactly solvable."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.aflow_esc.dialogues import Dialogue, Turn
from examples.aflow_esc.roles.protocols import Roles
from examples.aflow_esc.simulated import (
    ExactFlow,
    all_phrases,
    best_return,
    enumerate_tree,
    evaluate_policy,
    path_of,
    prior_policy,
    simulated_roles,
    uniform_policy,
    wording,
)
from examples.aflow_esc.scenes import bundled_scenes
from examples.aflow_esc.strategies import AFLOW, ESCONV

SCENES = bundled_scenes()
scenes = st.sampled_from(SCENES)
paths = st.lists(st.integers(0, 7), min_size=1, max_size=4)


def play(roles: Roles, scene, path) -> Dialogue:
    """The dialogue along ``path``, as far as the seeker stays."""
    dialogue = Dialogue.begin(scene)
    for action in path:
        words = roles.supporter.reply([dialogue], [AFLOW.names[action]])[0]
        dialogue = dialogue.then(Turn("supporter", words, AFLOW.names[action]))
        answer = roles.seeker.respond([dialogue.without_strategies()])[0]
        dialogue = dialogue.then(Turn("seeker", answer.text))
        if answer.status != "continues":
            break
    return dialogue


@given(scenes, paths, st.integers(0, 3), st.sampled_from(["deterministic", "stochastic"]))
@settings(deadline=None)
def test_the_words_alone_carry_the_strategy_and_replay_the_dialogue(scene, path, seed, mode) -> None:
    dialogue = play(simulated_roles(seed=seed, mode=mode), scene, path)
    assert play(simulated_roles(seed=seed, mode=mode), scene, path) == dialogue
    assert [AFLOW.names[a] for a in path_of(dialogue.without_strategies())] == list(dialogue.strategies)


@given(st.lists(st.tuples(scenes, paths), min_size=2, max_size=5))
@settings(deadline=None)
def test_a_row_does_not_depend_on_its_batch(rows) -> None:
    roles = simulated_roles()
    dialogues = [play(roles, scene, path) for scene, path in rows]
    fresh = simulated_roles()
    assert np.array_equal(fresh.rewarder.score(dialogues), np.vstack([roles.rewarder.score([d]) for d in dialogues]))
    assert np.array_equal(fresh.prior.log_prior(dialogues), np.vstack([roles.prior.log_prior([d]) for d in dialogues]))


@given(scenes, paths, st.sampled_from(["deterministic", "stochastic"]))
@settings(deadline=None)
def test_scores_are_integers_and_the_prior_is_normalised(scene, path, mode) -> None:
    roles = simulated_roles(mode=mode)
    dialogue = play(roles, scene, path)
    scores = roles.rewarder.score([dialogue])
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
    tree = enumerate_tree(scene, simulated_roles(), horizon=3)
    flow = ExactFlow(scene, tau, horizon=3)
    log_flow = np.full(len(tree.parent), -np.inf)
    for node in reversed(range(len(tree.parent))):
        if tree.ended[node]:
            log_flow[node] = tree.returns[node] / tau
        if node:
            log_flow[tree.parent[node]] = np.logaddexp(log_flow[tree.parent[node]], log_flow[node])
    assert flow.log_z == pytest.approx(log_flow[0], abs=1e-12, rel=1e-12)
    children = [[] for _ in tree.parent]
    for node, parent in enumerate(tree.parent[1:], 1):
        children[parent].append(node)
    for node in [n for n, below in enumerate(children) if below][:40]:
        expected = log_flow[children[node]] - log_flow[node]
        assert np.allclose(flow.log_policy(tree.dialogue[node]), expected, atol=1e-12, rtol=0)

    leaves = np.flatnonzero(tree.ended)
    returns = np.array(tree.returns)[leaves]
    turns = np.array([len(tree.dialogue[leaf].strategies) for leaf in leaves])
    status = np.array(tree.status)[leaves]
    assert best_return(scene, 3) == pytest.approx(returns.max(), abs=1e-12)
    for policy, weight in ((uniform_policy, 8.0**-turns), (flow.policy, np.exp(returns / tau - log_flow[0]))):
        enumerated = [weight @ returns, weight @ (status == "helped"), weight @ (status == "left"), weight @ turns]
        assert np.allclose(evaluate_policy(scene, policy, 3), enumerated, atol=1e-12)


def test_the_tree_is_in_order_and_its_leaves_are_ends() -> None:
    tree = enumerate_tree(SCENES[0], simulated_roles(horizon=2))
    assert tree.parent[0] == tree.action[0] == -1
    assert all(parent < node for node, parent in enumerate(tree.parent))
    assert {node for node, ended in enumerate(tree.ended) if not ended} == set(tree.parent) - {-1}
    assert all(np.isnan(g) != ended for g, ended in zip(tree.returns, tree.ended, strict=True))


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
        enumerate_tree(SCENES[0], simulated_roles(mode="stochastic", draw=d, horizon=2)).returns for d in (0, 1, 0)
    ]
    assert np.array_equal(returns[0], returns[2], equal_nan=True)
    assert len(returns[0]) != len(returns[1]) or not np.array_equal(returns[0], returns[1], equal_nan=True)


def test_an_unlisted_emotion_and_problem_still_play() -> None:
    scene = replace(SCENES[0], id="other", emotion="wonder", problem="a parking ticket")
    assert 0 < best_return(scene) <= 1


def test_misuse_is_named() -> None:
    with pytest.raises(ValueError, match="'aflow' only, not 'esconv'"):
        simulated_roles(ESCONV)
    with pytest.raises(ValueError, match="unknown mode 'wild'"):
        simulated_roles(mode="wild")
    with pytest.raises(ValueError, match="at least 1"):
        simulated_roles(horizon=0)
    with pytest.raises(ValueError, match="above 0"):
        ExactFlow(SCENES[0], 0.0)
    with pytest.raises(ValueError, match=r"do not understand.*'Cheer up'"):
        path_of(Dialogue.begin(SCENES[0]).then(Turn("supporter", "Cheer up")))
    with pytest.raises(ValueError, match="nothing to score"):
        simulated_roles().rewarder.score([Dialogue.begin(SCENES[0])])
