"""Moves whose names share their first tokens, or begin one another: they are read, trained and played as any others."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from learners import loss_of, trainer, untrained
from small_world import MASKED, TASK, begun, environment, hashed, scenes
from tiny_model import tiny_model

from gflowdial.dialogue import Inventory, Move, Task
from gflowdial.dialogue.environment import DialogueEnvironment
from gflowdial.dialogue.play import play
from gflowdial.dialogue.policies import LearnedPolicy
from gflowdial.search import SearchConfig, search
from gflowdial.training.methods import method

SHARED = Inventory("shared", tuple(map(Move, ("Ask about work", "Ask about home", "Ask more", "Tell", "Tell more"))))
SHARED_TASK = replace(TASK, inventories=(SHARED,))


def world(task: Task = SHARED_TASK) -> DialogueEnvironment:
    return environment(task, hashed(SHARED))


@pytest.fixture(scope="module")
def policy() -> LearnedPolicy:
    return untrained(SHARED)


def test_their_tokens_share_beginnings_and_none_begins_another(policy: LearnedPolicy) -> None:
    names = policy.encoder.names
    assert len({name[0] for name in names}) < len(names)
    assert not any(a != b and b[: len(a)] == a for a in names for b in names)
    assert policy.model.continuations
    words = [policy.encoder.tokenizer.decode(name) for name in names]
    # "Tell" begins "Tell more": each ends with what follows a name.
    assert all(word.startswith(f" {name}") for word, name in zip(words, SHARED.names, strict=True))
    assert len({name[-1] for name in names}) == 1


def test_it_is_read_equally_packed_and_alone(policy: LearnedPolicy) -> None:
    found = search(world(), begun(3), range(3), SearchConfig(simulations=8, max_depth=3, rollout_length=1))
    dialogues = [state.dialogue for state in found.states]
    together = policy.log_policy(dialogues)
    alone = np.concatenate([policy.log_policy([dialogue]) for dialogue in dialogues])
    np.testing.assert_allclose(together, alone, atol=1e-4)
    np.testing.assert_allclose(np.exp(together).sum(1), 1, atol=1e-12)
    assert np.abs(together - together[0]).max() > 1e-2


@torch.no_grad()
def test_untrained_it_is_the_language_model_s_own_probability_of_the_names(policy: LearnedPolicy) -> None:
    """The name's tokens one after the other, each among those that names have there."""
    dialogue, names = begun()[0].dialogue, policy.encoder.names
    prefix = policy.encoder.transcript(dialogue) + policy.encoder.branch
    expected = np.zeros(len(names))
    # Another copy: the policy's own reads packed prefixes alone.
    model = tiny_model()[0].eval()
    for action, name in enumerate(names):
        for end, token in enumerate(name):
            options = sorted({other[end] for other in names if other[:end] == name[:end]})
            logits = model(torch.tensor([prefix + name[:end]])).logits[0, -1].double()
            expected[action] += float(logits[token] - logits[options].logsumexp(0))
    np.testing.assert_allclose(policy.log_policy([dialogue])[0], expected, atol=1e-4)


@pytest.mark.parametrize("task", [SHARED_TASK, replace(MASKED, inventories=(SHARED,))])
def test_a_task_with_such_names_trains_and_plays(task: Task, tmp_path: Path) -> None:
    policy, here = untrained(SHARED), world(task)
    found = search(here, begun(3), range(3), SearchConfig(simulations=12, max_depth=3, rollout_length=1)).split()
    made = trainer(policy, found, method("subtrajectory_balance"), tmp_path, max_steps=20, head_learning_rate=0.05)
    before, log_policy = loss_of(made), policy.log_policy([begun()[0].dialogue])
    made.train()
    policy.model.eval()
    assert loss_of(made) < 0.5 * before
    assert np.abs(policy.log_policy([begun()[0].dialogue]) - log_policy).max() > 1e-3
    played = [episode for episodes in play(here, policy, scenes(), 3, 0) for episode in episodes]
    assert len({move for episode in played for move in episode.dialogue.moves}) > 2
    policy.save_pretrained(tmp_path / "saved", {"task": "shared", "method": "subtrajectory_balance"}, with_base=True)
    loaded = LearnedPolicy.from_pretrained(tmp_path / "saved")
    dialogues = [state.dialogue for state in begun(3)]
    np.testing.assert_allclose(loaded.log_policy(dialogues), policy.log_policy(dialogues), atol=1e-5)
    assert loaded.encoder.inventory == SHARED
