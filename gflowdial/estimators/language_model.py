"""A policy and its flows on one causal language model. Needs the extra ``lm``."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.functional import linear

from gflowdial.estimators.adapters import active_adapter, add_frozen_copy, using_adapter
from gflowdial.estimators.condition import Conditioned
from gflowdial.estimators.exactness import evaluating, exact_way
from gflowdial.estimators.model_files import load_model, load_model_weights, load_with_adapters, save_model
from gflowdial.estimators.name_trie import NameTrie
from gflowdial.estimators.output_layer import OutputLayer
from gflowdial.estimators.packing import Attention, PackedPrefixes
from gflowdial.estimators.tree_attention import read_packed, softly_capped
from gflowdial.shapes import Float, Tensor

try:
    from peft import LoraConfig, PeftModel, get_peft_model
    from safetensors.torch import load_file, save_file
    from transformers import PreTrainedModel
except ImportError as error:
    raise ImportError("the language-model policy needs the extra `lm`: pip install 'gflowdial[lm]'") from error

__all__ = ["LanguageModelPolicy", "PolicyOutput"]

_HEADS = "heads.safetensors"
_SETTINGS = "policy.json"
_BASE = "base"
_INITIAL = "initial"
_DEFAULT = "default"

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
    softmax over what may follow there. The policy head starts as the model's own output layer for these tokens, with
    its bias, scale and softcap: before training, P_F is the language model's distribution over the actions' names,
    restricted and renormalised at each branching. The value heads start at log V = 0. Both heads sit on one model, as
    in AFlow (arXiv 2602.08826).

    One small random tree is read when the policy is built, packed and each of its prefixes alone, and a model that
    reads them differently is refused. Outside the policy, the model's own forward pass and ``generate`` are unchanged.

    Args:
        language_model: a causal language model wrapped by `peft.get_peft_model`, which `with_lora` does, or a plain
            one, all of whose weights are trained.
        names: for each action the token or tokens that name it; none may begin another.
        attention: how the model attends along packed prefixes; see `Attention`.
        reference: which policy is the reference: ``"base"``, the model without its adapter; ``"initial"``, a frozen
            copy of what is handed in, the adapter or the plain model; or the name of another adapter of the model.
            None: ``"base"`` where there is an adapter, and no reference for a plain model.
        conditions: how many numbers a condition has, such as a temperature and weights, that the policy depends on; 0:
            it depends on none. The heads then read the state at the condition; see `Conditioned`.

    Attributes:
        names: the tokens of each name.
        continuations: what `pack_prefixes` has to read behind the branch: the tokens before each further branching of
            the names; none if their first tokens differ.

    Raises:
        ValueError: if a name is empty or begins another one; if the attention or the reference is unknown; if the
            model reads packed prefixes otherwise than alone, or makes its logits in a way that the heads do not.
    """

    reference_head: Tensor
    reference_bias: Tensor

    def __init__(
        self,
        language_model: PeftModel | PreTrainedModel,
        names: Names,
        *,
        attention: Attention = "sdpa",
        reference: str | None = None,
        conditions: int = 0,
    ) -> None:
        super().__init__()
        self.names = tuple(tuple(name) if isinstance(name, Sequence) else (int(name),) for name in names)
        self._trie = NameTrie.of(self.names)
        self.continuations = self._trie.shared[1:]
        self.language_model: Any = language_model
        self.attention: Attention = attention
        with evaluating(self.language_model):
            self._way = exact_way(self._causal_lm(), attention)
            tokens = [token for tokens in self._trie.options for token in tokens]
            first = OutputLayer.of(self._causal_lm(), tokens)
            self._keep_reference(reference)
            with self._as_reference() as model:
                known = first if model is None else OutputLayer.of(model, tokens)
        self._softcap = first.softcap
        self.register_buffer("reference_head", known.weight.clone())
        # Written to the heads' file only where there is one, as most output layers have none.
        self.register_buffer("reference_bias", known.bias.clone(), persistent=bool(known.bias.any()))
        self.policy_head = nn.Linear(first.weight.shape[1], len(first.weight))
        self.value_head = nn.Linear(first.weight.shape[1], len(self.names) + 1)
        with torch.no_grad():
            self.policy_head.weight.copy_(first.weight)
            self.policy_head.bias.copy_(first.bias)
            for zero in (self.value_head.weight, self.value_head.bias):
                zero.zero_()
        # Last, so that the other heads do not depend on it.
        self.conditioned = Conditioned(first.weight.shape[1], conditions) if conditions else None
        self.to(first.weight.device)

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
        # The heads are small, and differences of log-probabilities need their precision.
        with torch.autocast(states.device.type, enabled=False):
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
        """Log-probabilities of the reference policy: its weights, and the output layer that they came with.

        Raises:
            ValueError: if the policy has neither an adapter nor a copy of its first weights.
        """
        with self._as_reference() as model:
            if model is None:
                raise ValueError('this policy keeps no reference: build it with `reference="initial"`')
            states = self._states(model, packed)
        with torch.autocast(states.device.type, enabled=False):
            return self._log_policy(states, self.reference_head, self.reference_bias)

    @contextmanager
    def lent(self) -> Iterator[Any]:
        """The language model as it was before the policy took it, for as long as the context lasts.

        The adapter is off, so that one copy in memory writes replies too.
        """
        if isinstance(self.language_model, PeftModel):
            with using_adapter(self.language_model, None):
                yield self._causal_lm()
        else:
            yield self._causal_lm()

    def _keep_reference(self, reference: str | None) -> None:
        """Make what `_as_reference` gives: a copy of the model, or the model with an adapter or without."""
        model, self.reference_model, self._reference_adapter = self.language_model, None, None
        if not isinstance(model, PeftModel):
            if reference not in (None, _BASE, _INITIAL):
                raise ValueError(f"the reference is {reference!r}, and the model has no adapters: give {_INITIAL!r}")
            self.reference_model = None if reference is None else deepcopy(model).requires_grad_(False)
        elif reference == _INITIAL and reference not in model.peft_config:
            add_frozen_copy(model, _INITIAL)
            self._reference_adapter = _INITIAL
        elif reference not in (None, _BASE):
            if reference not in model.peft_config:
                known = ", ".join(map(repr, (_BASE, _INITIAL, *model.peft_config)))
                raise ValueError(f"the reference is {reference!r}: choose one of {known}")
            self._reference_adapter = reference

    @contextmanager
    def _as_reference(self) -> Iterator[Any]:
        if isinstance(self.language_model, PeftModel):
            with using_adapter(self.language_model, self._reference_adapter):
                yield self._causal_lm()
        else:
            yield self.reference_model

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
        return read_packed(model, packed, self._way)[0]

    def _log_policy(
        self, states: Float[Tensor, "reads branchings hidden"], weight: Tensor, bias: Tensor
    ) -> Float[Tensor, "reads actions"]:
        # A branching's options are neighbouring rows of the head.
        sizes = [len(tokens) for tokens in self._trie.options]
        rows = zip(torch.split(weight, sizes), torch.split(bias, sizes), strict=True)
        logits = [linear(states[:, at], w, b) for at, (w, b) in enumerate(rows)]
        return self._trie.log_probs([softly_capped(each, self._softcap) for each in logits])

    def save_pretrained(self, folder: str | Path, *, with_base: bool = False) -> None:
        """Write the adapter or the trained model, the heads (safetensors) and the settings.

        The base model, as it is before training, is referred to by its id or by the absolute path of its folder.

        Args:
            folder: where to.
            with_base: write the base model into ``folder`` too, so that it can be moved.
        """
        folder, model = Path(folder), self.language_model
        before = model.get_base_model() if self._adapters() else self.reference_model
        base = save_model(model, before, self._adapters(), folder, with_base=with_base)
        save_file({name: tensor.contiguous() for name, tensor in self._heads().items()}, folder / _HEADS)
        settings = {"names": self.names, "base": base, "adapters": self._adapters(), "conditions": self.conditions}
        settings["reference"] = self._reference_adapter if self.reference_model is None else _INITIAL
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
        # Folders of earlier versions have one adapter or none, and say whether a copy of the model is the reference.
        single = folder / "adapter_config.json"
        adapters = settings.get("adapters", [_DEFAULT] if single.is_file() else [])
        if language_model is None:
            base = settings.get("base") or json.loads(single.read_text())["base_model_name_or_path"]
            if not base:
                raise ValueError(f"the policy in {folder} names no base model: hand it in as `language_model`")
            language_model = load_model(folder, base, dtype)
        model = load_with_adapters(language_model, adapters, folder) if adapters else language_model
        reference = settings.get("reference") or None
        names = settings["names"] if "names" in settings else settings["action_tokens"]
        kept = {"reference": _INITIAL if reference is True else reference, "conditions": settings.get("conditions", 0)}
        policy = cls(model, names, attention=attention, **kept)
        policy.load_weights(folder)
        return policy.to(device)

    def load_weights(self, folder: str | Path) -> None:
        """Replace the adapters, or the trained model, and the heads by those that `save_pretrained` wrote.

        Raises:
            ValueError: if the heads there are not this policy's.
        """
        folder = Path(folder)
        heads = load_file(folder / _HEADS)
        if odd := sorted(heads.keys() ^ self._heads().keys()):
            raise ValueError(f"{folder / _HEADS} lacks or adds {', '.join(odd)}: train the policy anew")
        load_model_weights(self.language_model, self._adapters(), folder)
        self.load_state_dict(heads, strict=False)

    def _adapters(self) -> list[str]:
        """The policy's adapter, then the reference's; none for a model trained in full."""
        if not isinstance(self.language_model, PeftModel):
            return []
        names = (active_adapter(self.language_model), self._reference_adapter)
        return list(dict.fromkeys(name for name in names if name is not None))

    def _heads(self) -> dict[str, Tensor]:
        models = ("language_model.", "reference_model.")
        return {name: tensor for name, tensor in self.state_dict().items() if not name.startswith(models)}
