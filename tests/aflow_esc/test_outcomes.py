"""Outcomes: exact ones against dynamic programming over the simulated world, sampled ones against exact ones."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from examples.aflow_esc.scenes import bundled_scenes
from examples.aflow_esc.simulated import ExactFlow, evaluate_policy, prior_policy, simulated_roles, uniform_policy
from examples.aflow_esc.strategies import AFLOW
from examples.aflow_esc.task import TASK
from gflowdial.dialogue.environment import DialogueEnvironment, DialogueState
from gflowdial.dialogue.outcomes import Outcome, enumerated_outcome, mean_outcome, sampled_outcome
from gflowdial.dialogue.play import play
from gflowdial.dialogue.policies import DialoguePolicy, PriorPolicy, UniformPolicy
from gflowdial.dialogue.values import Dialogue
from gflowdial.search import SearchTree, enumerate_tree

Tree = SearchTree[DialogueState]
MEASURES = ("expected_return", "success", "left", "turns", "entropy", "total_variation")
TURNS, TAU = 3, 0.1
SCENES = bundled_scenes()[:2]
ROLES = simulated_roles()
ENVIRONMENT = DialogueEnvironment.of(TASK, ROLES, AFLOW, TURNS)


@pytest.fixture(scope="module")
def trees() -> list[Tree]:
    return [enumerate_tree(ENVIRONMENT, [DialogueState.begin(scene)]) for scene in SCENES]


def enumerated(trees: Sequence[Tree], policy: DialoguePolicy | None) -> Outcome:
    """The mean over scenes."""
    return mean_outcome([enumerated_outcome(ENVIRONMENT, tree, policy, TAU) for tree in trees])


def played(policy: DialoguePolicy, episodes: int) -> Outcome:
    """The mean over scenes."""
    return mean_outcome([sampled_outcome(ENVIRONMENT, each) for each in play(ENVIRONMENT, policy, SCENES, episodes, 0)])


def values(outcome: Outcome, measures: Sequence[str] = MEASURES) -> list[float | None]:
    return [outcome[name] for name in measures]


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
    found = enumerated(trees, policy)
    wanted = np.mean([evaluate_policy(scene, at_nodes, TURNS) for scene in SCENES], axis=0)
    np.testing.assert_allclose(values(found, MEASURES[:4]), wanted, atol=1e-10)
    assert tuple(found)[: len(MEASURES)] == MEASURES


def test_the_exact_flow_has_no_distance_to_itself(trees: list[Tree]) -> None:
    ceiling = enumerated(trees, None)
    assert ceiling["total_variation"] == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(values(enumerated(trees, Flow())), values(ceiling), atol=1e-9)
    uniform = enumerated(trees, UniformPolicy(len(AFLOW)))
    assert uniform["total_variation"] is not None
    assert uniform["total_variation"] > 0.1
    assert ceiling["expected_return"] > uniform["expected_return"]


def test_entropies_lie_between_none_and_all(trees: list[Tree]) -> None:
    assert enumerated(trees, UniformPolicy(len(AFLOW)))["entropy"] == pytest.approx(np.log(len(AFLOW)))
    assert enumerated(trees, Always(1))["entropy"] == 0


def test_a_policy_without_choice_has_the_mass_of_one_conversation(trees: list[Tree]) -> None:
    always = Always(1)
    np.testing.assert_allclose(
        values(enumerated(trees, always), MEASURES[:5]), values(played(always, 1), MEASURES[:5]), atol=1e-12
    )
    for tree in trees:
        log_reward = tree.leaf_return.numpy() / TAU
        share = np.exp(log_reward - np.logaddexp.reduce(log_reward))
        reached = next(
            leaf
            for leaf, node in enumerate(tree.forest.leaves.tolist())
            if set(tree.states[node].dialogue.moves) == {AFLOW.names[1]}
        )
        assert enumerated([tree], always)["total_variation"] == pytest.approx(1 - share[reached])


def test_sampled_outcomes_approach_exact_ones(trees: list[Tree]) -> None:
    episodes = 400
    uniform = UniformPolicy(len(AFLOW))
    found, exact = played(uniform, episodes), enumerated(trees, uniform)
    assert found["total_variation"] is None
    # Returns and shares lie in [0, 1], turns in [1, 3]: a standard deviation is at most half the range.
    for name, spread in (("expected_return", 0.5), ("success", 0.5), ("left", 0.5), ("turns", 1.0)):
        bound = 4 * spread / np.sqrt(episodes * len(SCENES))
        assert found[name] == pytest.approx(exact[name], abs=bound)
