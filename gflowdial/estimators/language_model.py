"""A policy and its flows on one causal language model. Needs the extra ``lm``."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.functional import linear

from gflowdial.estimators.condition import Conditioned
from gflowdial.estimators.name_trie import NameTrie
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
_BASE = "base"
_MODEL = "model"

Names = Sequence[int] | Sequence[Sequence[int]]
"""For each action the token that names it, or the tokens that do."""


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
    """P_F(a|s), V(s, a) and V(s) read from a causal language model, with a LoRA adapter or trained in full.

    The names of the actions form a trie, and P_F(a|s) is the product, over the branchings on the way of a's name, of a
    softmax over what may follow there. The policy head starts as the rows of the model's own output layer for these
    tokens: before training, P_F is the language model's distribution over the actions' names, restricted and
    renormalised at each branching. With the adapter switched off and that first head, the same weights are the
    reference policy. The value heads start at log V = 0. Both heads sit on one model, as in AFlow (arXiv 2602.08826).

    Args:
        language_model: a causal language model wrapped by `peft.get_peft_model`, which `with_lora` does, or a plain
            one, all of whose weights are trained.
        names: for each action the token or tokens that name it; none may begin another.
        attention: how the model attends along packed prefixes; see `Attention`.
        reference: whether a frozen copy of a plain model is kept as the reference policy; a model with an adapter is
            its own reference.
        conditions: how many numbers a condition has, such as a temperature and weights, that the policy depends on; 0:
            it depends on none. The heads then read the state at the condition; see `Conditioned`.

    Attributes:
        names: the tokens of each name.
        continuations: what `pack_prefixes` has to read behind the branch: the tokens before each further branching of
            the names; none if their first tokens differ.

    Raises:
        ValueError: if a name is empty or begins another one; if the attention is unknown.
    """

    reference_head: Tensor

    def __init__(
        self,
        language_model: PeftModel | PreTrainedModel,
        names: Names,
        *,
        attention: Attention = "sdpa",
        reference: bool = False,
        conditions: int = 0,
    ) -> None:
        super().__init__()
        self.names = tuple(tuple(name) if isinstance(name, Sequence) else (int(name),) for name in names)
        self._trie = NameTrie.of(self.names)
        self.continuations = self._trie.shared[1:]
        self.language_model: Any = language_model
        self.attention: Attention = attention
        self._own_attention: str = self._causal_lm().config._attn_implementation
        attend_along(self._causal_lm(), attention)
        copied = reference and not isinstance(language_model, PeftModel)
        self.reference_model = deepcopy(language_model).requires_grad_(False) if copied else None
        output = self._causal_lm().get_output_embeddings().weight.detach()
        first_head = output[[token for tokens in self._trie.options for token in tokens]].float().clone()
        self.register_buffer("reference_head", first_head)
        self.policy_head = nn.Linear(first_head.shape[1], len(first_head))
        self.value_head = nn.Linear(first_head.shape[1], len(self.names) + 1)
        with torch.no_grad():
            self.policy_head.weight.copy_(first_head)
            for zero in (self.policy_head.bias, self.value_head.weight, self.value_head.bias):
                zero.zero_()
        # Last, so that the other heads do not depend on it.
        self.conditioned = Conditioned(first_head.shape[1], conditions) if conditions else None
        self.to(first_head.device)

    @classmethod
    def with_lora(
        cls,
        language_model: PreTrainedModel,
        names: Names,
        *,
        rank: int = 32,
        alpha: int = 64,
        dropout: float = 0.0,
        attention: Attention = "sdpa",
        conditions: int = 0,
    ) -> "LanguageModelPolicy":
        """Put a fresh LoRA adapter on all linear layers of ``language_model`` and build the policy on it.

        The adapter is put into ``language_model`` itself: give each policy its own copy.
        """
        config = LoraConfig(
            r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules="all-linear", task_type="CAUSAL_LM"
        )
        return cls(get_peft_model(language_model, config), names, attention=attention, conditions=conditions)

    @property
    def num_actions(self) -> int:
        """How many actions there are, A."""
        return len(self.names)

    @property
    def conditions(self) -> int:
        """How many numbers a condition of the policy has; 0 if it depends on none."""
        return 0 if self.conditioned is None else self.conditioned.conditions

    def forward(
        self, packed: PackedPrefixes, condition: Float[Tensor, "reads conditions"] | None = None
    ) -> PolicyOutput:
        """Read every state of ``packed`` in one pass of the language model.

        A state is read at several conditions in one pass where ``packed.select`` repeats it.

        Args:
            packed: the states.
            condition: at which condition each state is read, for a policy that depends on one.

        Raises:
            ValueError: if ``packed`` lacks the policy's continuations, or the condition does not fit the policy.
        """
        if (condition is None) != (self.conditioned is None):
            raise ValueError(
                f"the policy depends on a condition of {self.conditions} numbers, and none is given: give one per read"
                if condition is None
                else "the policy depends on no condition, and one is given: build it with `conditions`"
            )
        states = self._states(self._causal_lm(), packed)
        if self.conditioned is not None and condition is not None:
            states = self.conditioned(states, condition)
        value = self.value_head(states[:, 0])
        return PolicyOutput(
            log_policy=self._log_policy(states, self.policy_head.weight, self.policy_head.bias),
            log_value=value[:, :-1],
            log_state_value=value[:, -1],
        )

    @torch.no_grad()
    def log_reference(self, packed: PackedPrefixes) -> Float[Tensor, "reads actions"]:
        """Log-probabilities of the reference policy: the weights before training and the first head.

        Raises:
            ValueError: if the policy has neither an adapter nor a copy of its first weights.
        """
        adapted = isinstance(self.language_model, PeftModel)
        if not adapted and self.reference_model is None:
            raise ValueError("this policy keeps no reference: build it with `reference=True`, or with an adapter")
        with self.language_model.disable_adapter() if adapted else nullcontext():
            states = self._states(self._causal_lm() if adapted else self.reference_model, packed)
        return self._log_policy(states, self.reference_head, None)

    @contextmanager
    def lent(self) -> Iterator[Any]:
        """The language model as it was before the policy took it, for as long as the context lasts.

        The adapter is off and the attention is the model's own, so that one copy in memory writes replies too.
        """
        model = self._causal_lm()
        with self.language_model.disable_adapter() if isinstance(self.language_model, PeftModel) else nullcontext():
            model.set_attn_implementation(self._own_attention)
            try:
                yield model
            finally:
                attend_along(model, self.attention)

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: dict[str, Any] | None = None, **settings: Any
    ) -> None:
        """Compute each layer's activations anew in the backward pass: slower, in a fraction of the memory.

        `transformers.TrainingArguments` has a setting that calls it: ``activation_checkpointing``, in older versions
        ``gradient_checkpointing``.

        Args:
            activation_checkpointing_kwargs: of `torch.utils.checkpoint.checkpoint`; by default it is not reentrant, as
                an adapter on frozen embeddings has no gradient otherwise.
            settings: further ones of the language model's own method.
        """
        model = self._causal_lm()
        # Older versions of transformers, 5.17 among them, have the older name alone.
        newer = getattr(model, "activation_checkpointing_enable", None)
        (newer or model.gradient_checkpointing_enable)(
            activation_checkpointing_kwargs or {"use_reentrant": False}, **settings
        )

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: dict[str, Any] | None = None, **settings: Any
    ) -> None:
        """The older name of `activation_checkpointing_enable`."""
        self.activation_checkpointing_enable(gradient_checkpointing_kwargs, **settings)

    def _causal_lm(self) -> Any:
        model = self.language_model
        return model.get_base_model() if isinstance(model, PeftModel) else model

    def _states(self, model: Any, packed: PackedPrefixes) -> Float[Tensor, "reads branchings hidden"]:
        if packed.continued_at.shape[1] != len(self.continuations):
            raise ValueError(
                f"the prefixes are packed with {packed.continued_at.shape[1]} continuations, and the policy's names "
                f"need {len(self.continuations)}: hand its `continuations` to `pack_prefixes`"
            )
        hidden: Tensor = model.get_decoder()(
            input_ids=packed.input_ids[None],
            position_ids=packed.position_ids[None],
            use_cache=False,
            **attention_arguments(packed, self.attention, model.dtype),
        ).last_hidden_state
        return hidden[0, torch.cat([packed.read_at[:, None], packed.continued_at], dim=1)].float()

    def _log_policy(
        self, states: Float[Tensor, "reads branchings hidden"], weight: Tensor, bias: Tensor | None
    ) -> Float[Tensor, "reads actions"]:
        # A branching's options are neighbouring rows of the head.
        sizes = [len(tokens) for tokens in self._trie.options]
        weights = torch.split(weight, sizes)
        biases = [None] * len(sizes) if bias is None else torch.split(bias, sizes)
        rows = zip(weights, biases, strict=True)
        return self._trie.log_probs([linear(states[:, at], w, b) for at, (w, b) in enumerate(rows)])

    def save_pretrained(self, folder: str | Path, *, with_base: bool = False) -> None:
        """Write the adapter or the trained model, the heads (safetensors) and the settings.

        The base model, as it is before training, is referred to by its id or by the absolute path of its folder.

        Args:
            folder: where to.
            with_base: write the base model into ``folder`` too, so that it can be moved.
        """
        folder, model = Path(folder), self.language_model
        adapted = isinstance(model, PeftModel)
        before: Any = model.get_base_model() if adapted else self.reference_model
        base = _MODEL if before is None else before.name_or_path
        if before is not None and base and Path(base).is_dir():
            base = _BASE if Path(base).resolve() == (folder / _BASE).resolve() else str(Path(base).resolve())
        if before is not None and with_base and base != _BASE:
            # An adapter's layers wrap those of the base model, whose names then have a further part.
            state = {key.replace(".base_layer", ""): w for key, w in before.state_dict().items() if "lora_" not in key}
            before.save_pretrained(folder / _BASE, state_dict=state)
            base = _BASE
        if adapted:
            model.peft_config[model.active_adapter].base_model_name_or_path = base
            model.save_pretrained(str(folder), save_embedding_layers=False)
        else:
            model.save_pretrained(folder / _MODEL)
        save_file({name: tensor.contiguous() for name, tensor in self._heads().items()}, folder / _HEADS)
        settings = {"names": self.names, "base": base, "reference": self.reference_model is not None}
        settings["conditions"] = self.conditions
        (folder / _SETTINGS).write_text(json.dumps(settings, indent=2) + "\n")

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        language_model: PreTrainedModel | None = None,
        *,
        attention: Attention = "sdpa",
        dtype: Literal["auto"] | torch.dtype = torch.float32,
        device: str | torch.device | None = None,
    ) -> "LanguageModelPolicy":
        """Load what `save_pretrained` wrote; no code that comes with a model is run.

        Args:
            folder: where it was written.
            language_model: the base model; without it the one that the policy was saved with or refers to is loaded.
            attention: how the model attends along packed prefixes; see `Attention`.
            dtype: of the base model that is loaded; ``"auto"`` is the one that it was saved in. The heads are float32.
            device: where the policy goes; None: it stays where the base model is.

        Raises:
            FileNotFoundError: if ``folder`` holds no policy.
            ValueError: if the policy names no base model and none is given.
        """
        folder = Path(folder)
        if not (folder / _SETTINGS).is_file():
            raise FileNotFoundError(f"{folder} holds no policy ({_SETTINGS} is missing): train one first")
        settings: dict[str, Any] = json.loads((folder / _SETTINGS).read_text())
        adapter = folder / "adapter_config.json"
        if language_model is None:
            base = settings.get("base") or json.loads(adapter.read_text())["base_model_name_or_path"]
            if not base:
                raise ValueError(f"the policy in {folder} names no base model: hand it in as `language_model`")
            language_model = _load(folder / base if base in (_BASE, _MODEL) else base, dtype)
        model: Any = language_model
        if adapter.is_file():
            model = PeftModel.from_pretrained(model, str(folder), is_trainable=True)
        names = settings["names"] if "names" in settings else settings["action_tokens"]
        kept = {"reference": settings.get("reference", False), "conditions": settings.get("conditions", 0)}
        policy = cls(model, names, attention=attention, **kept)
        policy.load_weights(folder)
        return policy.to(device)

    def load_weights(self, folder: str | Path) -> None:
        """Replace the adapter, or the trained model, and the heads by those that `save_pretrained` wrote.

        Raises:
            ValueError: if the heads there are not this policy's.
        """
        folder, model = Path(folder), self.language_model
        heads = load_file(folder / _HEADS)
        if odd := sorted(heads.keys() ^ self._heads().keys()):
            raise ValueError(f"{folder / _HEADS} lacks or adds {', '.join(odd)}: train the policy anew")
        if isinstance(model, PeftModel):
            set_peft_model_state_dict(model, load_peft_weights(str(folder)))
        else:
            model.load_state_dict(_load(folder / _MODEL, model.dtype).state_dict())
        self.load_state_dict(heads, strict=False)

    def _heads(self) -> dict[str, Tensor]:
        models = ("language_model.", "reference_model.")
        return {name: tensor for name, tensor in self.state_dict().items() if not name.startswith(models)}


def _load(source: str | Path, dtype: Literal["auto"] | torch.dtype) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(source, dtype=dtype, trust_remote_code=False)
