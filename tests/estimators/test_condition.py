"""Policies that depend on a condition: what they are before training, in one pass for many, saved, and refused."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import LlamaForCausalLM

from gflowdial.estimators.condition import Conditioned
from gflowdial.estimators.language_model import LanguageModelPolicy
from gflowdial.estimators.packing import PackedPrefixes, pack_prefixes

NAMES = [[7, 3], [7, 11, 40], [21], [2, 2]]
"""Two of them branch a second time."""
CONDITIONS = 3

Build = Callable[[int], LlamaForCausalLM]


def policy_of(build: Build, conditions: int = CONDITIONS) -> LanguageModelPolicy:
    torch.manual_seed(0)
    return LanguageModelPolicy(build(0), NAMES, conditions=conditions).eval()


def trained(build: Build) -> LanguageModelPolicy:
    """A policy whose heads are not what they were."""
    policy = policy_of(build)
    torch.manual_seed(1)
    for name, parameter in policy.named_parameters():
        if not name.startswith("language_model."):
            parameter.data += 0.2 * torch.randn_like(parameter)
    return policy


@pytest.fixture(scope="module")
def packed(tiny_llama: Build) -> PackedPrefixes:
    shape = [-1, 0, 0, 1], [[1, 2, 3], [4, 5], [6], [7, 8, 9]], [True, True, False, True]
    return pack_prefixes(*shape, [5, 9], policy_of(tiny_llama).continuations)


def outputs(policy: LanguageModelPolicy, packed: PackedPrefixes, condition: Tensor | None) -> list[Tensor]:
    with torch.no_grad():
        return list(vars(policy(packed, condition)).values())


@settings(max_examples=15)
@given(numbers=st.lists(st.floats(-3, 3, width=32), min_size=CONDITIONS, max_size=CONDITIONS))
def test_before_training_a_condition_changes_nothing(
    tiny_llama: Build, packed: PackedPrefixes, numbers: list[float]
) -> None:
    plain = outputs(policy_of(tiny_llama, 0), packed, None)
    rows = torch.tensor(numbers).expand(len(packed.node), -1)
    for found, expected in zip(outputs(policy_of(tiny_llama), packed, rows), plain, strict=True):
        assert torch.equal(found, expected)


@settings(max_examples=15)
@given(seed=st.integers(0, 99), count=st.integers(1, 4))
def test_many_conditions_in_one_pass_are_as_many_passes(
    tiny_llama: Build, packed: PackedPrefixes, seed: int, count: int
) -> None:
    policy, reads = trained(tiny_llama), len(packed.node)
    condition = torch.randn(count, reads, CONDITIONS, generator=torch.Generator().manual_seed(seed))
    together = outputs(policy, packed.select(list(range(reads)) * count), condition.flatten(0, 1))
    alone = [outputs(policy, packed, rows) for rows in condition]
    for number, found in enumerate(together):
        torch.testing.assert_close(found, torch.cat([each[number] for each in alone]), atol=1e-5, rtol=1e-5)
    assert count == 1 or not torch.allclose(alone[0][0], alone[1][0])


def test_states_follow_the_formula() -> None:
    torch.manual_seed(0)
    conditioned = Conditioned(5, 2).double()
    for parameter in conditioned.parameters():
        parameter.data.normal_()
    states = torch.randn(4, 2, 5, dtype=torch.float64)
    condition = torch.randn(4, 2, dtype=torch.float64)
    hidden, change, scale = conditioned.hidden, conditioned.change, conditioned.log_scale.weight[0]
    for read, found in enumerate(conditioned(states, condition)):
        for branching, h in enumerate(states[read]):
            inner = hidden.weight @ torch.cat([h, condition[read]]) + hidden.bias
            inner = inner * 0.5 * (1 + torch.erf(inner / 2**0.5))
            expected = (h + change.weight @ inner + change.bias) * (scale @ condition[read]).exp()
            torch.testing.assert_close(found[branching], expected)


def test_the_condition_is_trained_and_the_reference_does_not_read_it(tiny_llama: Build, packed: PackedPrefixes) -> None:
    policy = LanguageModelPolicy.with_lora(tiny_llama(0), NAMES, conditions=CONDITIONS)
    before = policy.log_reference(packed)
    for parameter in policy.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1
    policy(packed, torch.ones(len(packed.node), CONDITIONS)).log_policy[:, 0].sum().backward()
    assert policy.conditioned is not None
    assert all(parameter.grad is not None for parameter in policy.conditioned.parameters())
    assert torch.equal(policy.log_reference(packed), before)


def test_a_saved_policy_keeps_its_condition(tiny_llama: Build, packed: PackedPrefixes, tmp_path: Path) -> None:
    policy = trained(tiny_llama)
    policy.save_pretrained(tmp_path)
    loaded = LanguageModelPolicy.from_pretrained(tmp_path).eval()
    assert loaded.conditions == CONDITIONS
    condition = torch.randn(len(packed.node), CONDITIONS)
    for found, expected in zip(outputs(loaded, packed, condition), outputs(policy, packed, condition), strict=True):
        assert torch.equal(found, expected)


def test_a_condition_that_does_not_fit_is_refused(tiny_llama: Build, packed: PackedPrefixes) -> None:
    reads = len(packed.node)
    with pytest.raises(ValueError, match=r"depends on a condition of 3 numbers, and none is given: give one per read"):
        policy_of(tiny_llama)(packed)
    with pytest.raises(ValueError, match=r"depends on no condition, and one is given: build it with `conditions`"):
        policy_of(tiny_llama, 0)(packed, torch.zeros(reads, CONDITIONS))
    for shape in ((reads, 2), (reads + 1, CONDITIONS)):
        with pytest.raises(ValueError, match=r"the condition has shape \(\d, \d\): give \(3, 3\), one row per read"):
            policy_of(tiny_llama)(packed, torch.zeros(shape))
