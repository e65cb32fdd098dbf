"""Keys and values of what a language model has read before, so that prompts that begin alike are read on from there."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache, DynamicLayer

from gflowdial.shapes import Float, Tensor

BLOCK = 8
"""Tokens of a block, the unit of what is kept: prefixes are found up to a multiple of it."""


class PrefixStore:
    """Keys and values of token prefixes, in blocks of `BLOCK` tokens, at most ``capacity`` bytes of them.

    In a causal model the keys and values of a token depend on the tokens up to it alone, so whatever two prompts
    begin with, however they go on, is read once. A block is kept under all tokens up to its end. When the store is
    full the block that was longest not used makes room; a prefix's earlier blocks count as used after its later ones,
    so that a prefix loses its end first.

    Attributes:
        capacity: bytes at most, which a GPU gives at once and a CPU page by page; 0 keeps nothing.
        shape: layers, 2 (keys and values), key/value heads, head width.
    """

    def __init__(self, config: PreTrainedConfig, capacity: int, dtype: torch.dtype, device: torch.device) -> None:
        heads = config.num_key_value_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.shape = (config.num_hidden_layers, 2, heads, width)
        layers, _, heads, width = self.shape
        block_bytes = 2 * layers * heads * width * BLOCK * dtype.itemsize
        slots = capacity // block_bytes
        self._pool = torch.empty(slots, layers, 2, heads, BLOCK, width, dtype=dtype, device=device)
        self._slots: OrderedDict[tuple[int, ...], int] = OrderedDict()

    @property
    def bytes_used(self) -> int:
        """How much of the capacity is in use."""
        return len(self._slots) * self._pool[:1].nbytes

    def room(self, batch: int, length: int) -> Float[Tensor, "layers 2 batch heads length width"]:
        """Empty room for the keys and values of a batch; zeros, since what is masked must still be a number."""
        layers, both, heads, width = self.shape
        return self._pool.new_zeros(layers, both, batch, heads, length, width)

    def room_for(self, tokens: Sequence[int]) -> bool:
        """Whether the store could hold all of ``tokens``."""
        return len(tokens) // BLOCK <= len(self._pool)

    def find(self, tokens: Sequence[int]) -> list[int]:
        """Where the longest stored prefix of ``tokens`` stands, block by block."""
        found: list[tuple[int, ...]] = []
        for end in range(BLOCK, len(tokens) + 1, BLOCK):
            prefix = tuple(tokens[:end])
            if prefix not in self._slots:
                break
            found.append(prefix)
        self._touch(found)
        return [self._slots[prefix] for prefix in found]

    def put(self, slots: Sequence[int], room: Float[Tensor, "layers 2 heads tokens width"]) -> None:
        """Copy blocks that were found, one behind the other, into the ``tokens`` of ``room``."""
        if slots:
            blocks = self._pool[torch.tensor(slots, device=self._pool.device)]
            room.view(*room.shape[:3], len(slots), BLOCK, -1).copy_(blocks.permute(1, 2, 3, 0, 4, 5))

    def add(self, tokens: Sequence[int], read: Float[Tensor, "layers 2 heads new width"]) -> None:
        """Keep the whole blocks of ``tokens``; ``read`` is of the last of them, before which all is stored or was."""
        if not self.room_for(tokens):
            return
        first = len(tokens) - read.shape[3]
        kept = []
        for end in range(first + BLOCK, len(tokens) + 1, BLOCK):
            prefix = tuple(tokens[:end])
            if prefix not in self._slots:
                self._pool[self._free_slot(prefix)] = read[:, :, :, end - BLOCK - first : end - first]
            self._slots.move_to_end(prefix)
            kept.append(prefix)
        self._touch(kept)

    def _free_slot(self, prefix: tuple[int, ...]) -> int:
        slot = len(self._slots) if len(self._slots) < len(self._pool) else self._slots.popitem(last=False)[1]
        self._slots[prefix] = slot
        return slot

    def _touch(self, prefixes: list[tuple[int, ...]]) -> None:
        for prefix in reversed(prefixes):
            self._slots.move_to_end(prefix)


class BatchCache(Cache):
    """The keys and values of one batch, in room that is laid out beforehand: no step copies what is there.

    Attributes:
        room: ``[layers, 2, batch, heads, length, width]``, keys and values.
    """

    def __init__(self, room: Float[Tensor, "layers 2 batch heads length width"], filled: int) -> None:
        self.room = room
        super().__init__(layers=[_Layer(keys, values, filled) for keys, values in room])


class _Layer(DynamicLayer):  # type: ignore[no-untyped-call]
    def __init__(self, keys: Tensor, values: Tensor, filled: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.all_keys, self.all_values, self.filled = keys, values, filled

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        start, self.filled = self.filled, self.filled + key_states.shape[2]
        self.all_keys[:, :, start : self.filled] = key_states
        self.all_values[:, :, start : self.filled] = value_states
        return self.all_keys[:, :, : self.filled], self.all_values[:, :, : self.filled]

    def get_seq_length(self) -> int:
        return self.filled
