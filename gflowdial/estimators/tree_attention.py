"""Attention along packed prefixes, for transformers' language models. Needs the extra ``lm``.

While a packed forest is read, transformers asks `_tree_mask` for the mask of each kind of layer, and every attention
module hands that mask to `_attend`. Most pairs of tokens in a packed forest do not see each other; both ways to attend
leave out whole blocks of such pairs, and give the same result up to rounding.
"""

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from torch.nn.functional import dropout as drop
from torch.nn.functional import pad, scaled_dot_product_attention, softmax

from gflowdial.estimators.packing import PackedPrefixes
from gflowdial.shapes import Float, Int, Tensor

try:
    from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
    from transformers.integrations.flex_attention import flex_attention_forward
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, causal_mask_function
except ImportError as error:
    raise ImportError("attention along prefixes needs the extra `lm`: pip install 'gflowdial[lm]'") from error

__all__ = ["GPU_BLOCK", "TreeMask", "Way", "decoder_of", "read_packed", "remember_tree_attention", "softly_capped"]

Way = Literal["sdpa", "flex", "own"]
"""As in `Attention`; ``"own"``: by the model's own attention, under a mask over all pairs."""

_NAME = "gflowdial_tree"
_BLOCK = 128
"""Queries in a block: fewer make more and smaller products, more see keys that few of them need."""
GPU_BLOCK = 1024
"""The same on a GPU, which loses more time to small products than to keys that few queries need."""
_CAUSAL: Any = causal_mask_function
_WITHOUT_EFFECT = frozenset({"position_ids", "position_embeddings", "cache_position", "use_cache", "output_attentions"})
"""Further arguments that transformers' models hand to an attention function, and that its result does not depend on."""


Rule = Callable[[Any, Any, Tensor, Tensor], Tensor]
"""Whether, in a batch and a head, a query sees a key, given where both stand: transformers' mask function."""


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


@dataclass(frozen=True)
class TreeMask:
    """What the layers of one kind see in a packed forest, in place of transformers' mask.

    Attributes:
        seen: blocks of queries for ``"sdpa"``, or the block mask for ``"flex"``.
        window: how many tokens a query sees at most, or the size of the chunks that see themselves alone; None: all.
    """

    seen: list[QueryBlock] | BlockMask
    window: int | None


@dataclass
class _Reading:
    packed: PackedPrefixes
    way: Way
    own: str
    attended: dict[nn.Module, None] = field(default_factory=dict)


_READING: ContextVar[_Reading] = ContextVar("reading")


def decoder_of(model: Any) -> Any:
    """The part of a causal language model that makes states from tokens."""
    found = model.get_decoder()
    if isinstance(found, PreTrainedModel) and found is not model:
        return found
    return next((part for part in model.children() if isinstance(part, PreTrainedModel)), model)


def read_packed(
    model: Any, packed: PackedPrefixes, way: Way
) -> tuple[Float[Tensor, "reads branchings hidden"], list[nn.Module]]:
    """Last hidden states of the decoder at ``packed``'s reads, and the modules that attended along the forest.

    Before and after, the model's attention is its own.

    Args:
        model: a causal language model of transformers.
        packed: the prefixes.
        way: how to attend.

    Raises:
        ValueError: if the model asks of the attention what it does not know, or if its encoding of positions depends
            on the longest prefix.
    """
    decoder = decoder_of(model)
    config, own = decoder.config, decoder.config._attn_implementation
    _refuse_stretched(config, packed)
    reading = _Reading(packed, way, own)
    token = _READING.set(reading)
    config._attn_implementation_internal = _NAME
    try:
        hidden: Tensor = decoder(
            input_ids=packed.input_ids[None],
            # Without a mask, transformers would take falling positions for sequences of their own.
            attention_mask=torch.ones_like(packed.input_ids[None]),
            position_ids=packed.position_ids[None],
            use_cache=False,
        ).last_hidden_state
    finally:
        config._attn_implementation_internal = own
        _READING.reset(token)
    states = hidden[0, torch.cat([packed.read_at[:, None], packed.continued_at], dim=1)]
    return states.float(), list(reading.attended)


def _refuse_stretched(config: Any, packed: PackedPrefixes) -> None:
    ropes = getattr(config, "rope_parameters", None) or {}
    for rope in [ropes] if "rope_type" in ropes else ropes.values():
        kind = (rope or {}).get("rope_type", "")
        if "dynamic" in kind or kind == "longrope":
            limit = rope.get("original_max_position_embeddings") or config.max_position_embeddings
            if (longest := int(packed.position_ids.max()) + 1) > limit:
                raise ValueError(
                    f"the longest prefix has {longest} tokens, and beyond {limit} the {kind} encoding of positions "
                    "depends on the longest prefix: shorten the prefixes"
                )


