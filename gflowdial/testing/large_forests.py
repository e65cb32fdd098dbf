"""Forests that are large in one way each: deep, wide, of many trees, ragged; each family grows with one number."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from gflowdial.forest import Forest

FAR = 1000.0
"""Numbers, in nats, whose exponentials overflow and underflow in float64."""


@dataclass(frozen=True)
class Family:
    """Forests of one kind.

    Attributes:
        build: the forest of a size and a seed.
        size: of the largest one that is tried.
        spread: how large log F, log R and -log P_B are, in nats.
    """

    build: Callable[[int, int], Forest]
    size: int
    spread: float = 3.0


def deep_chain(size: int, seed: int) -> Forest:
    """One trajectory of ``size`` actions behind a short one."""
    return Forest.from_lengths([seed % 3, size])


def ragged_chains(size: int, seed: int) -> Forest:
    """Trajectories of 0 to ``size`` actions, the last of them the longest."""
    lengths = torch.randint(size + 1, (9,), generator=torch.Generator().manual_seed(seed)).tolist()
    return Forest.from_lengths([*lengths, size])


def many_chains(size: int, seed: int) -> Forest:
    """``size`` trajectories of 1 to 4 actions."""
    return Forest.from_lengths(torch.randint(1, 5, (size,), generator=torch.Generator().manual_seed(seed)))


def deep_tree(size: int, seed: int) -> Forest:
    """A path of ``size`` actions with a leaf beside most of its steps."""
    beside = torch.rand(size, generator=torch.Generator().manual_seed(seed)) < 0.8
    parent, last = [-1], 0
    for leaf in beside.tolist():
        parent += [last] * (1 + leaf)
        last = len(parent) - 1
    return Forest.from_parents(torch.tensor(parent))


def wide_tree(size: int, seed: int) -> Forest:
    """``size`` actions at the root, and more below some of them."""
    generator = torch.Generator().manual_seed(seed)
    below = torch.randint(1, size + 1, (size // 4,), generator=generator).tolist()
    return Forest.from_parents(torch.tensor([-1, *[0] * size, *below]))


def many_trees(size: int, seed: int) -> Forest:
    """``size`` trees of a few nodes, which interleave."""
    generator = torch.Generator().manual_seed(seed)
    above = torch.rand(2 * size, generator=generator) * torch.arange(size, 3 * size)
    return Forest.from_parents(torch.cat([torch.full((size,), -1), above.long()]))


def bushy_tree(size: int, seed: int) -> Forest:
    """A tree of ``size`` nodes in which each hangs below an evenly drawn earlier one."""
    generator = torch.Generator().manual_seed(seed)
    above = (torch.rand(size, generator=generator) * torch.arange(size)).long()
    above[0] = -1
    return Forest.from_parents(above)


CHAINS: dict[str, Family] = {
    "a deep chain": Family(deep_chain, 300),
    "ragged chains": Family(ragged_chains, 60),
    "many chains": Family(many_chains, 40),
    "large numbers": Family(ragged_chains, 4, FAR),
}
TREES: dict[str, Family] = {
    "a deep tree": Family(deep_tree, 120),
    "a wide tree": Family(wide_tree, 80),
    "many trees": Family(many_trees, 40),
    "a bushy tree": Family(bushy_tree, 150),
    "large numbers in a tree": Family(bushy_tree, 12, FAR),
}
