"""A packed forest says of every prefix what the plain model says of that prefix alone."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM, PreTrainedModel

from gflowdial.dialogue.local import load_language_model, smollm2
from gflowdial.estimators import tree_attention
from gflowdial.estimators.language_model import LanguageModelPolicy, PolicyOutput
from gflowdial.estimators.packing import Attention, PackedPrefixes, pack_prefixes, packed_tokens

ACTIONS = [7, 3, 11, 40, 21]
BRANCH = [5, 9]


@st.composite
def token_forests(draw: st.DrawFn) -> tuple[list[int], list[list[int]], list[bool]]:
    """Parents (interleaved trees allowed), each node's tokens (some without any), and which nodes are read."""
    size = draw(st.integers(1, 12))
    parent = [draw(st.integers(-1, node - 1)) for node in range(size)]
    tokens = [draw(st.lists(st.integers(0, 49), max_size=4)) for _ in range(size)]
    read = [draw(st.booleans()) for _ in range(size)]
    read[draw(st.integers(0, size - 1))] = True
    return parent, tokens, read


def with_random_adapter(
    model: PreTrainedModel,
    actions: Sequence[int] = ACTIONS,
    std: float = 0.2,
    attention: Attention = "sdpa",
) -> LanguageModelPolicy:
    policy = LanguageModelPolicy.with_lora(model, actions, rank=4, alpha=8, attention=attention).eval()
    for name, parameter in policy.named_parameters():
        if "lora_B" in name or "value_head" in name:
            torch.nn.init.normal_(parameter, std=std)
    return policy


@pytest.fixture(scope="module")
def policy(tiny_llama: Callable[[int], LlamaForCausalLM]) -> LanguageModelPolicy:
    return with_random_adapter(tiny_llama(0))


def prefix(parent: Sequence[int], tokens: Sequence[Sequence[int]], node: int) -> list[int]:
    above = prefix(parent, tokens, parent[node]) if parent[node] >= 0 else []
    return above + list(tokens[node])


def alone(policy: LanguageModelPolicy, ids: list[int]) -> Tensor:
    """log P_F, log V(s, a) and log V(s) of one prefix by the plain model, without masks or positions."""
    model = policy.language_model.get_base_model()
    ours = model.config._attn_implementation
    model.set_attn_implementation("eager")
    state = model.get_decoder()(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state[0, -1]
    model.set_attn_implementation(ours)
    return torch.cat([policy.policy_head(state).log_softmax(-1), policy.value_head(state)])


def together(output: PolicyOutput) -> Tensor:
    return torch.cat([output.log_policy, output.log_value, output.log_state_value[:, None]], dim=1)


def gradients(policy: LanguageModelPolicy, outputs: Tensor) -> list[Tensor]:
    weight = torch.linspace(-1, 1, outputs.numel()).cos().view_as(outputs)
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    return list(torch.autograd.grad((weight * outputs).sum(), trained))


@settings(max_examples=40)
@given(forest=token_forests(), block=st.sampled_from([1, 3, 7, 128]))
def test_every_read_equals_its_prefix_alone(
    policy: LanguageModelPolicy, forest: tuple[list[int], list[list[int]], list[bool]], block: int
) -> None:
    parent, tokens, read = forest
    prefixes = [prefix(parent, tokens, node) + BRANCH for node in range(len(parent)) if read[node]]
    packed = pack_prefixes(parent, tokens, read, BRANCH)
    assert packed.node.tolist() == [node for node in range(len(parent)) if read[node]]
    assert packed.num_tokens == packed_tokens(parent, tokens, read, BRANCH)
    with mock.patch.object(tree_attention, "_BLOCK", block):
        got = together(policy(packed))
    wanted = torch.stack([alone(policy, ids) for ids in prefixes])
    torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)
    for one, other in zip(gradients(policy, got), gradients(policy, wanted), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


@given(forest=token_forests())
def test_who_sees_whom(forest: tuple[list[int], list[list[int]], list[bool]]) -> None:
    """A read sees the tokens of its prefix in the order of their positions, then its branch, and no others."""
    parent, tokens, read = forest
    packed = pack_prefixes(parent, tokens, read, BRANCH)
    assert packed.continued_at.shape == (sum(read), 0)
    for node, at in zip(packed.node.tolist(), packed.read_at.tolist(), strict=True):
        seen = packed.visible[at]
        assert packed.input_ids[seen].tolist() == prefix(parent, tokens, node) + BRANCH
        assert packed.position_ids[seen].tolist() == list(range(int(seen.sum())))


@given(token_forests(), st.lists(st.lists(st.integers(0, 49), min_size=1, max_size=3), min_size=1, max_size=3))
def test_who_sees_whom_with_continuations(
    forest: tuple[list[int], list[list[int]], list[bool]], continuations: list[list[int]]
) -> None:
    """A continuation sees its node's prefix, the branch and its own tokens; no read sees another's continuation."""
    parent, tokens, read = forest
    packed = pack_prefixes(parent, tokens, read, BRANCH, continuations)
    assert packed.num_tokens == packed_tokens(parent, tokens, read, BRANCH, continuations)
    reads = torch.cat([packed.read_at[:, None], packed.continued_at], dim=1).tolist()
    for node, ats in zip(packed.node.tolist(), reads, strict=True):
        for at, behind in zip(ats, [[], *continuations], strict=True):
            seen = packed.visible[at]
            assert packed.input_ids[seen].tolist() == prefix(parent, tokens, node) + BRANCH + behind
            assert packed.position_ids[seen].tolist() == list(range(int(seen.sum())))
    order = list(range(len(reads)))[::-1]
    assert torch.equal(packed.select(order).to("cpu").continued_at, packed.continued_at[order])


FAMILIES = ("gemma3_text", "gpt_neox", "mistral", "olmo2", "phi3", "qwen2", "qwen3")


@pytest.mark.parametrize("family", FAMILIES)
def test_other_families_of_models_read_alike(family: str) -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "pad_token_id": 0}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4, "initializer_range": 0.3}
    policy = with_random_adapter(AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes, **heads)))
    packed = pack_prefixes(*TREE, [True] * 7, BRANCH)
    assert worst(policy, packed) < 1e-4
    assert worst(policy, replace(packed, position_ids=torch.arange(packed.num_tokens))) > 1e-2


