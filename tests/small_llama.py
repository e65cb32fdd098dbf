"""A small random Llama."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM


def small_llama(seed: int) -> LlamaForCausalLM:
    """A fresh Llama with 50 tokens; weights are large, so that its answer depends on its input."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=50,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            initializer_range=0.3,
            pad_token_id=0,
        )
    ).eval()
