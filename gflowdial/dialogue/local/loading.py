"""Language models that exist already, by name."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from gflowdial.dialogue.local.smollm2 import smollm2_folder


class ModelError(ValueError):
    """A language model that cannot be loaded; the message names it, the reason and the way out."""


def load_language_model(
    name: str, *, device: str | torch.device = "cpu", dtype: str = "float32"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A fresh causal language model, in evaluation mode and with trainable weights, and its tokenizer.

    What is on this machine is taken first; code that comes with a model is never run.

    Args:
        name: ``"smollm2"``, a folder that `transformers` can load, or the id of a model on the hub.
        device: where the model goes.
        dtype: of its weights, as PyTorch names it, or ``"auto"`` for the one that they were saved in.

    Raises:
        ModelError: there is no such model, device or dtype.
        MissingModelError: SmolLM2's weights are not installed.
    """
    if dtype != "auto" and not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise ModelError(f"dtype is {dtype!r}: give 'auto', 'float32', 'bfloat16' or 'float16'")
    source = str(smollm2_folder()) if name == "smollm2" else name
    found = _load(source, dtype, local_files_only=True) or _load(source, dtype)
    if found is None:
        if Path(source).is_dir():
            raise ModelError(f"{name} holds no language model and tokenizer that transformers can load")
        raise ModelError(f"no language model {name!r}: give 'smollm2', a folder that holds one, or a hub id")
    try:
        return found[0].to(device), found[1]
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"device is {str(device)!r}, which cannot be used: give one that is here ({error})") from error


def _load(source: str, dtype: str, **options: Any) -> tuple[Any, Any] | None:
    try:
        model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, trust_remote_code=False, **options)
        return model, AutoTokenizer.from_pretrained(source, trust_remote_code=False, **options)
    except (OSError, ValueError):
        return None
