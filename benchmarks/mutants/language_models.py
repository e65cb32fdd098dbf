"""A tiny language model with one planted fault each, policies on it, and unusual ones without a fault."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from gflowdial.estimators.language_model import LanguageModelPolicy
from gflowdial.testing import check_language_model

SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}
NAMES = [[3], [4, 5], [4, 6]]


def llama() -> Any:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES))


class Changed(nn.Module):
    """A model whose inputs or logits are changed."""

    def __init__(self, before: Callable[[Tensor], Tensor], after: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.before, self.after = llama(), before, after
        self.config = self.model.config

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        logits = self.model(input_ids=self.before(input_ids), attention_mask=attention_mask).logits
        return SimpleNamespace(logits=self.after(logits))


def _same(values: Tensor) -> Tensor:
    return values


def _model(before: Callable[[Tensor], Tensor] = _same, after: Callable[[Tensor], Tensor] = _same) -> Callable[[], Any]:
    return lambda: check_language_model(Changed(before, after))


def _policy(change: Callable[[LanguageModelPolicy], Any], base: Callable[[], Any] = llama) -> Callable[[], Any]:
    def check() -> None:
        policy = LanguageModelPolicy.with_lora(base(), NAMES, rank=4)
        change(policy)
        check_language_model(policy)

    return check


def windowed() -> Any:
    torch.manual_seed(0)
    return MistralForCausalLM(MistralConfig(**SIZES, sliding_window=4))


def gpt2() -> Any:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": 50, "n_embd": 16, "n_layer": 2, "n_head": 4, "initializer_range": 0.3}
    return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))


def _wrong_head(policy: LanguageModelPolicy) -> None:
    policy.reference_head.copy_(policy.reference_head.roll(1, 0))


def _frozen(policy: LanguageModelPolicy) -> None:
    policy.requires_grad_(False)


def _not_finite(policy: LanguageModelPolicy) -> None:
    with torch.no_grad():
        policy.value_head.bias.fill_(torch.nan)


def _positions_lost(policy: LanguageModelPolicy) -> None:
    """Every token of a packed sequence stands at its own number."""
    inner = policy.forward

    def forward(packed: Any, condition: Any = None) -> Any:
        numbered = torch.arange(packed.num_tokens)
        return inner(type(packed)(**{**vars(packed), "position_ids": numbered}), condition)

    policy.forward = forward  # type: ignore[method-assign]


def _everything_seen(policy: LanguageModelPolicy) -> None:
    """Every token sees all before it, also those of other branches."""
    inner = policy.forward

    def forward(packed: Any, condition: Any = None) -> Any:
        whole = torch.full_like(packed.seen_until, packed.num_tokens)
        return inner(type(packed)(**{**vars(packed), "seen_until": whole}), condition)

    policy.forward = forward  # type: ignore[method-assign]


FAULTS: dict[str, Callable[[], Any]] = {
    "logits of the next token": _model(after=lambda x: x.roll(-1, 1)),
    "mean over the whole row": _model(after=lambda x: x - x.mean(1, keepdim=True)),
    "centred over the batch": _model(after=lambda x: x - x.mean(0, keepdim=True)),
    "dropout left on": _model(after=lambda x: nn.functional.dropout(x, 0.1, training=True)),
    "rows exchanged": _model(after=lambda x: x.flip(0)),
    "logits are NaN": _model(after=lambda x: x * torch.nan),
    "a token too few": _model(after=lambda x: x[:, 1:]),
    "tokens in reverse": _model(before=lambda ids: ids.flip(1)),
    "positions lost": _policy(_positions_lost),
    "branches see each other": _policy(_everything_seen),
    "head of other names": _policy(_wrong_head),
    "nothing is trained": _policy(_frozen),
    "values are NaN": _policy(_not_finite),
}
SOUND: dict[str, Callable[[], Any]] = {
    "Llama": lambda: check_language_model(llama()),
    "Mistral with a window, by itself": lambda: check_language_model(windowed()),
    "learned positions": lambda: check_language_model(gpt2()),
    "a policy": _policy(lambda policy: None),  # noqa: ARG005
    "a policy on a window": _policy(lambda policy: None, windowed),  # noqa: ARG005
    "a policy on learned positions": _policy(lambda policy: None, gpt2),  # noqa: ARG005
    "a policy of one token each": lambda: check_language_model(LanguageModelPolicy.with_lora(llama(), [7, 8], rank=2)),
    "a policy with conditions": lambda: check_language_model(
        LanguageModelPolicy.with_lora(llama(), NAMES, rank=2, conditions=2)
    ),
    "a policy trained in full": lambda: check_language_model(LanguageModelPolicy(llama(), NAMES)),
}
