"""A policy and its flows on one causal language model. Needs the extra ``lm``."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear, log_softmax

from gflowdial.estimators.packing import Attention, PackedPrefixes
from gflowdial.estimators.tree_attention import attend_along, attention_arguments
from gflowdial.shapes import Float, Tensor

try:
    from peft import (
        LoraConfig,
        PeftModel,
        get_peft_model,
        load_peft_weights,
        set_peft_model_state_dict,
    )
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM, PreTrainedModel
except ImportError as error:
    raise ImportError("the language-model policy needs the extra `lm`: pip install 'gflowdial[lm]'") from error

__all__ = ["LanguageModelPolicy", "PolicyOutput"]

_HEADS = "heads.safetensors"
_SETTINGS = "policy.json"


@dataclass(frozen=True)
class PolicyOutput:
    """What the policy says of the states it was read at.

    Attributes:
        log_policy: ``[reads, actions]`` log P_F(a|s), normalised over all actions.
        log_value: ``[reads, actions]`` log V(s, a), unnormalised, in nats.
        log_state_value: ``[reads]`` log V(s), unnormalised, in nats.
    """

    log_policy: Float[Tensor, "reads actions"]
    log_value: Float[Tensor, "reads actions"]
    log_state_value: Float[Tensor, "reads"]


class LanguageModelPolicy(nn.Module):
    """P_F(a|s), V(s, a) and V(s) read from a causal language model with a LoRA adapter.

    The policy head starts as the rows of the model's own output layer for ``action_tokens``: before training,
    P_F is the language model's next-token distribution over the actions' names, restricted and renormalised.
    With the adapter switched off and that first head, the same weights are the reference policy. The value
    heads start at log V = 0. Both heads sit on one model, as in AFlow (arXiv 2602.08826).

    Args:
        language_model: a causal language model wrapped by `peft.get_peft_model`; `with_lora` does it.
        action_tokens: for each action the token that names it.
        attention: how the model attends along packed prefixes; see `Attention`.

    Raises:
        ValueError: if two actions share a token, so that their names cannot be told apart; if the attention is unknown.
    """

    reference_head: Tensor

    def __init__(
        self, language_model: PeftModel, action_tokens: Sequence[int], *, attention: Attention = "sdpa"
    ) -> None:
        super().__init__()
        if len(set(action_tokens)) != len(action_tokens):
            raise ValueError(
                f"action_tokens must be distinct, got {list(action_tokens)}: "
                "name the actions so that their first tokens differ"
            )
        self.language_model = language_model
        self.action_tokens = tuple(action_tokens)
        self.attention: Attention = attention
        attend_along(self._causal_lm(), attention)
        output = self._causal_lm().get_output_embeddings().weight.detach()
        first_head = output[list(action_tokens)].float().clone()
        self.register_buffer("reference_head", first_head)
        self.policy_head = nn.Linear(first_head.shape[1], len(action_tokens))
        self.value_head = nn.Linear(first_head.shape[1], len(action_tokens) + 1)
        with torch.no_grad():
            self.policy_head.weight.copy_(first_head)
            for zero in (self.policy_head.bias, self.value_head.weight, self.value_head.bias):
                zero.zero_()
        self.to(first_head.device)

    @classmethod
    def with_lora(
        cls,
        language_model: PreTrainedModel,
        action_tokens: Sequence[int],
        *,
        rank: int = 32,
        alpha: int = 64,
        dropout: float = 0.0,
        attention: Attention = "sdpa",
    ) -> "LanguageModelPolicy":
        """Put a fresh LoRA adapter on all linear layers of ``language_model`` and build the policy on it.

        The adapter is put into ``language_model`` itself: give each policy its own copy.
        """
        config = LoraConfig(
            r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules="all-linear", task_type="CAUSAL_LM"
        )
        return cls(get_peft_model(language_model, config), action_tokens, attention=attention)

    @property
    def num_actions(self) -> int:
        """How many actions there are, A."""
        return len(self.action_tokens)

    def forward(self, packed: PackedPrefixes) -> PolicyOutput:
        """Read every state of ``packed`` in one pass of the language model."""
        state = self._states(packed)
        value = self.value_head(state)
        return PolicyOutput(
            log_policy=log_softmax(self.policy_head(state), dim=-1),
            log_value=value[:, :-1],
            log_state_value=value[:, -1],
        )

    @torch.no_grad()
    def log_reference(self, packed: PackedPrefixes) -> Float[Tensor, "reads actions"]:
        """Log-probabilities of the reference policy: the same weights, the adapter off, the first head."""
        with self.language_model.disable_adapter():
            return log_softmax(linear(self._states(packed), self.reference_head), dim=-1)

    def activation_checkpointing_enable(self, **settings: Any) -> None:
        """Compute each layer's activations anew in the backward pass: slower, in a fraction of the memory.

        `transformers.TrainingArguments` has a setting that calls it: ``activation_checkpointing``, in older versions
        ``gradient_checkpointing``.
        """
        self._causal_lm().activation_checkpointing_enable(**settings)

    def gradient_checkpointing_enable(self, **settings: Any) -> None:
        """The older name of `activation_checkpointing_enable`."""
        self._causal_lm().gradient_checkpointing_enable(**settings)

    def _causal_lm(self) -> Any:
        return self.language_model.get_base_model()

    def _states(self, packed: PackedPrefixes) -> Float[Tensor, "reads hidden"]:
        model = self._causal_lm()
        hidden: Tensor = model.get_decoder()(
            input_ids=packed.input_ids[None],
            position_ids=packed.position_ids[None],
            use_cache=False,
            **attention_arguments(packed, self.attention, model.dtype),
        ).last_hidden_state
        return hidden[0, packed.read_at].float()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the adapter, the heads (safetensors) and the settings; the base model is not copied."""
        folder = Path(folder)
        self.language_model.save_pretrained(str(folder), save_embedding_layers=False)
        save_file({name: tensor.contiguous() for name, tensor in self._heads().items()}, folder / _HEADS)
        (folder / _SETTINGS).write_text(json.dumps({"action_tokens": self.action_tokens}, indent=2) + "\n")

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        language_model: PreTrainedModel | None = None,
        *,
        attention: Attention = "sdpa",
    ) -> "LanguageModelPolicy":
        """Load what `save_pretrained` wrote.

        Args:
            folder: where it was written.
            language_model: the base model; without it the one that the adapter names is loaded.
            attention: how the model attends along packed prefixes; see `Attention`.

        Raises:
            FileNotFoundError: if ``folder`` holds no policy.
        """
        folder = Path(folder)
        if not (folder / _SETTINGS).is_file():
            raise FileNotFoundError(f"{folder} holds no policy ({_SETTINGS} is missing): train one first")
        settings: dict[str, Any] = json.loads((folder / _SETTINGS).read_text())
        if language_model is None:
            base = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
            language_model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        adapted = PeftModel.from_pretrained(language_model, str(folder), is_trainable=True)
        policy = cls(adapted, settings["action_tokens"], attention=attention)
        policy.load_weights(folder)
        return policy

    def load_weights(self, folder: str | Path) -> None:
        """Replace the adapter and the heads by those that `save_pretrained` wrote into ``folder``.

        Raises:
            ValueError: if the heads there are not this policy's.
        """
        heads = load_file(Path(folder) / _HEADS)
        if odd := sorted(heads.keys() ^ self._heads().keys()):
            raise ValueError(f"{Path(folder) / _HEADS} lacks or adds {', '.join(odd)}: train the policy anew")
        set_peft_model_state_dict(self.language_model, load_peft_weights(str(folder)))
        self.load_state_dict(heads, strict=False)

    def _heads(self) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in self.state_dict().items() if not name.startswith("language_model.")}
