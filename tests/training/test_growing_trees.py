"""The trainer on trees that grow, its validation, its log and the best weights."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from letters import BRANCH, Letters, State, acting, tokens
from random_trees import ACTIONS, encoded_tree
from torch import Tensor
from transformers import LlamaForCausalLM, set_seed

from gflowdial import losses
from gflowdial.estimators.language_model import LanguageModelPolicy
from gflowdial.search import SearchTree
from gflowdial.training.methods import Method, method
from gflowdial.training.rollouts import Rollouts, steps_of
from gflowdial.training.trainer import FlowTrainer, FlowTrainingArguments

Build = Callable[[int], LlamaForCausalLM]
ROOTS: list[State] = [(20,), (21,), (22,)]


def make(build: Build, folder: Path, chosen: Method, **settings: Any) -> tuple[FlowTrainer, Letters]:
    set_seed(0)
    world = Letters(turns=3)
    model = LanguageModelPolicy.with_lora(build(0), range(10, 10 + ACTIONS), rank=4, alpha=8)

    options = {"number": 2, "seed": 3, "replay": 4} | settings.pop("rollouts", {})
    defaults = {"num_train_epochs": 2.0, "per_device_train_batch_size": 2, "learning_rate": 1e-2}
    quiet = {"report_to": [], "disable_tqdm": True, "use_cpu": True, "seed": 0, "save_strategy": "no"}
    extra = {key: settings.pop(key) for key in ("validation", "measure") if key in settings}
    arguments = FlowTrainingArguments(**{"output_dir": str(folder), **quiet, **defaults, **settings})
    return FlowTrainer(
        model,
        arguments,
        chosen.loss,
        [SearchTree.begin([root], ACTIONS) for root in ROOTS],
        tokens=tokens,
        branch=BRANCH,
        temperature=0.1,
        untried=chosen.untried,
        rollouts=Rollouts(world, acting(model), **options),
        on_policy=chosen.on_policy,
        steps_per_rollout=chosen.steps_per_rollout,
        **extra,
    ), world


def test_rollouts_join_the_tree_of_their_scene_and_are_counted(tiny_llama: Build, tmp_path: Path) -> None:
    trainer, world = make(tiny_llama, tmp_path, method("subtrajectory_balance"), logging_steps=1.0)
    trainer.train()
    assert [each.tree.states[0] for each in trainer.trees] == ROOTS
    assert [int(each.tree.visits[0]) for each in trainer.trees] == [4, 4, 4], "two epochs of two rollouts"
    assert sum(steps_of(each.tree) for each in trainer.trees) == trainer.environment_steps == world.steps > 0
    logged = [entry["environment_steps"] for entry in trainer.state.log_history]
    assert logged == sorted(logged)
    assert logged[-1] == world.steps


def test_on_policy_steps_see_fresh_rollouts_alone(tiny_llama: Build, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    def spy(log_pf: torch.Tensor, visits: torch.Tensor, forest: Any) -> torch.Tensor:
        first = forest.depth[forest.edge_child] == 1
        seen.append((forest.num_trees, int(visits[first].sum())))
        return log_pf.sum() * 0

    trainer, world = make(tiny_llama, tmp_path, Method(spy, on_policy=True), rollouts={"number": 5})
    trainer.train()
    assert all(rollouts == 5 * trees for trees, rollouts in seen)
    assert sum(trees for trees, _ in seen) == 2 * len(ROOTS)
    assert [len(each.tree.states) for each in trainer.trees] == [1, 1, 1]
    assert trainer.environment_steps == world.steps


def test_steps_on_the_same_rollouts_know_the_policy_that_took_them(tiny_llama: Build, tmp_path: Path) -> None:
    seen = []

    def spy(log_pf: Tensor, log_behaviour: Tensor, leaf_visits: Tensor) -> Tensor:
        seen.append((log_pf.detach().double(), log_behaviour, leaf_visits))
        return log_pf.square().sum()

    chosen = Method(spy, on_policy=True, steps_per_rollout=2)
    trainer, world = make(tiny_llama, tmp_path, chosen, num_train_epochs=4.0, per_device_train_batch_size=3)
    trainer.train()
    assert trainer.environment_steps == world.steps
    assert len(seen) == 4
    for (now, behaviour, visits), (later, same, again) in zip(seen[::2], seen[1::2], strict=True):
        torch.testing.assert_close(now, behaviour.double(), atol=1e-5, rtol=0.0)
        assert float((later - behaviour).abs().max()) > 1e-3
        assert torch.equal(behaviour, same)
        assert torch.equal(visits, again)
    assert not torch.equal(seen[0][1], seen[2][1])


def test_rollouts_follow_the_present_weights(tiny_llama: Build, tmp_path: Path) -> None:
    trainer, _ = make(tiny_llama, tmp_path, method("subtrajectory_balance"))
    rollouts = trainer.rollouts
    assert rollouts is not None
    first = rollouts.fresh([each.tree for each in trainer.trees], 0)
    trainer.train()
    last = rollouts.fresh([each.tree for each in trainer.trees], 0)
    for before, after, root in zip(first, last, ROOTS, strict=True):
        # The prior that a rollout leaves at a node is the policy that acted there.
        np.testing.assert_allclose(after.log_prior[0], rollouts.policy([root])[0], rtol=1e-5)
        assert float((after.log_prior[0] - before.log_prior[0]).abs().max()) > 1e-3


@pytest.mark.parametrize("replay", [0, 3])
def test_a_step_looks_at_new_trajectories_and_at_some_old_ones(replay: int) -> None:
    world = Letters(turns=3)
    rollouts = Rollouts(world, world.log_prior, number=3, seed=1, replay=replay)
    (before,) = rollouts.grown([SearchTree.begin(ROOTS[:1], ACTIONS)], 0)
    (after,) = rollouts.grown([before], 1)
    looked_at = after.select(rollouts.drawn(before, after, 1))
    new = set(after.states[len(before.states) :])
    assert new <= set(looked_at.states)
    old_leaves = {before.states[leaf] for leaf in before.forest.leaves.tolist()}
    assert len(old_leaves & set(looked_at.states)) == min(replay, len(old_leaves))
    assert looked_at.states[0] == ROOTS[0]


def test_replay_prefers_what_earned_more() -> None:
    rollouts = Rollouts(Letters(turns=3), Letters(turns=3).log_prior, number=60, seed=1, replay=10, priority=9.0)
    (tree,) = rollouts.grown([SearchTree.begin(ROOTS[:1], ACTIONS)], 0)
    rollouts = replace(rollouts, number=0)
    draws = [tree.select(rollouts.drawn(tree, tree, step)) for step in range(200)]
    counts = np.zeros(len(tree.states))
    place = {state: node for node, state in enumerate(tree.states)}
    for drawn in draws:
        for leaf in drawn.forest.leaves.tolist():
            counts[place[drawn.states[leaf]]] += 1
    leaves = tree.forest.leaves.numpy()
    best = leaves[tree.value.numpy()[leaves] == tree.value.numpy()[leaves].max()]
    worst = leaves[tree.value.numpy()[leaves] == 0]
    assert counts[best].mean() > 2 * counts[worst].mean() > 0


def test_on_policy_without_rollouts_is_refused(tiny_llama: Build, tmp_path: Path) -> None:
    policy = LanguageModelPolicy.with_lora(tiny_llama(0), range(10, 10 + ACTIONS), rank=4, alpha=8)
    tree = encoded_tree(0, 4)
    with pytest.raises(ValueError, match="on_policy is set and there are no rollouts"):
        FlowTrainer(
            policy,
            FlowTrainingArguments(output_dir=str(tmp_path), report_to=[], use_cpu=True),
            "detailed_balance",
            [tree.tree],
            tokens=lambda _: tree.tokens,
            branch=BRANCH,
            temperature=1.0,
            on_policy=True,
        )


def test_the_log_has_terms_validation_and_measures_and_the_best_weights_are_kept(
    tiny_llama: Build, tmp_path: Path
) -> None:
    validation = SearchTree.begin([(23,)], ACTIONS)
    (validation,) = Rollouts(Letters(turns=3), Letters(turns=3).log_prior, number=8).grown([validation], 0)
    chosen = Method(losses.Sum(balance="detailed_balance", cloning="behaviour_cloning"))
    trainer, _ = make(
        tiny_llama,
        tmp_path,
        chosen,
        validation=[validation],
        measure=lambda: {"eval_expected_return": 0.25},
        num_train_epochs=6.0,
        learning_rate=1.0,
        lr_scheduler_type="constant",
        logging_steps=3.0,
        eval_strategy="steps",
        eval_steps=3.0,
        save_strategy="best",
        save_only_model=True,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
    )
    trainer.train()
    history = trainer.state.log_history
    terms = [entry for entry in history if "loss" in entry]
    assert terms
    for entry in terms:
        assert entry["loss"] == pytest.approx(entry["loss_balance"] + entry["loss_cloning"], rel=1e-3, abs=1e-3)
    evaluated = [entry for entry in history if "eval_loss" in entry]
    assert all(entry["eval_expected_return"] == 0.25 for entry in evaluated)
    best = min(entry["eval_loss"] for entry in evaluated)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(best, rel=1e-5)
    assert best < evaluated[-1]["eval_loss"], "the rate is so high that the last weights are not the best"
