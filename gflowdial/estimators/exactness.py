"""Whether a language model reads packed prefixes as it reads each alone. Needs the extra ``lm``."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from gflowdial.estimators.packing import Attention, pack_prefixes
from gflowdial.estimators.tree_attention import Way, decoder_of, read_packed, remember_tree_attention
from gflowdial.shapes import Float, Tensor

__all__ = ["evaluating", "exact_way"]

_ATTENTIONS = ("sdpa", "flex")
_PARENT = [-1, 0, 0, 1, 1]
_SIZES = [5, 4, 2, 3, 4]
_READ = [True, True, True, True, False]
_KINDS = frozenset({"full_attention", "sliding_attention", "chunked_attention"})
"""Layers that meet other tokens in nothing but attention over a causal mask."""


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation, without autocast, for as long as the context lasts."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.autocast(next(model.parameters()).device.type, enabled=False):
            yield
    finally:
        for module in training:
            module.training = True


@torch.no_grad()
def exact_way(model: Any, attention: Attention) -> Way:
    """How ``model`` reads packed prefixes as it reads each alone, with ``attention``.

    A small random tree is read packed, and each of its prefixes alone, and the decoder's states are compared: they are
    the same if they differ by less than the square root of the model's precision, relative to their norm. A model
    whose layers do not attend through transformers' AttentionInterface is given a mask over all pairs in place of
    ``"sdpa"``. Random state is neither read nor changed.

    Args:
        model: a causal language model, in evaluation.
        attention: as in `Attention`.

    Raises:
        ValueError: if the attention is unknown, if the states differ, or if the model has layers or arguments that the
            attention does not know. The message names the model and the likely cause.
    """
    if attention not in _ATTENTIONS:
        raise ValueError(f"attention is {attention!r}: choose one of {', '.join(_ATTENTIONS)}")
    name, decoder = type(model).__name__, decoder_of(model)
    if odd := sorted(set(getattr(decoder.config, "layer_types", None) or ()) - _KINDS):
        raise ValueError(
            f"{name} has layers of kind {', '.join(odd)}, which may mix the tokens of prefixes that lie side by side: "
            f"{_WAY_OUT}"
        )
    embeddings = model.get_input_embeddings().weight
    stream = torch.Generator().manual_seed(0)
    tokens = [torch.randint(len(embeddings), (size,), generator=stream).tolist() for size in (*_SIZES, 2, 2)]
    *segments, branch, continuation = tokens
    packed = pack_prefixes(_PARENT, segments, _READ, branch, [continuation]).to(embeddings.device)
    wanted = _alone(model, [_prefix(segments, node) + branch for node in packed.node.tolist()], continuation)
    way: Way = attention
    try:
        try:
            # Not compiled: what is compared is which tokens are seen, and with which weights.
            with torch.compiler.set_stance("force_eager"):
                got, attended = read_packed(model, packed, way)
        except (AttributeError, TypeError):
            # The mask was taken for a tensor.
            got, attended = wanted, []
        if not attended and attention == "sdpa":
            way = "own"
            got, _ = read_packed(model, packed, way)
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{name} cannot be read along packed prefixes: {error}") from error
    difference = float(((got - wanted).norm(dim=-1) / wanted.norm(dim=-1)).max())
    if not difference < _tolerance(decoder) or not (attended or way == "own"):
        raise ValueError(
            f"{name} does not read packed prefixes as it reads each alone (its states differ by {difference:.1%}): "
            f"{_cause(decoder, attended)}; {_WAY_OUT}"
        )
    remember_tree_attention(attended)
    return way


_WAY_OUT = "choose a model whose tokens meet in causal attention alone"


def _prefix(segments: list[list[int]], node: int) -> list[int]:
    return (_prefix(segments, _PARENT[node]) if _PARENT[node] >= 0 else []) + segments[node]


def _alone(model: Any, prefixes: list[list[int]], continuation: list[int]) -> Float[Tensor, "reads branchings hidden"]:
    """States behind each prefix, and behind it with the continuation, by the model's own pass over a batch."""
    rows = [prefix + continuation for prefix in prefixes]
    longest = max(map(len, rows))
    # Nothing causal depends on what stands behind it.
    ids = torch.tensor([row + [row[0]] * (longest - len(row)) for row in rows])
    hidden = decoder_of(model)(
        input_ids=ids.to(model.get_input_embeddings().weight.device), use_cache=False
    ).last_hidden_state
    ends = torch.tensor([[len(prefix) - 1, len(row) - 1] for prefix, row in zip(prefixes, rows, strict=True)])
    states: Tensor = hidden[torch.arange(len(rows))[:, None], ends]
    return states.float()


def _tolerance(decoder: Any) -> float:
    precise = decoder.dtype != torch.float32 or torch.get_float32_matmul_precision() == "highest"
    return float(torch.finfo(decoder.dtype if precise else torch.float16).eps ** 0.5)


def _cause(decoder: nn.Module, attended: list[nn.Module]) -> str:
    """What besides attention may mix tokens."""
    mixers = {
        type(module).__name__
        for module in decoder.modules()
        if any(isinstance(child, nn.Conv1d) for child in module.children())
    }
    for layers in (module for module in decoder.modules() if isinstance(module, nn.ModuleList)):
        meeting = [not set(attended).isdisjoint(layer.modules()) for layer in layers]
        if any(meeting):
            parts = [{type(part).__name__ for part in layer.children()} for layer in layers]
            known = set().union(*(names for names, meets in zip(parts, meeting, strict=True) if meets))
            mixers |= set().union(*(names for names, meets in zip(parts, meeting, strict=True) if not meets)) - known
    if mixers:
        return f"{', '.join(sorted(mixers))} mixes tokens outside attention, as convolutions and state spaces do"
    if not attended:
        return "its layers do not attend through transformers' AttentionInterface"
    return "it looks ahead, or something besides attention depends on a token's neighbours or its place in the sequence"
