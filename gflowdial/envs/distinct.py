"""Equal states in a batch: trajectories share their beginnings, and small spaces are soon all visited."""

import functools

import torch

from gflowdial.shapes import Int, Tensor


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
    """A 64-bit hash of each state: a sum with random odd weights modulo 2^64.

    Of 100,000 states two share one with a chance of about 1 in 10^9; who relies on it compares what it finds in full.
    """
    return (states * _weights(states.shape[1], states.device)).sum(1)


@functools.cache
def _weights(width: int, device: torch.device) -> Int[Tensor, " width"]:
    random = torch.randint(-(2**62), 2**62, (width,), generator=torch.Generator().manual_seed(width))
    return (2 * random + 1).to(device)
