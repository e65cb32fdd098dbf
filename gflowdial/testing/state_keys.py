"""What tells states of any class apart: their contents, not where they are in memory."""

from collections.abc import Hashable, Mapping, Sequence, Set
from dataclasses import fields, is_dataclass

import numpy as np
import torch


def key_of(state: object) -> Hashable:
    """A value that is equal for states of equal content: fields and elements, down to numbers and texts."""
    kind = type(state).__name__
    if isinstance(state, torch.Tensor):
        state = state.detach().cpu().numpy()
    if isinstance(state, np.ndarray):
        return kind, state.shape, state.dtype.str, state.tobytes()
    if isinstance(state, Mapping):
        return kind, tuple((key_of(name), key_of(value)) for name, value in state.items())
    if isinstance(state, Set):
        return kind, tuple(sorted(map(repr, state)))
    if isinstance(state, Sequence) and not isinstance(state, (str, bytes)):
        return kind, tuple(map(key_of, state))
    if is_dataclass(state):
        return kind, tuple(key_of(getattr(state, field.name)) for field in fields(state) if field.compare)
    if type(state).__repr__ is not object.__repr__:
        return kind, repr(state)
    own = vars(state) if hasattr(state, "__dict__") else {name: getattr(state, name) for name in _slots(state)}
    return kind, key_of(dict(own))


def _slots(state: object) -> list[str]:
    return [name for name in getattr(type(state), "__slots__", ()) if hasattr(state, name)]
