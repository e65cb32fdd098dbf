"""The language models that policies stand on: one trained here from scratch, or one that exists already."""

import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    PrinterCallback,
    Trainer,
    TrainingArguments,
    set_seed,
)

from gflowdial.dialogue.config import ComputeConfig, ConfigError
from gflowdial.dialogue.local import ModelError, load_language_model
from gflowdial.dialogue.model_config import PretrainedModelConfig, TinyModelConfig


def device_of(compute: ComputeConfig) -> torch.device:
    """Where language models are.

    Raises:
        ConfigError: there is no such device here.
    """
    name = compute.device
    device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"compute.device: {name!r} cannot be used here ({reason}); choose 'cpu' or 'auto'") from None
    return device


def language_model(name: str, key: str, compute: ComputeConfig) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A fresh causal language model and its tokenizer, on the device and in the dtype that ``compute`` names.

    Raises:
        ConfigError: there is no such model; the message names the setting ``key``.
    """
    try:
        return load_language_model(name, device=str(device_of(compute)), dtype=compute.dtype)
    except ModelError as error:
        raise ConfigError(f"{key}: {error}") from None


def load_tokenizer(
    config: TinyModelConfig | PretrainedModelConfig, own: Path, compute: ComputeConfig
) -> PreTrainedTokenizerBase:
    """The tokenizer that goes with a run's language model; ``own`` is that of a model trained from scratch."""
    return _load_tokenizer(config.name if config.kind == "pretrained" else own.resolve(), compute)


@cache
def _load_tokenizer(source: str | Path, compute: ComputeConfig) -> PreTrainedTokenizerBase:
    if isinstance(source, str):
        return language_model(source, "model.name", compute)[1]
    return AutoTokenizer.from_pretrained(source)


def train_tokenizer(
    texts: Iterable[str], words: Iterable[str] = (), vocabulary_size: int = 2048
) -> PreTrainedTokenizerFast:
    """A byte-level BPE, so that every text has tokens.

    It merges across words, so that set phrases are a few tokens, but not across numbers and the given words: a phrase
    with another number or word in it has the same tokens around that.
    """
    tokenizer = Tokenizer(models.BPE())
    apart = "|".join([r"\d+", *(rf"\b{re.escape(word)}\b" for word in sorted(words))])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(apart), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<pad>", "<end>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast: PreTrainedTokenizerFast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>"
    )
    return fast


def train_tiny(
    config: TinyModelConfig,
    tokenizer: PreTrainedTokenizerBase,
    transcripts: Sequence[Sequence[int]],
    seed: int,
    folder: Path,
    device: torch.device,
) -> None:
    """Train a small Llama from scratch to continue ``transcripts``, and save it with its tokenizer to ``folder``."""
    set_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            intermediate_size=4 * config.hidden_size,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.heads,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
        )
    )
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=10,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        seed=seed,
        use_cpu=device.type == "cpu",
    )
    rows: Any = [{"input_ids": list(transcript)} for transcript in transcripts]
    trainer = Trainer(model=model, args=arguments, train_dataset=rows, data_collator=_pad)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _pad(rows: Sequence[dict[str, list[int]]]) -> dict[str, Tensor]:
    length = max(len(row["input_ids"]) for row in rows)
    input_ids = torch.zeros(len(rows), length, dtype=torch.int64)
    labels = torch.full_like(input_ids, -100)
    for index, row in enumerate(rows):
        ids = torch.tensor(row["input_ids"])
        input_ids[index, : len(ids)] = ids
        labels[index, : len(ids)] = ids
    return {"input_ids": input_ids, "labels": labels, "attention_mask": (labels >= 0).long()}
