"""Every language model is read packed as it is alone, from its first step on, or it is refused by name."""

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from families import BRANCH, FAMILIES, NAMES, PARENT, TOKENS, alone, build
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedModel

from gflowdial.estimators import tree_attention
from gflowdial.estimators.language_model import LanguageModelPolicy
from gflowdial.estimators.packing import pack_prefixes

Build = Callable[[int], LlamaForCausalLM]
PACKED = pack_prefixes(PARENT, TOKENS, [True] * len(PARENT), BRANCH)
QUICK = ("cohere", "gemma2", "gemma3_text", "gpt_oss", "gptj", "granite", "llama4_text", "mistral", "phi", "qwen2")
"""Between them: logit scale, softcaps, windows, chunks, sinks, experts, biases, and an attention of a model's own."""
READ = (
    *("apertus", "arcee", "codegen", "cohere2", "deepseek_v3", "exaone4", "gemma", "glm4", "gpt2", "gpt_bigcode"),
    *("gpt_neox", "helium", "llama", "minimax_m2", "ministral", "mixtral", "nemotron", "olmo", "olmo2", "olmo3", "opt"),
    *(
        "persimmon",
        "phi3",
        "phimoe",
        "qwen2_moe",
        "qwen3",
        "qwen3_moe",
        "seed_oss",
        "smollm3",
        "stablelm",
        "starcoder2",
    ),
)
"""Further families that are read, not refused."""


def built(family: str, **changes: Any) -> PreTrainedModel:
    model = build(family, **changes)
    assert model is not None
    return model


@torch.no_grad()
def read(model: PreTrainedModel, **settings: Any) -> Tensor:
    return LanguageModelPolicy(model, NAMES, **settings)(PACKED).log_policy


@pytest.mark.parametrize("family", QUICK)
def test_an_untrained_policy_is_the_models_own_distribution(family: str) -> None:
    model = built(family)
    torch.testing.assert_close(read(model), alone(model), atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_exact_or_refused_by_name(family: str) -> None:
    model = build(family)
    if model is None:
        assert family not in QUICK + READ
        pytest.skip("not built small with common settings")
    refusal = ""
    try:
        got = read(model)
    except ValueError as error:
        refusal = str(error)
    if refusal:
        assert type(model).__name__ in refusal
        assert family not in QUICK + READ
        return
    torch.testing.assert_close(got, alone(model), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("family", "window"), [("mistral", "sliding_window"), ("llama4_text", "attention_chunk_size")])
def test_windows_shorter_than_prefixes_matter(family: str, window: str) -> None:
    short, long = (alone(built(family, **{window: size})) for size in (4, 64))
    assert (short - long).abs().max() > 1e-2


@pytest.mark.parametrize("family", ["gemma2", "gemma3_text", "llama4_text", "mistral", "qwen2"])
def test_flex_attention_honours_windows_chunks_and_softcaps(family: str) -> None:
    model = built(family)
    with torch.compiler.set_stance("force_eager"):
        torch.testing.assert_close(read(model, attention="flex"), alone(model), atol=1e-5, rtol=1e-5)


def test_flex_attention_is_not_replaced_without_a_word() -> None:
    with pytest.raises(ValueError, match=r"GPTJForCausalLM .* AttentionInterface"):
        read(built("gptj"), attention="flex")


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("lfm2", {"layer_types": ["conv", "full_attention"] * 2}, "Lfm2ForCausalLM has layers of kind conv"),
        ("mamba", {}, "MambaForCausalLM has layers of kind linear_attention"),
        ("deepseek_v32", {}, "DeepseekV32ForCausalLM has layers of kind indexed_attention"),
        ("rwkv", {}, "RwkvForCausalLM does not read packed prefixes as it reads each alone"),
        ("bloom", {}, "BloomForCausalLM does not read packed prefixes as it reads each alone"),
        ("bert", {}, "BertLMHeadModel does not read packed prefixes .* it looks ahead"),
        ("olmoe", {}, "OlmoeAttention attends with a window of 4 and a mask of None"),
        ("modernbert-decoder", {}, "ModernBertDecoderForCausalLM's output layer reads other states"),
    ],
)
def test_what_prefixes_cannot_be_packed_for_is_refused_by_name(
    family: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read(built(family, **changes))


def test_layers_that_mix_tokens_are_found_without_their_kind() -> None:
    """By the comparison: a configuration need not say what its layers are."""
    model = built("lfm2", layer_types=["conv", "full_attention"] * 2)
    with (
        mock.patch("gflowdial.estimators.exactness._KINDS", frozenset({"conv", "full_attention"})),
        pytest.raises(ValueError, match=r"states differ by \d.*Lfm2ShortConv mixes tokens outside attention"),
    ):
        read(model)


def test_a_window_that_is_not_honoured_is_noticed() -> None:
    blocks = tree_attention._query_blocks
    with (
        mock.patch.object(tree_attention, "_query_blocks", lambda packed, _rule, dtype: blocks(packed, None, dtype)),
        pytest.raises(ValueError, match="MistralForCausalLM does not read packed prefixes"),
    ):
        read(built("mistral"))


def test_an_argument_that_attention_does_not_know_is_refused(tiny_llama: Build) -> None:
    model = tiny_llama(0)
    attention = model.model.layers[1].self_attn
    own = attention.forward
    attention.forward = lambda *inputs, **named: own(*inputs, **named, indices=torch.zeros(1))
    with pytest.raises(ValueError, match=r"LlamaForCausalLM .* LlamaAttention hands its attention indices"):
        read(model)


def test_logits_made_in_another_way_are_refused(tiny_llama: Build) -> None:
    model = tiny_llama(0)
    own = model.forward

    def squared(*inputs: Any, **named: Any) -> Any:
        output = own(*inputs, **named)
        output.logits = output.logits.square()
        return output

    model.forward = squared
    with pytest.raises(ValueError, match="LlamaForCausalLM does more to its logits"):
        read(model)


def test_an_encoding_that_depends_on_the_longest_prefix_is_refused() -> None:
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    model = built("llama", rope_parameters=rope, max_position_embeddings=18)
    policy = LanguageModelPolicy(model, NAMES)
    with pytest.raises(ValueError, match="longest prefix has 21 tokens, and beyond 18 the dynamic encoding"):
        policy(PACKED)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["gpt2", "mistral", "qwen3", "mixtral"])
