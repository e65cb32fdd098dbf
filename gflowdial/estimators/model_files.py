"""A policy's language model on disk: its adapters or its weights, and its base. Needs the extra ``lm``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

try:
    from peft import PeftModel, load_peft_weights, set_peft_model_state_dict
    from transformers import AutoModelForCausalLM, PreTrainedModel
except ImportError as error:
    raise ImportError("the files of a language model need the extra `lm`: pip install 'gflowdial[lm]'") from error

__all__ = ["load_model", "load_model_weights", "load_with_adapters", "save_model"]

_BASE = "base"
_MODEL = "model"
_DEFAULT = "default"


def save_model(model: Any, before: Any, adapters: Sequence[str], folder: Path, *, with_base: bool) -> str:
    """Write a model's adapters or weights, and return what the base model is loaded from.

    Args:
        model: with adapters, or trained in full.
        before: the base model as it is before training; None: it is not known any more.
        adapters: which adapters are written; none for a model trained in full.
        folder: where to.
        with_base: write the base model too.
    """
    base: str = _MODEL if before is None else before.name_or_path
    if before is not None and base and Path(base).is_dir():
        base = _BASE if Path(base).resolve() == (folder / _BASE).resolve() else str(Path(base).resolve())
    if before is not None and with_base and base != _BASE:
        # An adapter's layers wrap those of the base model, whose names then have a further part.
        state = {key.replace(".base_layer", ""): w for key, w in before.state_dict().items() if "lora_" not in key}
        before.save_pretrained(folder / _BASE, state_dict=state)
        base = _BASE
    if adapters:
        for adapter in adapters:
            model.peft_config[adapter].base_model_name_or_path = base
        model.save_pretrained(str(folder), selected_adapters=list(adapters), save_embedding_layers=False)
    else:
        model.save_pretrained(folder / _MODEL)
    return base


def load_model(folder: Path, base: str, dtype: Literal["auto"] | torch.dtype) -> PreTrainedModel:
    """The model that a policy in ``folder`` starts from; no code that comes with it is run."""
    return _load(folder / base if base in (_BASE, _MODEL) else base, dtype)


def load_with_adapters(model: PreTrainedModel, adapters: Sequence[str], folder: Path) -> Any:
    """``model`` with the adapters in ``folder``, of which the first is in use and trained."""
    first, *others = adapters
    adapted = PeftModel.from_pretrained(model, str(_of(folder, first)), adapter_name=first, is_trainable=True)
    for other in others:
        adapted.load_adapter(str(_of(folder, other)), other)
    return adapted


def load_model_weights(model: Any, adapters: Sequence[str], folder: Path) -> None:
    """Replace the weights of a model's adapters, or all its weights, by those in ``folder``."""
    for adapter in adapters:
        set_peft_model_state_dict(model, load_peft_weights(str(_of(folder, adapter))), adapter_name=adapter)
    if not adapters:
        model.load_state_dict(_load(folder / _MODEL, model.dtype).state_dict())


def _of(folder: Path, adapter: str) -> Path:
    """Where peft writes an adapter."""
    return folder if adapter == _DEFAULT else folder / adapter


def _load(source: str | Path, dtype: Literal["auto"] | torch.dtype) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(source, dtype=dtype, trust_remote_code=False)
