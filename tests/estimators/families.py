"""Small random models of every causal family that transformers has, and what each says of a prefix alone."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

FAMILIES = tuple(sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
SIZES = {
    **{"vocab_size": 50, "vocab_size_per_layer_input": 50, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "word_embed_proj_dim"), 16),
    **dict.fromkeys(("intermediate_size", "ffn_dim"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 4),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "attention_heads"), 4),
    **dict.fromkeys(("head_dim", "rotary_dim", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"), 4),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "hidden_size_per_layer_input"), 8),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 64),
    # Shorter than most prefixes of the tree below.
    **{"sliding_window": 4, "attention_chunk_size": 4},
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(
        ("moe_intermediate_size", "shared_expert_intermediate_size", "moe_shared_expert_intermediate_size"), 8
    ),
    **{"num_experts_per_tok": 2, "n_shared_experts": 1, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1},
    **{"num_key_value_heads": 2, "initializer_range": 0.2},
}
OTHERWISE: tuple[dict[str, Any], ...] = ({}, {"num_key_value_heads": 4}, {"attention_chunk_size": None})
"""What is set otherwise where a family cannot be built with the sizes above."""

PARENT = [-1, 0, 0, 1, 1, 2, 3, 6]
TOKENS = [[11, 12, 13, 14, 15], [14, 15, 16], [16], [17, 18, 19], [20], [21, 22], [23], [5, 6, 7, 8, 9, 33, 34]]
BRANCH, NAMES = [5, 9], [7, 3, 11, 40, 21]


def build(family: str, **changes: Any) -> PreTrainedModel | None:
    """A model with noise on all weights, biases and sinks; None where it has more than three million or cannot run."""
    for otherwise in OTHERWISE:
        sizes = {key: size for key, size in {**SIZES, **otherwise, **changes}.items() if size is not None}
        try:
            config = AutoConfig.for_model(family, **sizes).get_text_config()
            with torch.device("meta"):
                weights = sum(weight.numel() for weight in AutoModelForCausalLM.from_config(config).parameters())
            if weights > 3_000_000:
                continue
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(config).eval()
            with torch.no_grad():
                for weight in model.parameters():
                    weight += 0.05 * torch.randn_like(weight)
                model(input_ids=torch.tensor([[1, 2, 3]]), use_cache=False)
        except Exception:  # Whatever keeps a family from being built or run.
            continue
        return model
    return None


def prefix(node: int) -> list[int]:
    return (prefix(PARENT[node]) if PARENT[node] >= 0 else []) + TOKENS[node]


@torch.no_grad()
def alone(model: Any, names: Sequence[int] = NAMES) -> Tensor:
    """log P of each name behind each prefix, by the model's own forward pass over that prefix."""
    prefixes = [torch.tensor([prefix(node) + BRANCH]) for node in range(len(PARENT))]
    rows = [model(input_ids=ids, use_cache=False).logits[0, -1, list(names)].float() for ids in prefixes]
    return torch.stack(rows).log_softmax(-1)