def test_low_precision_is_not_taken_for_a_difference(family: str, dtype: torch.dtype) -> None:
    model = built(family).to(dtype)
    assert (read(model) - alone(model)).abs().max() < 0.3


def test_binding_leaves_the_random_state_and_the_model_as_they_are(tiny_llama: Build) -> None:
    model, plain = tiny_llama(0).train(), tiny_llama(0).eval()
    torch.manual_seed(3)
    policy = LanguageModelPolicy(model, NAMES)
    found = torch.rand(3)
    torch.manual_seed(3)
    for outputs in (len(NAMES), len(NAMES) + 1):
        torch.nn.Linear(16, outputs)
    assert torch.equal(found, torch.rand(3))
    assert model.training
    assert model.config._attn_implementation == plain.config._attn_implementation
    policy.eval()(PACKED)
    ids = torch.tensor([[1, 2, 3, 4]])
    assert torch.equal(model(input_ids=ids).logits, plain(input_ids=ids).logits)
    for choice in ({"do_sample": False}, {"do_sample": True}):
        torch.manual_seed(4)
        wanted = plain.generate(ids, max_new_tokens=5, **choice)
        torch.manual_seed(4)
        assert torch.equal(model.generate(ids, max_new_tokens=5, **choice), wanted)


@pytest.mark.parametrize("family", ["gptj", "mistral"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_layers_have_the_same_gradient(family: str, reentrant: bool) -> None:
    """Also where checkpointing is switched on at the model: the backward pass attends along the tree again."""
    model = built(family)
    policy = LanguageModelPolicy(model, NAMES)

    def gradients() -> list[Tensor]:
        policy.zero_grad()
        policy(PACKED).log_policy.square().sum().backward()
        return [weight.grad.clone() for weight in policy.parameters() if weight.grad is not None]

    wanted = gradients()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    policy.train()
    for one, other in zip(gradients(), wanted, strict=True):
        torch.testing.assert_close(one, other)
    assert model.config._attn_implementation != tree_attention._NAME
    policy.eval()
    assert torch.equal(alone(model), alone(built(family)))


def test_heads_stay_float32_under_autocast(tiny_llama: Build) -> None:
    policy = LanguageModelPolicy.with_lora(tiny_llama(0), NAMES)
    # Sums of 2⁻⁹ beside 1 are lost in bfloat16.
    policy.value_head.bias.data.fill_(1 + 2.0**-9)
    with torch.autocast("cpu", torch.bfloat16):
        output, reference = policy(PACKED), policy.log_reference(PACKED)
    assert {output.log_policy.dtype, output.log_value.dtype, reference.dtype} == {torch.float32}
    assert output.log_value.unique().tolist() == [1 + 2.0**-9]
    torch.testing.assert_close(output.log_policy.exp().sum(1), torch.ones(len(PARENT)), atol=1e-6, rtol=0)
