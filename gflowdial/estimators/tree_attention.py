"""Attention along packed prefixes, for transformers' language models. Needs the extra ``lm``.

Most pairs of tokens in a packed forest do not see each other. A mask over all pairs would compute them nonetheless;
both ways here leave out whole blocks of them, and give the same result up to rounding.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from torch.nn.functional import scaled_dot_product_attention

from gflowdial.estimators.packing import Attention, PackedPrefixes
from gflowdial.shapes import Float, Int, Tensor

try:
    from transformers import AttentionInterface, PreTrainedModel
except ImportError as error:
    raise ImportError("attention along prefixes needs the extra `lm`: pip install 'gflowdial[lm]'") from error

__all__ = ["attend_along", "attention_arguments"]

_NAMES = {"sdpa": "gflowdial_blocks", "flex": "flex_attention"}
_BLOCK = 128
"""Queries in a block: fewer make more and smaller products, more see keys that few of them need."""
_GPU_BLOCK = 1024
"""The same on a GPU, which loses more time to small products than to keys that few queries need."""


@dataclass(frozen=True)
class QueryBlock:
    """Neighbouring queries, and the keys that at least one of them sees.

    Attributes:
        start: the first query.
        stop: behind the last query.
        keys: ``[keys]`` where the keys stand, ascending.
        bias: ``[queries, keys]`` 0 where a query sees a key, -inf elsewhere.
    """

    start: int
    stop: int
    keys: Int[Tensor, " keys"]
    bias: Float[Tensor, "queries keys"]


def attend_along(model: PreTrainedModel, attention: Attention) -> None:
    """Make ``model`` attend along packed prefixes, given `attention_arguments`; it no longer reads anything else.

    Raises:
        ValueError: if the attention is unknown.
    """
    if attention not in _NAMES:
        raise ValueError(f"attention is {attention!r}: choose one of {', '.join(_NAMES)}")
    model.set_attn_implementation(_NAMES[attention])


def attention_arguments(packed: PackedPrefixes, attention: Attention, dtype: torch.dtype) -> dict[str, Any]:
    """What a model's forward pass over ``packed`` takes besides tokens and positions.

    Args:
        packed: the prefixes.
        attention: as in `attend_along`.
        dtype: of the model.
    """
    if attention == "flex":
        return {"attention_mask": _block_mask(packed)}
    return {"query_blocks": _query_blocks(packed, dtype)}


def _block_mask(packed: PackedPrefixes) -> BlockMask:
    seen_until, length = packed.seen_until, packed.num_tokens
    return create_block_mask(
        lambda _batch, _head, query, key: (key <= query) & (query < seen_until[key]),
        None,
        None,
        length,
        length,
        device=str(seen_until.device),
    )


def _query_blocks(packed: PackedPrefixes, dtype: torch.dtype) -> list[QueryBlock]:
    seen_until = packed.seen_until
    index = torch.arange(packed.num_tokens, device=seen_until.device)
    size = _BLOCK if seen_until.device.type == "cpu" else _GPU_BLOCK
    blocks = []
    for start in range(0, packed.num_tokens, size):
        stop = min(start + size, packed.num_tokens)
        keys = index[:stop][seen_until[:stop] > start]
        query = index[start:stop, None]
        hidden = (keys > query) | (query >= seen_until[keys])
        bias = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, -torch.inf)
        blocks.append(QueryBlock(start, stop, keys, bias))
    return blocks


def _attend_in_blocks(
    module: Any,
    query: Float[Tensor, "1 heads tokens width"],
    key: Float[Tensor, "1 groups tokens width"],
    value: Float[Tensor, "1 groups tokens width"],
    attention_mask: object,  # noqa: ARG001 (transformers')
    dropout: float = 0.0,
    scaling: float | None = None,
    query_blocks: list[QueryBlock] | None = None,
    **_: Any,
) -> tuple[Float[Tensor, "1 tokens heads width"], None]:
    """transformers' interface of an attention function."""
    if query_blocks is None:
        raise ValueError(
            f"{type(module).__name__} was called without the blocks of a packed forest: a policy's language model "
            "reads only packed prefixes, through the policy (load another copy for anything else), and its forward "
            "has to pass its keyword arguments on to its attention"
        )
    groups, width = key.shape[1], query.shape[3]
    shared = query.shape[1] // groups
    found = []
    # Not by slices, whose backward pass fills a tensor of the whole length for each.
    parts = torch.split(query, [block.stop - block.start for block in query_blocks], dim=2)
    for block, part in zip(query_blocks, parts, strict=True):
        # Heads that share keys go as further queries of one head, so that no key is copied.
        folded = part.reshape(1, groups, -1, width)
        attended = scaled_dot_product_attention(
            folded,
            key.index_select(2, block.keys),
            value.index_select(2, block.keys),
            attn_mask=block.bias.repeat(shared, 1),
            dropout_p=dropout,
            scale=scaling,
        )
        # Some of PyTorch's kernels lay the result out by tokens, not by heads.
        found.append(attended.reshape(1, groups * shared, block.stop - block.start, -1))
    return torch.cat(found, dim=2).transpose(1, 2).contiguous(), None


AttentionInterface.register(_NAMES["sdpa"], _attend_in_blocks)
