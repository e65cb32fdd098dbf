"""Passes and checkpointing are chosen from the memory there is, and what a model keeps is what is planned with."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from random_trees import ACTIONS
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM
from two_processes import TREES, on_trees

from gflowdial.estimators.language_model import LanguageModelPolicy
from gflowdial.training.memory import Plan, Shape, pass_bytes, plan, shape_of
from gflowdial.training.trees import TreeCollator

GIB = 2**30
QWEN = Shape(layers=28, hidden=3584, inner=18944, shared=7, itemsize=2, adapted=True, state=GIB)


@given(
    free=st.integers(2, 200).map(lambda gib: gib * GIB),
    trees=st.lists(st.tuples(st.integers(10, 20_000), st.integers(5, 10)), min_size=1, max_size=5),
    most=st.integers(1, 10_000),
)
def test_what_is_planned_fits_and_no_pass_is_needlessly_small(
    free: int, trees: list[tuple[int, int]], most: int
) -> None:
    largest = max(tokens for tokens, _ in trees)
    try:
        found = plan(QWEN, free, trees, most)
    except ValueError:
        assert pass_bytes(QWEN, largest, 10, True) + QWEN.state > 0.9 * free * 0.99
        return
    usable = 0.9 * free - QWEN.state
    for tokens in (largest, found.tokens_per_pass):
        longest = max(length for _, length in trees)
        assert pass_bytes(QWEN, tokens, longest, found.checkpointing) <= usable
    assert 1 <= found.tokens_per_pass <= most
    if found.tokens_per_pass < most:
        assert pass_bytes(QWEN, found.tokens_per_pass + 1, longest, found.checkpointing) > usable - 1
    # Activations are computed anew only where the largest tree would not fit otherwise.
    assert found.checkpointing == (pass_bytes(QWEN, largest, longest, False) > usable)


def test_eight_trees_of_a_7b_model_on_80_gb_are_trained_in_passes() -> None:
    trees = [(1322, 400)] * 8
    assert plan(QWEN, 64 * GIB, trees, most=20_000) == Plan(pytest.approx(4_500, rel=0.15), False)
    assert plan(QWEN, 64 * GIB, [*trees, (10_576, 400)], most=4096) == Plan(4096, True)
    with pytest.raises(
        ValueError, match=r"a tree of 10,576 tokens needs \d+\.\d GiB with activation .* 8\.0 GiB are free"
    ):
        plan(QWEN, 8 * GIB, [(10_576, 400)], most=4096)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("adapted", [True, False])
def test_a_model_keeps_no_more_than_is_planned_and_not_much_less(dtype: torch.dtype, adapted: bool) -> None:
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config).to(dtype)
    names = range(10, 10 + ACTIONS)
    policy = (
        LanguageModelPolicy.with_lora(model, names, rank=2, alpha=2) if adapted else LanguageModelPolicy(model, names)
    )
    collator = TreeCollator([5, 9], 1.0)
    batch = collator.collate(TREES)
    weights = {parameter.untyped_storage().data_ptr() for parameter in policy.parameters()}
    kept: dict[int, tuple[int, Tensor]] = {}

    def keep(values: Tensor) -> Tensor:
        storage = values.untyped_storage()
        if storage.data_ptr() not in weights:
            # The tensor is held, so that no other one gets its place.
            kept[storage.data_ptr()] = storage.nbytes(), values
        return values

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda values: values):
        policy(batch.packed)
    found = sum(size for size, _ in kept.values())
    shape = shape_of(policy)
    longest = max(collator.size(each)[1] for each in TREES)
    planned = pass_bytes(replace(shape, layers=shape.layers - 1), batch.packed.num_tokens, longest, checkpointing=False)
    assert 0.4 * planned < found < planned


def test_the_trainer_takes_the_plan(tmp_path: Path) -> None:
    trainer = on_trees("trajectory_balance", tmp_path)
    sizes = [trainer.collator.size(each) for each in trainer.trees]
    shape = shape_of(trainer.model)
    enough = int((pass_bytes(shape, max(sizes)[0], max(sizes)[1], False) + shape.state) / 0.9) + 1000
    trainer._fit(enough)
    assert max(sizes)[0] <= trainer.collator.tokens_per_pass < 4096
    base = trainer.model.language_model.get_base_model()
    assert not base.is_gradient_checkpointing
    trainer._fit(int(0.8 * (enough - shape.state)) + shape.state)
    assert base.is_gradient_checkpointing
    with pytest.raises(ValueError, match="GiB are free"):
        trainer._fit(shape.state)
