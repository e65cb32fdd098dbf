"""How many tokens of a forest a language model can train on at once, by its shape and the memory there is. Needs the
extra ``lm``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from gflowdial.estimators.tree_attention import GPU_BLOCK

__all__ = ["Plan", "Shape", "free_memory", "pass_bytes", "plan", "shape_of"]

_USABLE = 0.9
"""The share of free memory that is planned with; the rest is for what the allocator loses between tensors."""
_GIB = 2**30


@dataclass(frozen=True)
class Shape:
    """What the memory of a training pass depends on.

    Attributes:
        layers: how many layers.
        hidden: width of the residual stream, or of all queries together where that is more.
        inner: width of the MLP, of all experts that a token takes together.
        shared: how many heads share their keys.
        itemsize: bytes of a number of the model.
        adapted: whether the model has an adapter, which reads its inputs in float32.
        state: bytes of the gradients and of Adam's averages, which are not allocated before the first step.
    """

    layers: int
    hidden: int
    inner: int
    shared: int
    itemsize: int
    adapted: bool
    state: int


class Plan(NamedTuple):
    """How trees are trained on.

    Attributes:
        tokens_per_pass: the greatest number of tokens in a pass; a larger tree has one of its own.
        checkpointing: whether activations are computed anew in the backward pass.
    """

    tokens_per_pass: int
    checkpointing: bool


def pass_bytes(shape: Shape, tokens: int, longest: int, checkpointing: bool) -> int:
    """The bytes of activations of a forward and a backward pass, an upper bound.

    A layer keeps per token ten vectors of the residual stream and four of the MLP in the dtype of the model, six in
    float32, the inputs of an adapter in float32, and a number per key and head of a group. The backward pass needs
    those of one layer more. With checkpointing a layer keeps its input alone, and one layer is computed anew.

    Args:
        shape: of the model.
        tokens: in the pass.
        longest: tokens of the longest prefix.
        checkpointing: whether activations are computed anew.
    """
    size, hidden, inner = shape.itemsize, shape.hidden, shape.inner
    layer = size * (10 * hidden + 4 * inner + shape.shared * min(longest + GPU_BLOCK, tokens)) + 4 * 6 * hidden
    if shape.adapted and size < 4:
        layer += 4 * (3 * hidden + inner)
    kept = shape.layers * size * hidden + layer if checkpointing else shape.layers * layer
    return tokens * (kept + layer)


def plan(shape: Shape, free: int, trees: Sequence[tuple[int, int]], most: int) -> Plan:
    """Passes that fit, without checkpointing if the largest tree fits without.

    Args:
        shape: of the model.
        free: bytes that are free before the first step, with the model in memory.
        trees: of each tree its tokens, and those of its longest prefix.
        most: the greatest number of tokens in a pass.

    Raises:
        ValueError: the largest tree does not fit even with checkpointing.
    """
    usable = int(_USABLE * free) - shape.state
    largest, longest = max(tokens for tokens, _ in trees), max(length for _, length in trees)
    for checkpointing in (False, True):
        # Bytes grow with the tokens: the greatest number that fits is found by halving.
        fits, too_many = 0, max(most, largest) + 1
        while too_many - fits > 1:
            middle = (fits + too_many) // 2
            if pass_bytes(shape, middle, longest, checkpointing) <= usable:
                fits = middle
            else:
                too_many = middle
        if fits >= largest:
            return Plan(min(fits, most), checkpointing)
    needed = (pass_bytes(shape, largest, longest, True) + shape.state) / _USABLE
    raise ValueError(
        f"a tree of {largest:,} tokens needs {needed / _GIB:.1f} GiB with activation checkpointing, and "
        f"{free / _GIB:.1f} GiB are free: train on smaller trees, in bfloat16, with an adapter, or on a larger device"
    )


def shape_of(policy: Any) -> Shape:
    """The shape of a `LanguageModelPolicy`; its trained parameters count as state."""
    config = policy.language_model.config
    text = config.get_text_config()
    heads = text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // heads
    inner = getattr(text, "intermediate_size", None) or 4 * text.hidden_size
    experts = getattr(text, "num_experts_per_tok", None) or 1
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    dtype = config.dtype or torch.float32
    return Shape(
        layers=text.num_hidden_layers,
        hidden=max(text.hidden_size, heads * width),
        inner=inner * experts,
        shared=heads // (getattr(text, "num_key_value_heads", None) or heads),
        itemsize=dtype.itemsize,
        adapted=hasattr(policy.language_model, "peft_config"),
        state=sum(parameter.numel() * (parameter.element_size() + 8) for parameter in trained),
    )


def free_memory(device: torch.device) -> int | None:
    """The bytes that are free on a GPU, those among them that PyTorch keeps for itself; None on other devices."""
    if device.type != "cuda":
        return None
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + held
