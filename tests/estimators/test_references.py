"""The reference policy is the one that was named, and adapters of any name survive a folder."""

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from torch import Tensor
from transformers import LlamaForCausalLM

from gflowdial.estimators.language_model import LanguageModelPolicy
from gflowdial.estimators.packing import pack_prefixes

Build = Callable[[int], LlamaForCausalLM]
NAMES = [7, 3, 11, 40, 21]
PACKED = pack_prefixes([-1, 0, 0, 1], [[1, 2, 3], [4, 5], [6], [7, 8, 9]], [True] * 4, [5, 9])
PREFIXES = ([1, 2, 3], [1, 2, 3, 4, 5], [1, 2, 3, 6], [1, 2, 3, 4, 5, 7, 8, 9])
LORA = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")


@torch.no_grad()
def shift(model: Any, adapter: str, seed: int) -> None:
    """A trained adapter: B is no longer zero."""
    torch.manual_seed(seed)
    for name, weight in model.named_parameters():
        if f".{adapter}." in name:
            weight += 0.2 * torch.randn_like(weight)


def with_adapters(base: LlamaForCausalLM, *names: str, lora: LoraConfig = LORA) -> PeftModel:
    # peft writes the base model's name into the configuration that it is handed.
    lora = deepcopy(lora)
    model = get_peft_model(base, lora, adapter_name=names[0])
    for name in names[1:]:
        model.add_adapter(name, lora)
    for seed, name in enumerate(names):
        shift(model, name, seed)
    return model.eval()


@torch.no_grad()
def alone(model: Any) -> Tensor:
    rows = [model(input_ids=torch.tensor([[*ids, 5, 9]])).logits[0, -1, NAMES] for ids in PREFIXES]
    return torch.stack(rows).log_softmax(-1)


def by_adapter(model: PeftModel, *names: str) -> dict[str, Tensor]:
    found = {}
    for name in names:
        model.set_adapter(name)
        found[name] = alone(model)
    model.set_adapter(names[0])
    with model.disable_adapter():
        found["base"] = alone(model)
    return found


def same(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("reference", [None, "base", "initial", "sft"])
def test_the_reference_is_the_one_that_was_named(tiny_llama: Build, reference: str | None) -> None:
    model = with_adapters(tiny_llama(0), "policy", "sft")
    wanted = by_adapter(model, "policy", "sft")
    policy = LanguageModelPolicy(model, NAMES, reference=reference)
    read = policy(PACKED).log_policy.detach()
    assert same(read, wanted["policy"])
    at_first = {**wanted, "initial": wanted["policy"]}[reference or "base"]
    assert len({float(table[0, 0]) for table in wanted.values()}) == 3
    assert same(policy.log_reference(PACKED), at_first)
    trained = {name for name, weight in policy.named_parameters() if weight.requires_grad}
    assert {name for name in trained if "lora" in name} == {
        name for name, _ in policy.named_parameters() if ".policy." in name
    }
    shift(policy.language_model, "policy", 9)
    assert (policy(PACKED).log_policy - read).abs().max() > 0.1
    assert same(policy.log_reference(PACKED), at_first)
    assert {name for name, weight in policy.named_parameters() if weight.requires_grad} == trained
    with policy.lent() as lent:
        assert same(alone(lent), wanted["base"])


@pytest.mark.parametrize("reference", [None, "initial", "sft"])
@torch.no_grad()
def test_adapters_of_any_name_are_saved_and_loaded(tiny_llama: Build, tmp_path: Path, reference: str | None) -> None:
    model = with_adapters(tiny_llama(0), "policy", "sft")
    policy = LanguageModelPolicy(model, NAMES, reference=reference).eval()
    shift(policy.language_model, "policy", 9)
    policy.save_pretrained(tmp_path, with_base=True)
    kept = json.loads((tmp_path / "policy.json").read_text())
    assert kept["adapters"] == ["policy", *([reference] if reference else [])]
    for loaded in (
        LanguageModelPolicy.from_pretrained(tmp_path).eval(),
        LanguageModelPolicy.from_pretrained(tmp_path, tiny_llama(0)).eval(),
    ):
        assert torch.equal(loaded(PACKED).log_policy, policy(PACKED).log_policy)
        assert torch.equal(loaded.log_reference(PACKED), policy.log_reference(PACKED))
        trained = [name for name, weight in loaded.named_parameters() if weight.requires_grad]
        assert any("lora_A.policy" in name for name in trained)
        assert not any(".sft." in name or ".initial." in name for name in trained)
        shift(loaded.language_model, "policy", 11)
        loaded.load_weights(tmp_path)
        assert torch.equal(loaded(PACKED).log_policy, policy(PACKED).log_policy)


def test_an_adapter_on_the_output_layer_is_in_the_first_policy(tiny_llama: Build) -> None:
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "lm_head"], task_type="CAUSAL_LM")
    model = with_adapters(tiny_llama(0), "policy", lora=lora)
    wanted = by_adapter(model, "policy")
    policy = LanguageModelPolicy(model, NAMES)
    assert same(policy(PACKED).log_policy, wanted["policy"])
    assert same(policy.log_reference(PACKED), wanted["base"])
    assert (wanted["policy"] - wanted["base"]).abs().max() > 0.1


def test_a_copy_for_the_reference_leaves_the_random_state_as_it_is(tiny_llama: Build) -> None:
    drawn = []
    for reference in ("base", "initial"):
        model = with_adapters(tiny_llama(0), "policy")
        torch.manual_seed(2)
        LanguageModelPolicy(model, NAMES, reference=reference)
        drawn.append(torch.rand(3))
    assert torch.equal(*drawn)


def test_unknown_references_are_refused(tiny_llama: Build) -> None:
    with pytest.raises(ValueError, match="reference is 'sft', and the model has no adapters: give 'initial'"):
        LanguageModelPolicy(tiny_llama(0), NAMES, reference="sft")
    with pytest.raises(ValueError, match="reference is 'other': choose one of 'base', 'initial', 'policy'"):
        LanguageModelPolicy(with_adapters(tiny_llama(0), "policy"), NAMES, reference="other")


def test_what_is_no_adapter_of_weights_is_refused(tiny_llama: Build) -> None:
    prompt = get_peft_model(tiny_llama(0), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    with pytest.raises(ValueError, match="the adapter default is a prompt"):
        LanguageModelPolicy(prompt, NAMES)
    both = with_adapters(tiny_llama(0), "policy", "sft")
    both.base_model.set_adapter(["policy", "sft"])
    with pytest.raises(ValueError, match="uses the adapters policy, sft: activate the one that is the policy"):
        LanguageModelPolicy(both, NAMES)
