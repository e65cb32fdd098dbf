"""Each distinct state of a batch once: trajectories share their beginnings, and small spaces are soon all visited."""

import functools
from collections.abc import Callable

import torch

from gflowdial.shapes import Int, Tensor

FEW = 64
"""Below so many states, looking for equal ones costs as much as a small network saves by it."""


def once_each(
    function: Callable[[Tensor], tuple[Tensor, ...]], states: Int[Tensor, "states width"]
) -> tuple[Tensor, ...]:
    """``function(states)``, computed for each distinct state once; a tensor's rows answer the rows of ``states``."""
    if len(states) < FEW or torch.compiler.is_compiling():
        return function(states)
    rows, place = distinct(states)
    return tuple(answer.index_select(0, place) for answer in function(rows))


def distinct(states: Int[Tensor, "states width"]) -> tuple[Int[Tensor, "distinct width"], Int[Tensor, " states"]]:
    """The distinct rows, and which of them each row is: ``distinct[place]`` is ``states`` again.

    Rows are told apart by 64-bit hashes, many times faster than comparing them; two that collide are found out, and
    then they are compared.
    """
    keys, place = torch.unique((states * _multipliers(states.shape[1], states.device)).sum(1), return_inverse=True)
    example = torch.empty_like(keys).scatter_(0, place, torch.arange(len(states), device=states.device))
    rows = states[example]
    if not torch.equal(rows.index_select(0, place), states):
        rows, place = torch.unique(states, dim=0, return_inverse=True)
    return rows, place


@functools.cache
def _multipliers(width: int, device: torch.device) -> Int[Tensor, " width"]:
    """Fixed random odd numbers, one a column; products and sums wrap around."""
    random = torch.randint(-(2**62), 2**62, (width,), generator=torch.Generator().manual_seed(width))
    return (2 * random + 1).to(device)
