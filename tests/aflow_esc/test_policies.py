"""Policies answer row by row with normalised log-probabilities, whichever kind they are of."""

from pathlib import Path

import numpy as np
import pytest

from examples.aflow_esc.scenes import bundled_scenes
from examples.aflow_esc.simulated import simulated_roles
from examples.aflow_esc.strategies import AFLOW
from examples.aflow_esc.task import TASK
from gflowdial.dialogue.environment import DialogueEnvironment, DialogueState
from gflowdial.dialogue.policies import DialoguePolicy, LearnedPolicy, PriorPolicy, SearchPolicy, UniformPolicy
from gflowdial.dialogue.runs import Run
from gflowdial.dialogue.setting import Setting
from gflowdial.dialogue.values import Dialogue
from gflowdial.estimators.language_model import LanguageModelPolicy
from gflowdial.search import SearchConfig

ENVIRONMENT = DialogueEnvironment.of(TASK, simulated_roles(), AFLOW, 2)


@pytest.fixture(scope="module")
def learned(finished: Path) -> LearnedPolicy:
    run = Run.open(finished)
    return Setting.of(run).learned(run, 0, "afpo_anchored")


@pytest.fixture(scope="module")
def dialogues() -> list[Dialogue]:
    begun = [DialogueState.begin(scene) for scene in bundled_scenes()[:3]]
    later = [made.state for made in ENVIRONMENT.step(begun, np.array([0, 1, 2]))]
    return [state.dialogue for state in (*begun, *later) if not ENVIRONMENT.ended(state)]


def policies(learned: LearnedPolicy) -> list[DialoguePolicy]:
    return [
        UniformPolicy(len(AFLOW)),
        PriorPolicy(ENVIRONMENT.roles.prior),
        learned,
        LearnedPolicy(learned.model, learned.encoder, reference=True),
        SearchPolicy(ENVIRONMENT, SearchConfig(6, 2, 1), 0),
    ]


def test_every_policy_is_normalised_and_answers_row_by_row(learned: LearnedPolicy, dialogues: list[Dialogue]) -> None:
    for policy in policies(learned):
        together = policy.log_policy(dialogues)
        assert together.shape == (len(dialogues), len(AFLOW))
        assert together.dtype == np.float64
        np.testing.assert_allclose(np.exp(together).sum(1), 1, atol=1e-12)
        alone = np.concatenate([policy.log_policy([dialogue]) for dialogue in dialogues[::-1]])[::-1]
        np.testing.assert_allclose(together, alone, atol=1e-5)


def test_the_reference_is_the_untrained_policy(
    finished: Path, learned: LearnedPolicy, dialogues: list[Dialogue]
) -> None:
    run = Run.open(finished)
    made = Setting.of(run).untrained(run)
    untrained = LearnedPolicy(made.model.eval(), made.encoder)
    reference = LearnedPolicy(learned.model, learned.encoder, reference=True)
    np.testing.assert_allclose(untrained.log_policy(dialogues), reference.log_policy(dialogues), atol=1e-5)
    assert np.abs(learned.log_policy(dialogues) - reference.log_policy(dialogues)).max() > 1e-4


def test_reading_one_dialogue_tells_the_policy(learned: LearnedPolicy, dialogues: list[Dialogue]) -> None:
    output = learned.read(dialogues[0])
    np.testing.assert_allclose(output.log_policy, learned.log_policy(dialogues[:1]), atol=1e-5)
    assert output.log_value.shape == (1, len(AFLOW))


def test_search_takes_one_move_and_searches_a_repeated_dialogue_anew(dialogues: list[Dialogue]) -> None:
    policy = SearchPolicy(ENVIRONMENT, SearchConfig(4, 2, 1), 0)
    repeated = policy.log_policy(dialogues[:1] * 20)
    assert (np.sort(repeated, axis=1)[:, :-1] == -np.inf).all()
    assert (repeated.max(axis=1) == 0).all()
    assert len(set(repeated.argmax(axis=1).tolist())) > 1
    assert (policy.log_policy(dialogues[:1] * 20) == repeated).all()


def test_a_learned_policy_stays_where_the_runs_language_model_is(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`compute.device` may be a GPU."""
    run, moves = Run.open(finished), []
    monkeypatch.setattr(LanguageModelPolicy, "to", lambda policy, device: moves.append(device) or policy)
    base = Setting.of(run).untrained(run).model.policy_head.weight.device
    Setting.of(run).learned(run, 0, "afpo_anchored")
    assert all(device is None or device == base for device in moves)


def test_a_saved_policy_is_whole(finished: Path, learned: LearnedPolicy, dialogues: list[Dialogue]) -> None:
    """Its folder alone gives the same policy, with its base, tokenizer, inventory, texts and what is known of it."""
    loaded = LearnedPolicy.from_pretrained(finished / "seed-0" / "policies" / "afpo_anchored")
    assert loaded.encoder.inventory == AFLOW
    assert loaded.encoder.texts == learned.encoder.texts
    assert loaded.encoder.max_tokens == 512
    assert loaded.facts["method"] == "afpo_anchored"
    assert loaded.facts["temperature"] == 0.1
    assert loaded.facts["safety"] == TASK.safety
    np.testing.assert_allclose(loaded.log_policy(dialogues), learned.log_policy(dialogues), atol=1e-6)
    with pytest.raises(FileNotFoundError, match=r"holds no policy on dialogues \(dialogue\.json is missing\)"):
        LearnedPolicy.from_pretrained(finished)
