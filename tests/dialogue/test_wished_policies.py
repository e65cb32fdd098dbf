"""Training at wishes, and policies read at one: in one pass, with loss 0 at each exact flow, saved, and in a chat."""

import argparse
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from learners import trainer, untrained
from small_world import begun, environment, every, scenes
from test_wishes import RANGE, WEIGHTED

from gflowdial import oracle
from gflowdial.dialogue import Dialogue
from gflowdial.dialogue.cli import at_wish
from gflowdial.dialogue.config import ConfigError, RunConfig
from gflowdial.dialogue.environment import DialogueState
from gflowdial.dialogue.policies import LearnedPolicy
from gflowdial.dialogue.setting import Setting
from gflowdial.dialogue.wishes import Wish, drawn_conditions, reweighted
from gflowdial.estimators.language_model import LanguageModelPolicy, PolicyOutput
from gflowdial.losses import loss_on
from gflowdial.search import SearchConfig, SearchTree, search
from gflowdial.training.conditions import policy_inputs, readings
from gflowdial.training.methods import method
from gflowdial.training.readings import read_trees
from gflowdial.training.trees import EncodedTree, TreeBatch, TreeCollator

CONSISTENT = ("subtrajectory_balance", "detailed_balance", "trajectory_balance")
INVENTORY = WEIGHTED.inventory()


@pytest.fixture(scope="module")
def wished() -> LearnedPolicy:
    """A policy whose heads are not what they were, at the middle of the range."""
    plain = untrained(INVENTORY)
    torch.manual_seed(0)
    causal = plain.model.language_model.unload()
    model = LanguageModelPolicy(causal, plain.encoder.names, conditions=RANGE.conditions).eval()
    for name, parameter in model.named_parameters():
        if not name.startswith("language_model."):
            parameter.data += 0.1 * torch.randn_like(parameter)
    return replace(plain, model=model, wishes=RANGE, wish=Wish(0.1))


def encoded(policy: LearnedPolicy, seeds: int = 2) -> list[EncodedTree]:
    config = SearchConfig(simulations=12, max_depth=3, rollout_length=2, keep_rollouts=True)
    found = search(environment(WEIGHTED), begun(seeds), range(seeds), config)
    return [EncodedTree(tree, policy.encoder.tree_tokens(tree)) for tree in found.split()]


def batch_of(policy: LearnedPolicy, trees: list[EncodedTree], count: int, seed: int = 0) -> TreeBatch:
    draw = partial(drawn_conditions(WEIGHTED, RANGE, count), torch.Generator().manual_seed(seed))
    return TreeCollator(policy.encoder.branch, 0.1, conditions=draw).collate(trees)


@settings(max_examples=15)
@given(seed=st.integers(0, 999), count=st.integers(1, 3))
@torch.no_grad()
def test_the_loss_of_one_pass_is_that_of_trees_made_for_each_wish(wished: LearnedPolicy, seed: int, count: int) -> None:
    trees = encoded(wished)
    batch = batch_of(wished, trees, count, seed)
    output = wished.model(*policy_inputs(batch))
    generator = torch.Generator().manual_seed(seed)
    for weight, reading in readings(output, batch):
        wish = RANGE.draw(generator)
        assert weight == pytest.approx(wish.temperature / 0.1)
        own = [EncodedTree(reweighted(WEIGHTED, each.tree)(wish.weights), each.tokens) for each in trees]
        alone = TreeCollator(wished.encoder.branch, wish.temperature).collate(own)
        rows = RANGE.vector(wish).expand(len(alone.packed.node), -1)
        expected = read_trees(wished.model(alone.packed, rows), alone)
        for loss in (*CONSISTENT, "forward_looking_detailed_balance"):
            torch.testing.assert_close(loss_on(loss, reading), loss_on(loss, expected), rtol=1e-4, atol=1e-4)


def exact_output(batch: TreeBatch, part: SearchTree[DialogueState], seed: int) -> PolicyOutput:
    """Policy and values of the exact flow of each wish, as the batch reads them."""
    whole = every(environment(WEIGHTED, turns=2), 1)
    forest, generator = whole.forest, torch.Generator().manual_seed(seed)
    node_of = {state.dialogue: node for node, state in enumerate(whole.states)}
    nodes = torch.tensor([node_of[part.states[node].dialogue] for node in batch.packed.node.tolist()])
    outputs = []
    for _ in batch.targets:
        wish = RANGE.draw(generator)
        under = reweighted(WEIGHTED, whole)(wish.weights)
        log_flow, log_pf = oracle.exact_flows(forest, under.leaf_return / wish.temperature)
        policy, value = torch.full((2, len(whole.states), len(INVENTORY)), -60.0).double()
        policy[forest.edge_parent, whole.action[forest.edge_child]] = log_pf
        value[forest.edge_parent, whole.action[forest.edge_child]] = log_flow[forest.edge_child]
        outputs.append((policy[nodes], value[nodes], log_flow[nodes]))
    return PolicyOutput(*(torch.cat(field).float() for field in zip(*outputs, strict=True)))


@settings(max_examples=25)
@given(seed=st.integers(0, 999))
def test_at_the_exact_flow_of_each_wish_the_loss_is_zero(wished: LearnedPolicy, seed: int) -> None:
    whole = every(environment(WEIGHTED, turns=2), 1)
    # Untried moves and frontiers are free: a part of the tree has loss 0 too.
    kept = torch.rand(len(whole.states), generator=torch.Generator().manual_seed(seed)) < 0.7
    part = whole.select(kept | (whole.forest.parent < 0))
    batch = batch_of(wished, [EncodedTree(part, wished.encoder.tree_tokens(part))], 3, seed)
    for _, reading in readings(exact_output(batch, part, seed), batch):
        for loss in CONSISTENT:
            assert float(loss_on(loss, reading)) < 1e-8