def remember_tree_attention(attended: list[nn.Module]) -> None:
    """Make modules attend along the tree wherever they are handed its mask.

    The backward pass of a checkpointed layer calls its attention anew, when the model's attention is its own again.

    Args:
        attended: the attention modules that `read_packed` returns.
    """
    for module in set(attended) - set(_REMEMBERED):
        _REMEMBERED.add(module)
        module.register_forward_pre_hook(_enter, with_kwargs=True)
        module.register_forward_hook(_leave, always_call=True)


_REMEMBERED: WeakSet[nn.Module] = WeakSet()
_OWN: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()


def _enter(module: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
    own = module.config._attn_implementation
    if own != _NAME and any(isinstance(each, TreeMask) for each in (*inputs, *named.values())):
        _OWN[module] = own
        module.config._attn_implementation_internal = _NAME


def _leave(module: Any, *_: Any) -> None:
    if module in _OWN:
        module.config._attn_implementation_internal = _OWN.pop(module)


def _tree_mask(
    *,
    mask_function: Rule,
    dtype: torch.dtype = torch.float32,
    local_size: int | None = None,
    use_vmap: bool = False,
    **others: Any,
) -> Any:
    """transformers' interface of a function that makes masks."""
    if use_vmap:
        raise ValueError(
            "it masks pairs of tokens by a rule of its own: choose a model with full or windowed attention"
        )
    reading = _READING.get()
    packed, rule = reading.packed, None if mask_function is _CAUSAL else mask_function
    if reading.way == "own":
        make: Any = ALL_MASK_ATTENTION_FUNCTIONS[reading.own]
        others |= {"attention_mask": None, "allow_is_causal_skip": False, "local_size": local_size, "use_vmap": False}
        return make(mask_function=_along_tree(packed, rule), dtype=dtype, **others)
    if reading.way == "flex":
        size, device = packed.num_tokens, str(packed.seen_until.device)
        return TreeMask(create_block_mask(_along_tree(packed, rule), None, None, size, size, device=device), local_size)
    return TreeMask(_query_blocks(packed, rule, dtype), local_size)


def _along_tree(packed: PackedPrefixes, rule: Rule | None) -> Rule:
    seen_until, depth = packed.seen_until, packed.position_ids

    # PyTorch counts the arguments of the rules that it is given, so they are not wrapped in anything.
    if rule is None:
        return lambda _batch, _head, query, key: (key <= query) & (query < seen_until[key])
    return lambda batch, head, query, key: (
        (key <= query) & (query < seen_until[key]) & rule(batch, head, depth[query], depth[key])
    )


def _query_blocks(packed: PackedPrefixes, rule: Rule | None, dtype: torch.dtype) -> list[QueryBlock]:
    seen_until, depth = packed.seen_until, packed.position_ids
    index = torch.arange(packed.num_tokens, device=seen_until.device)
    size = _BLOCK if seen_until.device.type == "cpu" else GPU_BLOCK
    blocks = []
    for start in range(0, packed.num_tokens, size):
        stop = min(start + size, packed.num_tokens)
        keys = index[:stop][seen_until[:stop] > start]
        query = index[start:stop, None]
        hidden = (keys > query) | (query >= seen_until[keys])
        if rule is not None:
            # A window counts a prefix's own tokens, which are as far apart as their depths.
            hidden = hidden | ~rule(0, 0, depth[start:stop, None], depth[keys][None])
            needed = ~hidden.all(dim=0)
            keys, hidden = keys[needed], hidden[:, needed]
        bias = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, -torch.inf)
        blocks.append(QueryBlock(start, stop, keys, bias))
    return blocks


