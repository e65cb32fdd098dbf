"""The trainer: it learns, its heads have a rate of their own, and a resumed training ends as an undisturbed one."""

from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from random_trees import ACTIONS, encoded_tree
from transformers import LlamaForCausalLM, set_seed

from gflowdial import losses
from gflowdial.estimators.language_model import LanguageModelPolicy
from gflowdial.search.tree import SearchTree
from gflowdial.training.methods import Method, method
from gflowdial.training.trainer import FlowTrainer, FlowTrainingArguments

Build = Callable[[int], LlamaForCausalLM]
TREES = [encoded_tree(seed, 5 + seed) for seed in range(6)]
TOKENS = {id(each.tree): each.tokens for each in TREES}
METHODS = {
    "afpo_paper_state": method("afpo_paper_state", kl_weight=0.5),
    "behaviour_cloning": Method(
        losses.Sum(cloning="behaviour_cloning", kl=partial(losses.reference_kl, weight=0.5)), "free"
    ),
    "trajectory_balance": method("trajectory_balance", untried="floor"),
    "subtrajectory_balance": method("subtrajectory_balance"),
}
ANCHORED = method("afpo_anchored")


def trainer(build: Build, folder: Path, chosen: Method = ANCHORED, **settings: Any) -> FlowTrainer:
    set_seed(0)
    policy = LanguageModelPolicy.with_lora(build(0), range(10, 10 + ACTIONS), rank=4, alpha=8)
    defaults = {
        "output_dir": str(folder),
        "num_train_epochs": 4.0,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-2,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 0,
    }
    arguments = FlowTrainingArguments(**{**defaults, **settings})
    return FlowTrainer(
        policy,
        arguments,
        chosen.loss,
        [each.tree for each in TREES],
        tokens=lambda tree: TOKENS[id(tree)],
        branch=[5, 9],
        temperature=0.25,
        untried=chosen.untried,
        read_leaves=chosen.read_leaves,
    )


def loss(trainer: FlowTrainer) -> float:
    trainer.read_reference()
    with torch.no_grad():
        return float(trainer.compute_loss(trainer.model, trainer.data_collator(trainer.trees)))


@pytest.mark.parametrize("kl_weight", [0.0, 0.1])
def test_training_lowers_the_loss(tiny_llama: Build, tmp_path: Path, kl_weight: float) -> None:
    kl = partial(losses.reference_kl, weight=kl_weight)
    chosen = Method(losses.Sum(afpo=ANCHORED.loss, kl=kl), "masked") if kl_weight else ANCHORED
    tiny = trainer(tiny_llama, tmp_path, chosen, num_train_epochs=20.0)
    before = loss(tiny)
    tiny.train()
    assert loss(tiny) < 0.2 * before


def test_a_resumed_training_ends_with_the_same_weights(tiny_llama: Build, tmp_path: Path) -> None:
    # Six examples in batches of two: three steps an epoch, so step 5 stands inside one.
    settings = {"save_strategy": "steps", "save_steps": 5.0}
    whole = trainer(tiny_llama, tmp_path / "whole", **settings)
    whole.train()
    checkpoint = tmp_path / "whole" / "checkpoint-5"
    assert {file.suffix for file in checkpoint.glob("*.safetensors")} == {".safetensors"}
    resumed = trainer(tiny_llama, tmp_path / "resumed", **settings)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert resumed.state.global_step == whole.state.global_step == 12
    untrained = trainer(tiny_llama, tmp_path / "untrained").model.state_dict()
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name
    assert not torch.equal(untrained["value_head.weight"], whole.model.state_dict()["value_head.weight"])


@pytest.mark.parametrize(("given", "wanted"), [(None, 1e-2), (0.3, 0.3), (0.0, 0.0)])
def test_the_heads_have_a_learning_rate_of_their_own(
    tiny_llama: Build, tmp_path: Path, given: float | None, wanted: float
) -> None:
    tiny = trainer(tiny_llama, tmp_path, head_learning_rate=given, weight_decay=0.01)
    adapter, heads = tiny.create_optimizer().param_groups
    assert adapter["lr"] == 1e-2
    assert heads["lr"] == wanted
    assert adapter["weight_decay"] == 0.01
    assert heads["weight_decay"] == 0
    names = {id(parameter): name for name, parameter in tiny.model.named_parameters()}
    assert all("lora_" in names[id(parameter)] for parameter in adapter["params"])
    in_heads = {names[id(parameter)] for parameter in heads["params"]}
    assert in_heads == {"policy_head.weight", "policy_head.bias", "value_head.weight", "value_head.bias"}
    trained = sum(parameter.requires_grad for parameter in tiny.model.parameters())
    assert trained == len(adapter["params"]) + len(heads["params"])


def test_weights_trained_in_full_are_none_of_the_heads(tiny_llama: Build, tmp_path: Path) -> None:
    tiny = trainer(tiny_llama, tmp_path, head_learning_rate=0.3, weight_decay=0.01)
    tiny.model = LanguageModelPolicy(tiny_llama(0), range(10, 10 + ACTIONS), reference="initial")
    whole, heads = tiny.create_optimizer().param_groups
    assert (whole["lr"], heads["lr"]) == (1e-2, 0.3)
    assert {id(p) for p in whole["params"]} == {id(p) for p in tiny.model.language_model.parameters()}
    assert len(heads["params"]) == 4


