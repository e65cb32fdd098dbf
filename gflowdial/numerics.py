"""Checks of what is passed in, and numerics that several rooms share: precision, masked softmax, equal rows.

**Precision.** One rule holds for the whole library, whatever the dtype of what is passed in:

- Random noise, sums, differences, means and softmaxes are computed in float32 at least, and returned so: bfloat16 and
  float16 are lifted (`lifted`) before anything is added or normalised. float32 and float64 stay what they are.
- Exact answers and measures (`gflowdial.oracle`, `gflowdial.metrics`) and everything inside a loss are computed in
  `precise_dtype`, float64; a loss is returned in the dtype of its input, float32 at least.
- What only moves values (`Forest.edges_to_nodes`, `Forest.trees_to_leaves`) or compares them keeps their dtype.

NaN stays NaN: no reduction hides one. Where a number must be finite, a ValueError names the entry.
"""

import functools
from typing import TypeVar

import torch

from gflowdial.shapes import Bool, Float, Int, Tensor

Key = TypeVar("Key")
Value = TypeVar("Value")
Class = TypeVar("Class")

MOST_REMEMBERED = 32
"""Entries of a cache beside a forest, one per λ or so."""

__all__ = [
    "MOST_REMEMBERED",
    "check_finite",
    "check_indices",
    "check_length",
    "check_normalised",
    "check_vector",
    "distinct",
]
__all__ += ["first_true", "keys", "lift_vector", "lifted", "lifted_dtype", "masked_log_softmax", "precise_dtype"]
__all__ += ["remember", "rounding", "uniform_log_probabilities", "usable_in_training"]


def precise_dtype(device: torch.device) -> torch.dtype:
    """float64, or float32 where the device has no float64.

    Residuals are small differences of large sums: no float32 form is safe everywhere, and a later cast brings nothing
    back.
    """
    return torch.float32 if device.type == "mps" else torch.float64


def lifted_dtype(dtype: torch.dtype) -> torch.dtype:
    """float32 for floating-point dtypes of fewer bits, else ``dtype``."""
    return torch.float32 if dtype.itemsize < 4 and dtype.is_floating_point else dtype


def lifted(values: Tensor) -> Tensor:
    """``values`` in `lifted_dtype`, themselves where that is their own. Differentiable."""
    return values.to(lifted_dtype(values.dtype))


def rounding(dtype: torch.dtype, least: float) -> float:
    """How far from 1 the sum of probabilities may be whose logarithms were rounded to ``dtype``, ``least`` or more."""
    return max(least, 4 * torch.finfo(dtype).eps)


def remember(cache: dict[Key, Value], key: Key, value: Value) -> Value:
    """``value``, put into ``cache``, which then drops what it has held for longest if it holds too much."""
    cache[key] = value
    while len(cache) > MOST_REMEMBERED:
        del cache[next(iter(cache))]
    return value


def usable_in_training(cls: type[Class]) -> type[Class]:
    """A decorator of classes whose cached properties hold tensors: they are made outside inference mode, or a tensor
    that inference mode asked for first could not be used by training later."""
    for value in vars(cls).values():
        if isinstance(value, functools.cached_property):
            value.func = torch.inference_mode(False)(value.func)
    return cls


def check_length(name: str, values: Tensor, length: int, what: str) -> None:
    """
    Raises:
        ValueError: if ``values`` is no vector of ``length`` entries, one per ``what``.
    """
    if values.shape != (length,):
        raise ValueError(f"{name} must have one entry per {what}, shape [{length}]; got {list(values.shape)}.")


def check_vector(name: str, values: Tensor, length: int, what: str) -> None:
    """
    Raises:
        ValueError: if ``values`` is no vector of ``length`` floating-point entries, one per ``what``.
    """
    check_length(name, values, length, what)
    if not values.is_floating_point():
        raise ValueError(f"{name} must be floating point; got {values.dtype}.")


def check_indices(name: str, index: Tensor, count: int, what: str) -> None:
    """
    Raises:
        ValueError: if ``index`` is no vector of integers from 0 to ``count - 1``, the numbers of ``what``.
    """
    if index.ndim != 1 or index.is_floating_point() or index.dtype == torch.bool:
        raise ValueError(f"{name} must be a vector of integers; got {index.dtype} of shape {list(index.shape)}.")
    if (first := first_true((index < 0) | (index >= count))) is not None:
        raise ValueError(f"{name}[{first}] is {int(index[first])}, out of range: {what} are 0 to {count - 1}.")


