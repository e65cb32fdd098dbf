"""Many dialogue prefixes in one forward pass: a forest of token segments as one sequence.

Every node of a forest carries the tokens that it adds to its parent's prefix. Shared prefixes stand in the sequence
once, a token sees its own ancestors only, and its position is its depth in tokens, so a causal language model
computes for every node what it would compute for that node's prefix alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from gflowdial.shapes import Bool, Int, Tensor

__all__ = ["Attention", "PackedPrefixes", "pack_prefixes", "packed_tokens", "prefix_lengths"]

Attention = Literal["sdpa", "flex"]
"""How a language model attends along packed prefixes.

- ``"sdpa"``: PyTorch's scaled dot-product attention, a block of queries at a time with the keys that it sees. Runs
  everywhere. A model outside transformers' AttentionInterface keeps its own attention, under a mask over all pairs.
- ``"flex"``: PyTorch's FlexAttention, compiled. It trains on GPUs only.
"""


@dataclass(frozen=True)
class PackedPrefixes:
    """Prefixes in depth-first order, ready for a causal language model.

    What is below a node stands right behind it, so those who see a token are a range: token q sees token k where
    k ≤ q < ``seen_until[k]``.

    Attributes:
        input_ids: ``[tokens]`` token ids.
        position_ids: ``[tokens]`` depth of each token in tokens, counted from its root.
        seen_until: ``[tokens]`` where the tokens that see a token end.
        read_at: ``[reads]`` where a node's state is read.
        node: ``[reads]`` which node of the forest is read there; ascending as `pack_prefixes` makes it.
        continued_at: ``[reads, continuations]`` where each continuation of a node's branch is read.
    """

    input_ids: Int[Tensor, " tokens"]
    position_ids: Int[Tensor, " tokens"]
    seen_until: Int[Tensor, " tokens"]
    read_at: Int[Tensor, " reads"]
    node: Int[Tensor, " reads"]
    continued_at: Int[Tensor, "reads continuations"]

    @property
    def num_tokens(self) -> int:
        """How many tokens the forward pass computes."""
        return len(self.input_ids)

    @property
    def visible(self) -> Bool[Tensor, "tokens tokens"]:
        """Entry (q, k) is true where token q sees token k."""
        index = torch.arange(self.num_tokens, device=self.seen_until.device)
        return (index <= index[:, None]) & (index[:, None] < self.seen_until)

    def select(self, reads: Sequence[int]) -> "PackedPrefixes":
        """The same sequence with other reads: ``reads`` indexes the present ones and may repeat them."""
        index = torch.as_tensor(reads, dtype=torch.int64)
        return replace(self, read_at=self.read_at[index], node=self.node[index], continued_at=self.continued_at[index])

    def to(self, device: torch.device | str) -> "PackedPrefixes":
        """The same prefixes on another device."""
        return replace(self, **{name: tensor.to(device) for name, tensor in vars(self).items()})


def pack_prefixes(
    parent: Sequence[int],
    tokens: Sequence[Sequence[int]],
    read: Sequence[bool],
    branch: Sequence[int],
    continuations: Sequence[Sequence[int]] = (),
) -> PackedPrefixes:
    """Lay a forest of token segments into one sequence.

    A read node gets a copy of ``branch`` behind its own tokens, which none of its descendants sees; its state is the
    model's output at the last branch token. The continuations follow the branch; each sees the branch and its own
    tokens, and is read at its last token. Nodes that are neither read nor the ancestor of one that is are left out.

    Args:
        parent: each node's parent, −1 at a root, every parent before its children.
        tokens: the tokens each node adds to its parent's prefix.
        read: which nodes' states are wanted.
        branch: the tokens after which a state is read, at least one.
        continuations: tokens behind the branch at whose ends the state is read too, each at least one; see
            `LanguageModelPolicy.continuations`.

    Raises:
        ValueError: if the lengths disagree, ``branch`` or a continuation is empty, or nothing is read.
    """
    segments = [branch, *continuations]
    own, below = _sizes(parent, tokens, read, segments)
    tail, lengths = np.concatenate(segments), [len(segment) for segment in segments]
    ends = np.cumsum(lengths)
    # Counted from the end of the node's own tokens: all of the tail sees the branch, a continuation is seen by itself
    # alone, and its positions go on from the branch's.
    seen_in_tail = np.repeat([len(tail), *ends[1:]], lengths)
    depth_in_tail = np.arange(len(tail)) - np.repeat([0, *(ends[:-1] - len(branch))], lengths)
    input_ids = np.empty(sum(below[node] for node, above in enumerate(parent) if above < 0), dtype=np.int64)
    position_ids, seen_until = np.empty_like(input_ids), np.empty_like(input_ids)
    start = np.zeros(len(parent), dtype=np.int64)
    depth = np.zeros(len(parent), dtype=np.int64)
    # Where the next child of a node begins; the last entry serves the roots.
    following = np.zeros(len(parent) + 1, dtype=np.int64)
    for node, above in enumerate(parent):
        start[node] = following[above]
        following[above] += below[node]
        following[node] = start[node] + own[node]
        if above >= 0:
            depth[node] = depth[above] + len(tokens[above])
        if below[node]:
            first, behind = start[node], start[node] + len(tokens[node])
            input_ids[first:behind] = tokens[node]
            seen_until[first:behind] = first + below[node]
            position_ids[first:behind] = depth[node] + np.arange(behind - first)
            if read[node]:
                input_ids[behind : following[node]] = tail
                seen_until[behind : following[node]] = behind + seen_in_tail
                position_ids[behind : following[node]] = depth[node] + len(tokens[node]) + depth_in_tail
    reads = np.flatnonzero(read)
    read_at = (start + own - len(tail))[reads, None] + ends - 1
    return PackedPrefixes(
        input_ids=torch.from_numpy(input_ids),
        position_ids=torch.from_numpy(position_ids),
        seen_until=torch.from_numpy(seen_until),
        read_at=torch.from_numpy(read_at[:, 0]),
        node=torch.from_numpy(reads),
        continued_at=torch.from_numpy(read_at[:, 1:]),
    )


def packed_tokens(
    parent: Sequence[int],
    tokens: Sequence[Sequence[int]],
    read: Sequence[bool],
    branch: Sequence[int],
    continuations: Sequence[Sequence[int]] = (),
) -> int:
    """How many tokens `pack_prefixes` makes of the same arguments."""
    _, below = _sizes(parent, tokens, read, [branch, *continuations])
    return int(sum(below[node] for node, above in enumerate(parent) if above < 0))


def prefix_lengths(parent: Sequence[int], tokens: Sequence[Sequence[int]]) -> list[int]:
    """How many tokens the prefix of each node has, its own among them; parents come before their children."""
    lengths: list[int] = []
    for above, own in zip(parent, tokens, strict=True):
        lengths.append(len(own) + (lengths[above] if above >= 0 else 0))
    return lengths


def _sizes(
    parent: Sequence[int], tokens: Sequence[Sequence[int]], read: Sequence[bool], segments: Sequence[Sequence[int]]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Tokens of each node with its branch, and of all that is kept below it, itself included; 0 where nothing is."""
    if not len(parent) == len(tokens) == len(read):
        raise ValueError(
            f"parent, tokens and read must be equally long, got {len(parent)}, {len(tokens)} and {len(read)}"
        )
    if not all(segments):
        raise ValueError("branch is empty, or a continuation: a state needs at least one token to be read at")
    if not any(read):
        raise ValueError("no node is to be read: mark at least one in `read`")
    tail = sum(map(len, segments))
    own = np.array([len(segment) for segment in tokens]) + tail * np.array(read, dtype=np.int64)
    kept = np.array(read, dtype=np.bool_)
    below = np.zeros(len(parent), dtype=np.int64)
    for node in range(len(parent) - 1, -1, -1):
        above = parent[node]
        below[node] += own[node] * kept[node]
        if above >= 0:
            kept[above] |= kept[node]
            below[above] += below[node]
    return own, below
