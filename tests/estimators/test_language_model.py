"""The language-model policy: where it starts, what its reference is, and that a saved one is the same one."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from gflowdial.estimators.language_model import LanguageModelPolicy
from gflowdial.estimators.packing import PackedPrefixes, pack_prefixes

ACTIONS = [7, 3, 11, 40, 21]
PARENT, TOKENS = [-1, 0, 0, 1], [[1, 2, 3], [4, 5], [6], [7, 8, 9]]
BRANCH = [5, 9]

Build = Callable[[int], LlamaForCausalLM]


@pytest.fixture(scope="module")
def packed() -> PackedPrefixes:
    return pack_prefixes(PARENT, TOKENS, [True] * 4, BRANCH)


def perturb(policy: LanguageModelPolicy) -> None:
    torch.manual_seed(1)
    for parameter in policy.parameters():
        if parameter.requires_grad:
            parameter.data += 0.2 * torch.randn_like(parameter)


@torch.no_grad()
def test_the_untrained_policy_is_the_language_models_own_choice_among_the_names(
    tiny_llama: Build, packed: PackedPrefixes
) -> None:
    policy = LanguageModelPolicy.with_lora(tiny_llama(0), ACTIONS)
    assert policy.num_actions == len(ACTIONS)
    output = policy(packed)
    for row, ids in enumerate([[1, 2, 3], [1, 2, 3, 4, 5], [1, 2, 3, 6], [1, 2, 3, 4, 5, 7, 8, 9]]):
        logits = tiny_llama(0)(input_ids=torch.tensor([ids + BRANCH])).logits[0, -1]
        torch.testing.assert_close(output.log_policy[row], logits[ACTIONS].log_softmax(-1), atol=1e-5, rtol=1e-5)
    assert not output.log_value.any()
    assert not output.log_state_value.any()
    torch.testing.assert_close(policy.log_reference(packed), output.log_policy)


def test_the_reference_is_the_untrained_policy_whatever_is_trained(tiny_llama: Build, packed: PackedPrefixes) -> None:
    policy = LanguageModelPolicy.with_lora(tiny_llama(0), ACTIONS)
    before = policy(packed).log_policy.detach()
    perturb(policy)
    assert (policy(packed).log_policy - before).abs().max() > 0.1
    torch.testing.assert_close(policy.log_reference(packed), before)
    assert not policy.log_reference(packed).requires_grad


def test_only_the_adapter_and_the_heads_are_trained(tiny_llama: Build) -> None:
    policy = LanguageModelPolicy.with_lora(tiny_llama(0), ACTIONS)
    trained = {name for name, parameter in policy.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name or name.startswith(("policy_head.", "value_head.")) for name in trained)
    assert {"policy_head.weight", "policy_head.bias", "value_head.weight", "value_head.bias"} <= trained


@pytest.mark.parametrize("name_the_base", [False, True])
@torch.no_grad()
def test_a_saved_policy_is_the_same_policy(
    tiny_llama: Build, packed: PackedPrefixes, tmp_path: Path, name_the_base: bool
) -> None:
    tiny_llama(0).save_pretrained(tmp_path / "base")
    policy = LanguageModelPolicy.with_lora(LlamaForCausalLM.from_pretrained(tmp_path / "base"), ACTIONS).eval()
    perturb(policy)
    policy.save_pretrained(tmp_path / "policy")
    base = None if name_the_base else tiny_llama(0)
    loaded = LanguageModelPolicy.from_pretrained(tmp_path / "policy", base).eval()
    assert loaded.names == policy.names
    for name, tensor in vars(policy(packed)).items():
        assert torch.equal(tensor, getattr(loaded(packed), name)), name
    assert torch.equal(policy.log_reference(packed), loaded.log_reference(packed))
    kinds = {file.suffix for file in (tmp_path / "policy").iterdir()}
    assert kinds <= {".safetensors", ".json", ".md"}
    assert not any("embed" in key for key in load_file(tmp_path / "policy" / "adapter_model.safetensors"))


@pytest.mark.parametrize(
    ("names", "action"), [([7, 3, 7], 2), ([[7], [3], [7, 5]], 0), ([[7, 5], [7]], 1), ([[7], []], 1)]
)
def test_names_that_cannot_be_told_apart_are_refused(
    tiny_llama: Build, names: Sequence[int] | Sequence[Sequence[int]], action: int
) -> None:
    with pytest.raises(ValueError, match=rf"name of action {action}.* begins another name: end every name with a mark"):
        LanguageModelPolicy.with_lora(tiny_llama(0), names)


def test_a_folder_without_a_policy_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere holds no policy .*train one first"):
        LanguageModelPolicy.from_pretrained(tmp_path / "nowhere")


def test_incomplete_heads_are_refused(tiny_llama: Build, tmp_path: Path) -> None:
    LanguageModelPolicy.with_lora(tiny_llama(0), ACTIONS).save_pretrained(tmp_path)
    heads = load_file(tmp_path / "heads.safetensors")
    del heads["value_head.bias"]
    save_file(heads, tmp_path / "heads.safetensors")
    with pytest.raises(ValueError, match=r"heads.safetensors.*value_head.bias"):
        LanguageModelPolicy.from_pretrained(tmp_path, tiny_llama(0))
