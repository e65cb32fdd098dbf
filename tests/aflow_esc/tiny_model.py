"""A random language model of two thin layers, and a byte-level tokenizer that knows the inventories' words."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from examples.aflow_esc.strategies import AFLOW, ESCONV

TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
WORDS = [strategy.name + " " + strategy.definition for strategy in (*AFLOW.strategies, *ESCONV.strategies)]


def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer whose merges cover the inventories' words."""
    bare = Tokenizer(models.BPE())
    split = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    bare.pre_tokenizer = pre_tokenizers.Sequence(split)
    bare.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=["<end>"], initial_alphabet=sorted(alphabet), show_progress=False
    )
    answers = ["This person is grateful angry worried", "Strategy:", "Empathy: Information: Naturalness:"]
    bare.train_from_iterator([f" {text} {text}" for text in (*WORDS, *answers)] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bare, eos_token="<end>", chat_template=TEMPLATE)


def tiny_model() -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """The same weights at every call."""
    torch.manual_seed(0)
    words = tokenizer()
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config), words