def lift_vector(name: str, values: Tensor, length: int, what: str) -> Tensor:
    """``values`` in `precise_dtype`.

    Raises:
        ValueError: as `check_vector`.
    """
    check_vector(name, values, length, what)
    return values.to(precise_dtype(values.device))


def first_true(wrong: Bool[Tensor, " items"]) -> int | None:
    """The first index at which ``wrong`` is true, None if it is nowhere; waits for the device."""
    return int(torch.nonzero(wrong)[0]) if bool(wrong.any()) else None


def check_finite(name: str, values: Float[Tensor, " items"], advice: str = "") -> None:
    """
    Raises:
        ValueError: if an entry is NaN or infinite; ``advice`` ends the message.
    """
    if (first := first_true(~values.isfinite())) is not None:
        raise ValueError(f"{name} must be finite; {name}[{first}] is {float(values[first])}.{advice}")


def check_normalised(
    name: str, log_p: Float[Tensor, " edges"], side: str, node: Int[Tensor, " edges"], num_nodes: int
) -> None:
    """
    Raises:
        ValueError: if the probabilities of the edges on one ``side`` ("into", "out of") of a node do not sum to 1, as
            far as the dtype of ``log_p`` can say; what was computed in float32 passes.
    """
    p = log_p.detach().to(precise_dtype(log_p.device)).exp()
    total = p.new_zeros(num_nodes).index_add(0, node, p)[node]
    if (first := first_true(~((total - 1).abs() < rounding(log_p.dtype, 1e-4)))) is not None:
        raise ValueError(
            f"{name} must sum to 1 over the edges {side} a node; exp({name}) sums to {float(total[first]):.6g} over "
            f"those {side} node {int(node[first])}."
        )


def masked_log_softmax(
    scores: Float[Tensor, "states actions"], mask: Bool[Tensor, "states actions"]
) -> Float[Tensor, "states actions"]:
    """The log-softmax of each row over its valid actions, in float32 at least; -inf elsewhere, and everywhere in a row
    without any.

    Neither values nor gradients are NaN, whatever the scores of masked actions, and masked actions get no gradient.
    """
    # Filled with -inf instead, a row without valid actions would be NaN on the way, where anomaly detection stops.
    invalid, scores = ~mask, lifted(scores)
    valid = scores.masked_fill(invalid, torch.finfo(scores.dtype).min)
    return valid.log_softmax(1).masked_fill(invalid, -torch.inf)


def uniform_log_probabilities(
    mask: Bool[Tensor, "states actions"], dtype: torch.dtype
) -> Float[Tensor, "states actions"]:
    """Even over the valid actions of each row, in ``dtype`` or float32 if that has fewer bits; -inf elsewhere."""
    return masked_log_softmax(torch.zeros(mask.shape, dtype=dtype, device=mask.device), mask)


def distinct(states: Int[Tensor, "states width"]) -> tuple[Int[Tensor, "distinct width"], Int[Tensor, " states"]]:
    """The distinct rows, and which of them each row is: ``distinct[place]`` is ``states`` again.

    Rows are told apart by `keys`, many times faster than comparing them; two that collide are found out, and then they
    are compared.
    """
    known, place = torch.unique(keys(states), return_inverse=True)
    example = torch.empty_like(known).scatter_(0, place, torch.arange(len(states), device=states.device))
    rows = states.index_select(0, example)
    if not torch.equal(rows.index_select(0, place), states):
        rows, place = torch.unique(states, dim=0, return_inverse=True)
    return rows, place


def keys(states: Int[Tensor, "states width"]) -> Int[Tensor, " states"]:
    """A 64-bit hash of each row: a sum with random odd weights modulo 2^64.

    Of 100,000 rows two share one with a chance of about 1 in 10^9, unless they differ in the highest bits alone: bit 63
    adds the same in every column. Code that relies on it compares the rows it finds.
    """
    return (states * _weights(states.shape[1], states.device)).sum(1)


@functools.lru_cache(maxsize=64)
def _weights(width: int, device: torch.device) -> Int[Tensor, " width"]:
    random = torch.randint(-(2**62), 2**62, (width,), generator=torch.Generator().manual_seed(width))
    return (2 * random + 1).to(device)