def _attend(
    module: Any,
    query: Float[Tensor, "1 heads tokens width"],
    key: Float[Tensor, "1 groups tokens width"],
    value: Float[Tensor, "1 groups tokens _"],
    attention_mask: object,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Float[Tensor, " heads"] | None = None,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[Float[Tensor, "1 tokens heads _"], None]:
    """transformers' interface of an attention function.

    Args:
        module: the attention module that calls.
        query: the queries.
        key: the keys.
        value: the values.
        attention_mask: a `TreeMask`.
        dropout: probability with which a weight is dropped.
        scaling: of the products; None: 1/√width.
        softcap: c of c·tanh(product / c); None: the product itself.
        s_aux: the attention sink of each head, a logit that takes weight from the keys.
        sliding_window: how many tokens a query sees, if the layer's attention is windowed.
        is_causal: whether the layer's attention is causal; None: it is.
        others: arguments that the result does not depend on.

    Raises:
        ValueError: if the mask is not a packed forest's, the window is not the mask's, or an argument is unknown.
    """
    unknown = sorted(name for name, given in others.items() if name not in _WITHOUT_EFFECT and _is_given(given))
    if unknown:
        raise ValueError(
            f"{type(module).__name__} hands its attention {', '.join(unknown)}, which attention along prefixes does "
            "not know: choose another model"
        )
    if not isinstance(attention_mask, TreeMask) or is_causal is False:
        raise ValueError(
            f"{type(module).__name__} does not attend by a causal mask of transformers: choose another model"
        )
    if sliding_window not in (None, attention_mask.window):
        raise ValueError(
            f"{type(module).__name__} attends with a window of {sliding_window} and a mask of {attention_mask.window}: "
            "make its configuration consistent"
        )
    if (reading := _READING.get(None)) is not None:
        reading.attended[module] = None
    if isinstance(attention_mask.seen, BlockMask):
        attended, _ = flex_attention_forward(
            module,
            query,
            key,
            value,
            attention_mask.seen,
            scaling=scaling,
            softcap=softcap,
            s_aux=s_aux,
            dropout=dropout,
        )
        return attended, None
    return _attend_in_blocks(query, key, value, attention_mask.seen, dropout, scaling, softcap, s_aux), None


def _is_given(argument: object) -> bool:
    return argument is not None and argument is not False


def _attend_in_blocks(
    query: Float[Tensor, "1 heads tokens width"],
    key: Float[Tensor, "1 groups tokens width"],
    value: Float[Tensor, "1 groups tokens _"],
    query_blocks: list[QueryBlock],
    dropout: float,
    scaling: float | None,
    softcap: float | None,
    sinks: Float[Tensor, " heads"] | None,
) -> Float[Tensor, "1 tokens heads _"]:
    groups, width = key.shape[1], query.shape[3]
    shared = query.shape[1] // groups
    attend = scaled_dot_product_attention if softcap is None else _attend_softly(softcap)
    found = []
    # Not by slices, whose backward pass fills a tensor of the whole length for each.
    parts = torch.split(query, [block.stop - block.start for block in query_blocks], dim=2)
    for block, part in zip(query_blocks, parts, strict=True):
        # Heads that share keys go as further queries of one head, so that no key is copied.
        folded = part.reshape(1, groups, -1, width)
        keys, values = key.index_select(2, block.keys), value.index_select(2, block.keys)
        bias = block.bias.to(query.dtype).repeat(shared, 1)
        if sinks is not None:
            # A sink is the logit of a key and a value of zeros.
            keys, values = pad(keys, (0, 0, 0, 1)), pad(values, (0, 0, 0, 1))
            sink = sinks.to(query.dtype).view(groups, shared, 1).expand(-1, -1, part.shape[2]).reshape(1, groups, -1, 1)
            bias = torch.cat([bias.expand(1, groups, -1, -1), sink], dim=3)
        attended = attend(folded, keys, values, attn_mask=bias, dropout_p=dropout, scale=scaling)
        # Some of PyTorch's kernels lay the result out by tokens, not by heads.
        found.append(attended.reshape(1, groups * shared, block.stop - block.start, -1))
    return torch.cat(found, dim=2).transpose(1, 2).contiguous()


def softly_capped(logits: Float[Tensor, "*rows keys"], softcap: float | None) -> Float[Tensor, "*rows keys"]:
    """c·tanh(logits / c), or the logits themselves without a cap."""
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


def _attend_softly(softcap: float) -> Callable[..., Tensor]:
    """`scaled_dot_product_attention` with products q·k replaced by c·tanh(q·k / c)."""

    def attend(
        query: Tensor, key: Tensor, value: Tensor, *, attn_mask: Tensor, dropout_p: float, scale: float | None
    ) -> Tensor:
        products = query @ key.transpose(2, 3) * (query.shape[3] ** -0.5 if scale is None else scale)
        weights = softmax(softly_capped(products, softcap) + attn_mask, dim=-1, dtype=torch.float32).to(query.dtype)
        return drop(weights, dropout_p) @ value

    return attend


AttentionInterface.register(_NAME, _attend)
AttentionMaskInterface.register(_NAME, _tree_mask)