def test_the_exact_flow_of_another_wish_has_a_loss(wished: LearnedPolicy) -> None:
    whole = every(environment(WEIGHTED, turns=2), 1)
    batch = batch_of(wished, [EncodedTree(whole, wished.encoder.tree_tokens(whole))], 3)
    output = exact_output(batch, whole, 0)
    turned = PolicyOutput(*(field.roll(len(batch.packed.node), 0) for field in vars(output).values()))
    for _, reading in readings(turned, batch):
        assert min(float(loss_on(loss, reading)) for loss in CONSISTENT) > 0.01


def test_a_step_of_training_moves_what_reads_the_wish(wished: LearnedPolicy, tmp_path: Path) -> None:
    model = LanguageModelPolicy(wished.model.language_model, wished.encoder.names, conditions=RANGE.conditions)
    learner = replace(wished, model=model)
    trees = [each.tree for each in encoded(wished)]
    draw = drawn_conditions(WEIGHTED, RANGE, 2)
    made = trainer(
        learner, trees, method("subtrajectory_balance"), tmp_path, conditions=draw, validation=trees, max_steps=2
    )
    made.train()
    assert made.evaluate() == made.evaluate()
    assert model.conditioned is not None
    assert all(bool(parameter.any()) for parameter in model.conditioned.parameters())


def test_untried_moves_have_no_floor_at_conditions() -> None:
    with pytest.raises(ValueError, match="untried is 'floor', which a policy that depends on a condition has not"):
        TreeCollator([1], 0.1, untried="floor", conditions=lambda: [])


def test_a_policy_is_read_at_its_wish(wished: LearnedPolicy) -> None:
    dialogues = [Dialogue.begin(scene) for scene in scenes()[:3]]
    cold, hot = wished.at(Wish(0.02, (1.0, 0.0))), wished.at(Wish(0.5))
    assert not np.allclose(cold.log_policy(dialogues), hot.log_policy(dialogues))
    assert np.allclose(wished.at(Wish(0.02, (7.0, 0.0))).log_policy(dialogues), cold.log_policy(dialogues))
    read = cold.read(dialogues[1]).log_policy.double().log_softmax(-1)
    assert read[0].tolist() == pytest.approx(cold.log_policy(dialogues)[1].tolist(), abs=1e-5)
    with pytest.raises(ValueError, match=r"temperature 1 is outside of .*: choose one from 0.02 to 0.5"):
        wished.at(Wish(1.0))
    with pytest.raises(ValueError, match="trained for one target alone: train it with the section `wishes`"):
        untrained(INVENTORY).at(Wish(0.1))


def test_a_saved_policy_keeps_its_wishes(wished: LearnedPolicy, tmp_path: Path) -> None:
    wished.save_pretrained(tmp_path, {"temperature": 0.1}, with_base=False)
    loaded = LearnedPolicy.from_pretrained(tmp_path)
    assert (loaded.wishes, loaded.wish) == (RANGE, Wish(0.1))
    dialogues = [Dialogue.begin(scenes()[0])]
    for wish in (Wish(0.1), Wish(0.03, (1.0, 5.0))):
        assert np.array_equal(loaded.at(wish).log_policy(dialogues), wished.at(wish).log_policy(dialogues))


def test_the_command_line_wishes(wished: LearnedPolicy) -> None:
    plain = untrained(INVENTORY)
    assert at_wish(plain, argparse.Namespace(temperature=None, weights=None)) is plain
    for asked, wish in (
        ((0.2, None), Wish(0.2)),
        ((None, "warmth=2"), Wish(0.1, (0.0, 2.0))),
        ((0.3, "sense=1,warmth=1"), Wish(0.3, (1.0, 1.0))),
        ((None, None), Wish(0.1)),
    ):
        assert at_wish(wished, argparse.Namespace(temperature=asked[0], weights=asked[1])).wish == wish
    for policy, asked, message in (
        (plain, (0.1, None), "the policy was trained for one target alone"),
        (wished, (0.9, None), "choose one from 0.02 to 0.5"),
        (wished, (None, "wit=1"), "there is no criterion 'wit': name sense, warmth"),
        (wished, (None, "sense=-1"), "give numbers from 0"),
    ):
        with pytest.raises(ConfigError, match=re.escape(message)):
            at_wish(policy, argparse.Namespace(temperature=asked[0], weights=asked[1]))


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"wishes": {"temperatures": [0.2, 0.5]}}, "temperature 0.1 is outside"),
        ({"wishes": {"temperatures": [0.5, 0.2]}}, "give a range above 0"),
        ({"wishes": {"temperatures": [0.05, 0.2], "weights": True}}, "has a turn_reward and no weights"),
        ({"training": {"methods": ["afpo_anchored"], "untried": "floor"}}, "choose free"),
        ({"experiment": "labels"}, "recorded dialogues have no returns to wish for"),
    ],
)
def test_wishes_that_do_not_fit_a_run_are_refused(sections: dict[str, Any], message: str) -> None:
    whole: dict[str, Any] = {
        "task": "small_world:TASK",
        "experiment": "conversation",
        "seeds": [0],
        "model": {"kind": "tiny"},
        "training": {"methods": ["subtrajectory_balance"]},
        "wishes": {"temperatures": [0.05, 0.2]},
    }
    assert Setting(RunConfig.model_validate(whole)).wishes is not None
    with pytest.raises(ConfigError, match=re.escape(message)):
        _ = Setting(RunConfig.model_validate({**whole, **sections})).wishes