def first_gradient_norm(trainer: FlowTrainer) -> float:
    trainer.args.max_grad_norm = 1e9
    trainer.args.logging_steps = 1
    trainer.train()
    return next(row["grad_norm"] for row in trainer.state.log_history if "grad_norm" in row)


def test_accumulated_batches_average(tiny_llama: Build, tmp_path: Path) -> None:
    at_once = trainer(tiny_llama, tmp_path, num_train_epochs=1.0, per_device_train_batch_size=6)
    in_parts = trainer(tiny_llama, tmp_path, num_train_epochs=1.0, gradient_accumulation_steps=3)
    assert first_gradient_norm(at_once) == pytest.approx(first_gradient_norm(in_parts), rel=1e-4)


@pytest.mark.parametrize("name", METHODS)
def test_passes_change_neither_the_loss_nor_its_gradient(tiny_llama: Build, tmp_path: Path, name: str) -> None:
    found, passes = [], []
    for tokens in (10_000, 60, 1):
        each = trainer(
            tiny_llama,
            tmp_path,
            METHODS[name],
            num_train_epochs=1.0,
            per_device_train_batch_size=6,
            tokens_per_pass=tokens,
        )
        passes.append(len(each.data_collator(TREES)["passes"]))
        norm = first_gradient_norm(each)
        found.append((norm, each.state.log_history[0]["loss"]))
    assert passes[0] == 1 < passes[1] < passes[2] == 6
    assert found[1] == pytest.approx(found[0], rel=1e-4)
    assert found[2] == pytest.approx(found[0], rel=1e-4)


def test_the_reference_is_read_once_and_is_that_of_each_state(tiny_llama: Build, tmp_path: Path) -> None:
    whole = trainer(tiny_llama, tmp_path, METHODS["afpo_paper_state"], tokens_per_pass=10_000)
    parts = trainer(tiny_llama, tmp_path, METHODS["afpo_paper_state"], tokens_per_pass=60, num_train_epochs=1.0)
    whole.read_reference()
    parts.train()
    (batch,) = whole.data_collator(whole.trees)["passes"]
    direct = whole.model.log_reference(batch.packed)
    torch.testing.assert_close(batch.log_reference, direct)
    pieces = parts.data_collator(parts.trees)["passes"]
    torch.testing.assert_close(torch.cat([piece.log_reference for piece in pieces]), direct, atol=1e-5, rtol=1e-5)
    # It depends on the state.
    assert direct.std(0).max() > 1e-2


@pytest.mark.parametrize("setting", ["activation_checkpointing", "gradient_checkpointing"])
def test_activations_may_be_computed_anew(tiny_llama: Build, tmp_path: Path, setting: str) -> None:
    if setting not in {field.name for field in fields(FlowTrainingArguments)}:
        pytest.skip("this version of transformers has it under another name")
    plain = trainer(tiny_llama, tmp_path, num_train_epochs=1.0)
    anew = trainer(tiny_llama, tmp_path, num_train_epochs=1.0, **{setting: True})
    assert first_gradient_norm(anew) == pytest.approx(first_gradient_norm(plain), rel=1e-5)
    assert anew.model.language_model.get_base_model().is_gradient_checkpointing


def test_a_reference_is_read_only_for_a_loss_that_reads_it(tiny_llama: Build, tmp_path: Path) -> None:
    plain = trainer(tiny_llama, tmp_path, num_train_epochs=1.0)
    plain.train()
    assert all(each.log_reference is None for each in plain.trees)
    relative = trainer(tiny_llama, tmp_path, method("relative_trajectory_balance"), num_train_epochs=1.0)
    relative.train()
    assert all(each.log_reference is not None for each in relative.trees)


def test_a_forest_of_search_trees_is_split(tiny_llama: Build, tmp_path: Path) -> None:
    apart = trainer(tiny_llama, tmp_path)
    lengths = iter(each.tree.forest.num_nodes for each in TREES)
    together = FlowTrainer(
        apart.model,
        apart.args,
        "detailed_balance",
        [SearchTree.merge([each.tree for each in TREES])],
        tokens=lambda tree: [[1]] * tree.forest.num_nodes,
        branch=[5, 9],
        temperature=0.25,
    )
    assert [each.tree.forest.num_nodes for each in together.trees] == list(lengths)
    assert all(torch.equal(a.tree.value, b.tree.value) for a, b in zip(apart.trees, together.trees, strict=True))


def test_a_callable_of_one_s_own_trains(tiny_llama: Build, tmp_path: Path) -> None:
    def entropy(log_policy: torch.Tensor) -> torch.Tensor:
        return (log_policy.exp() * log_policy).sum(1).mean()

    tiny = trainer(tiny_llama, tmp_path, Method(entropy, "free"), num_train_epochs=10.0)
    before = loss(tiny)
    tiny.train()
    assert loss(tiny) < before - 0.01


def test_no_trees_are_no_training_and_a_misspelt_loss_is_refused(tiny_llama: Build, tmp_path: Path) -> None:
    full = trainer(tiny_llama, tmp_path)
    settings: dict[str, Any] = {"tokens": lambda _: [], "branch": [5, 9], "temperature": 1.0}
    with pytest.raises(ValueError, match="no trees to train on"):
        FlowTrainer(full.model, full.args, full.loss, [], **settings)
    with pytest.raises(ValueError, match="'afpoo' is the name of no loss: choose afpo"):
        FlowTrainer(full.model, full.args, "afpoo", [each.tree for each in TREES], **settings)
