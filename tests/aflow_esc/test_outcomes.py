"""Outcomes: exact ones against dynamic programming over the simulated world, sampled ones against exact ones."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from examples.aflow_esc.dialogues import Dialogue
from examples.aflow_esc.environment import SupportEnvironment
from examples.aflow_esc.outcomes import enumerated_outcome, sampled_outcome
from examples.aflow_esc.play import play
from examples.aflow_esc.policies import DialoguePolicy, PriorPolicy, UniformPolicy
from examples.aflow_esc.simulated import (
    ExactFlow,
    Tree,
    enumerate_tree,
    evaluate_policy,
    prior_policy,
    simulated_roles,
    uniform_policy,
)
from examples.aflow_esc.scenes import bundled_scenes
from examples.aflow_esc.strategies import AFLOW

TURNS, TAU = 3, 0.1
SCENES = bundled_scenes()[:2]
ROLES = simulated_roles(AFLOW, 0, TURNS)


@pytest.fixture(scope="module")
def trees() -> list[Tree]:
    return [enumerate_tree(scene, ROLES, TURNS) for scene in SCENES]


@dataclass(frozen=True)
class Flow:
    """The exact flow policy."""

    def log_policy(self, dialogues: Sequence[Dialogue]) -> NDArray[np.float64]:
        return np.stack([ExactFlow(dialogue.scene, TAU, TURNS).log_policy(dialogue) for dialogue in dialogues])


@dataclass(frozen=True)
class Always:
    """One strategy, whatever happens."""

    action: int

    def log_policy(self, dialogues: Sequence[Dialogue]) -> NDArray[np.float64]:
        log_policy = np.full((len(dialogues), len(AFLOW)), -np.inf)
        log_policy[:, self.action] = 0.0
        return log_policy


@pytest.mark.parametrize(
    ("policy", "at_nodes"),
    [(UniformPolicy(len(AFLOW)), uniform_policy), (PriorPolicy(ROLES.prior), prior_policy)],
    ids=["uniform", "prior"],
)
def test_enumeration_agrees_with_dynamic_programming(
    trees: list[Tree], policy: DialoguePolicy, at_nodes: object
) -> None:
    found = enumerated_outcome(trees, policy, TAU)
    wanted = np.mean([evaluate_policy(scene, at_nodes, TURNS) for scene in SCENES], axis=0)
    np.testing.assert_allclose(found[:4], wanted, atol=1e-10)


def test_the_exact_flow_has_no_distance_to_itself(trees: list[Tree]) -> None:
    ceiling = enumerated_outcome(trees, None, TAU)
    assert ceiling.total_variation == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(enumerated_outcome(trees, Flow(), TAU), ceiling, atol=1e-9)
    uniform = enumerated_outcome(trees, UniformPolicy(len(AFLOW)), TAU)
    assert uniform.total_variation is not None
    assert uniform.total_variation > 0.1
    assert ceiling.expected_return > uniform.expected_return


def test_entropies_lie_between_none_and_all(trees: list[Tree]) -> None:
    assert enumerated_outcome(trees, UniformPolicy(len(AFLOW)), TAU).entropy == pytest.approx(np.log(len(AFLOW)))
    assert enumerated_outcome(trees, Always(1), TAU).entropy == 0


def test_a_policy_without_choice_has_the_mass_of_one_conversation(trees: list[Tree]) -> None:
    always = Always(1)
    exact = enumerated_outcome(trees, always, TAU)
    played = sampled_outcome(play(SupportEnvironment(ROLES, AFLOW, TURNS), always, SCENES, 1, 0))
    np.testing.assert_allclose(exact[:5], played[:5], atol=1e-12)
    for tree in trees:
        log_reward = np.array([g for g, ended in zip(tree.returns, tree.ended, strict=True) if ended]) / TAU
        share = np.exp(log_reward - np.logaddexp.reduce(log_reward))
        reached = next(
            leaf
            for leaf, dialogue in enumerate(d for d, ended in zip(tree.dialogue, tree.ended, strict=True) if ended)
            if set(dialogue.strategies) == {AFLOW.names[1]}
        )
        alone = enumerated_outcome([tree], always, TAU)
        assert alone.total_variation == pytest.approx(1 - share[reached])


def test_sampled_outcomes_approach_exact_ones(trees: list[Tree]) -> None:
    episodes = 400
    played = play(SupportEnvironment(ROLES, AFLOW, TURNS), UniformPolicy(len(AFLOW)), SCENES, episodes, 0)
    found, exact = sampled_outcome(played), enumerated_outcome(trees, UniformPolicy(len(AFLOW)), TAU)
    assert found.total_variation is None
    # Returns and shares lie in [0, 1], turns in [1, 3]: a standard deviation is at most half the range.
    for name, spread in (("expected_return", 0.5), ("success", 0.5), ("left", 0.5), ("turns", 1.0)):
        bound = 4 * spread / np.sqrt(episodes * len(SCENES))
        assert getattr(found, name) == pytest.approx(getattr(exact, name), abs=bound)
