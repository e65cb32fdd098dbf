"""Language models that exist already, by name."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from gflowdial.dialogue.local.smollm2 import load_smollm2


class ModelError(ValueError):
    """A language model that cannot be loaded; the message names the setting, the reason and the way out."""


def load_language_model(
    name: str, *, device: str = "cpu", dtype: str = "float32", setting: str = "model"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A fresh causal language model and its tokenizer.

    What is on this machine is taken first; code that comes with a model is never run.

    Args:
        name: ``"smollm2"``, a folder that `transformers` can load, or the id of a model on the hub.
        device: where the model goes, as PyTorch names it.
        dtype: of its weights, as PyTorch names it, or ``"auto"`` for the one that they were saved in.
        setting: what messages call the setting that gave ``name``.

    Raises:
        ModelError: there is no such model, device or dtype.
        MissingModelError: SmolLM2's weights are not installed.
    """
    if dtype != "auto" and not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise ModelError(f"{setting}: dtype is {dtype!r}: give 'auto', 'float32', 'bfloat16' or 'float16'")
    model: Any
    if name == "smollm2":
        model, tokenizer = load_smollm2()
        model = model if dtype == "auto" else model.to(getattr(torch, dtype))
    else:
        model, tokenizer = _load(name, dtype, setting)
    try:
        return model.to(device), tokenizer
    except (RuntimeError, AssertionError) as error:
        raise ModelError(
            f"{setting}: device {device!r} cannot be used ({error}): give 'cpu' or one that is here"
        ) from error


def _load(name: str, dtype: str, setting: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    for here in (True,) if Path(name).is_dir() else (True, False):
        try:
            return (
                AutoModelForCausalLM.from_pretrained(name, dtype=dtype, local_files_only=here, trust_remote_code=False),
                AutoTokenizer.from_pretrained(name, local_files_only=here, trust_remote_code=False),
            )
        except (OSError, ValueError):
            pass
    if Path(name).is_dir():
        raise ModelError(f"{setting}: {name} holds no language model and tokenizer that transformers can load")
    raise ModelError(f"{setting}: no language model {name!r}: give 'smollm2', a folder that holds one, or a hub id")