def test_unknown_attention_is_refused(tiny_llama: Callable[[int], LlamaForCausalLM]) -> None:
    with pytest.raises(Exception, match="attention"):
        with_random_adapter(tiny_llama(0), attention="flash")  # type: ignore[arg-type]


def test_flex_attention_reads_the_same(tiny_llama: Callable[[int], LlamaForCausalLM]) -> None:
    """Not compiled, and without a gradient: on a CPU it has none."""
    policy = with_random_adapter(tiny_llama(0), attention="flex")
    for read in ([True] * 7, [False, True] * 3 + [True]):
        packed = pack_prefixes(*TREE, read, BRANCH)
        with torch.compiler.set_stance("force_eager"):
            assert worst(policy, packed) < 1e-4
            to_the_end = torch.full_like(packed.seen_until, packed.num_tokens)
            assert worst(policy, replace(packed, seen_until=to_the_end)) > 1e-2


def test_a_kernel_may_lay_its_result_out_by_tokens(policy: LanguageModelPolicy) -> None:
    """As the memory-efficient kernel does on GPUs."""
    plain = tree_attention.scaled_dot_product_attention

    def by_tokens(*inputs: Tensor, **options: object) -> Tensor:
        return plain(*inputs, **options).transpose(1, 2).contiguous().transpose(1, 2)

    packed = pack_prefixes(*TREE, [True] * 7, BRANCH)
    with mock.patch.object(tree_attention, "_BLOCK", 3):
        wanted = together(policy(packed))
        with mock.patch.object(tree_attention, "scaled_dot_product_attention", by_tokens):
            got = together(policy(packed))
    torch.testing.assert_close(got, wanted)
    for one, other in zip(gradients(policy, got), gradients(policy, wanted), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.gpu
@pytest.mark.parametrize("attention", ["sdpa", "flex"])
def test_gradients_agree_on_a_gpu(tiny_llama: Callable[[int], LlamaForCausalLM], attention: str) -> None:
    packed = pack_prefixes(*TREE, [True] * 7, BRANCH)
    here = with_random_adapter(tiny_llama(0))
    there = with_random_adapter(tiny_llama(0), attention=attention)  # type: ignore[arg-type]
    there.load_state_dict(here.state_dict())
    there.cuda()
    found = gradients(there, together(there(packed.to("cuda"))))
    for one, other in zip(found, gradients(here, together(here(packed))), strict=True):
        torch.testing.assert_close(one.cpu(), other, atol=1e-3, rtol=1e-2)


TREE = ([-1, 0, 0, 1, 1, 2, 3], [[1, 2, 3], [4, 5], [6], [7, 8, 9], [10], [11, 12], [13]])


def test_every_segment_is_laid_out_once() -> None:
    packed = pack_prefixes(*TREE, [True] * 7, BRANCH)
    assert packed.num_tokens == sum(map(len, TREE[1])) + 7 * len(BRANCH)


def test_nodes_below_which_nothing_is_read_cost_nothing() -> None:
    packed = pack_prefixes(*TREE, [False, False, True, False, False, False, False], BRANCH)
    assert packed.input_ids.tolist() == [1, 2, 3, 6, *BRANCH]


@torch.no_grad()
def worst(policy: LanguageModelPolicy, packed: PackedPrefixes) -> float:
    wanted = torch.stack([alone(policy, prefix(*TREE, node) + BRANCH) for node in packed.node.tolist()])
    return float((together(policy(packed)) - wanted).abs().max())


def test_the_comparison_would_notice_wrong_positions(policy: LanguageModelPolicy) -> None:
    packed = pack_prefixes(*TREE, [True] * 7, BRANCH)
    assert worst(policy, packed) < 1e-4
    assert worst(policy, replace(packed, position_ids=torch.arange(packed.num_tokens))) > 1e-2


def test_the_comparison_would_notice_a_visible_branch(policy: LanguageModelPolicy) -> None:
    chain = [0, 1, 3, 6]
    packed = pack_prefixes(*TREE, [node in chain for node in range(7)], BRANCH)
    assert worst(policy, packed) < 1e-4
    # On a chain, seeing everything before differs from the mask in the ancestors' branches alone.
    to_the_end = torch.full_like(packed.seen_until, packed.num_tokens)
    assert worst(policy, replace(packed, seen_until=to_the_end)) > 1e-2


def test_select_may_repeat_and_reorder(policy: LanguageModelPolicy) -> None:
    packed = pack_prefixes(*TREE, [True] * 7, BRANCH)
    order = [4, 0, 4, 6]
    assert torch.equal(policy(packed.select(order)).log_policy, policy(packed).log_policy[order])
    assert packed.select(order).node.tolist() == order


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"read": [True]}, "equally long, got 7, 7 and 1"),
        ({"branch": []}, "branch is empty"),
        ({"continuations": [[1], []]}, "branch is empty, or a continuation"),
        ({"read": [False] * 7}, "no node is to be read"),
    ],
)
def test_errors_name_what_is_wrong(change: dict[str, object], message: str) -> None:
    settings = {"parent": TREE[0], "tokens": TREE[1], "read": [True] * 7, "branch": BRANCH}
    with pytest.raises(ValueError, match=message):
        pack_prefixes(**{**settings, **change})


@pytest.mark.skipif(not smollm2.available(), reason="SmolLM2 is not installed: make smollm2")
def test_smollm2_on_a_packed_tree() -> None:
    model, tokenizer = load_language_model("smollm2")
    names = ["Question", "Reflection", "Information", "Affirmation"]
    policy = with_random_adapter(model, [tokenizer(f" {name}").input_ids[0] for name in names], std=0.02)
    parent = [-1, 0, 0, 0, 1, 1, 2, 2, 3, 4, 4, 5, 6, 7, 8]
    turns = ["I lost my job.", "\nSupporter: I am sorry.\nSeeker: Yes.", "\nSupporter: Why?\nSeeker: Money."]
    tokens = [tokenizer(turns[min(node, 1 + node % 2)] + f" {node}").input_ids for node in range(len(parent))]
    branch = tokenizer("\nStrategy:").input_ids
    with torch.no_grad():
        packed = pack_prefixes(parent, tokens, [True] * len(parent), branch)
        wanted = torch.stack([alone(policy, prefix(parent, tokens, node) + branch) for node in range(len(parent))])
        got = together(policy(packed))
    torch.testing.assert_close(got, wanted, atol=2e-4, rtol=1e-3)
