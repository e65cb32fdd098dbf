"""Sums over every ancestor pair, one pair at a time, in float64."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from gflowdial import Forest


def pairs(forest: Forest, decay: float, pair_weight: str) -> tuple[Tensor, Tensor, Tensor]:
    """``(ancestor, node, weight)`` of every ancestor pair; the weight's sum is 1 in every tree that has pairs."""
    parent = forest.parent.numpy()
    ancestor, node, distance = [], [], []
    above, steps = parent.copy(), 1
    while (above >= 0).any():
        low = np.nonzero(above >= 0)[0]
        ancestor.append(above[low])
        node.append(low)
        distance.append(np.full(len(low), float(steps)))
        above = np.where(above >= 0, parent[above], -1)
        steps += 1
    if not ancestor:
        empty = torch.zeros(0, dtype=torch.int64)
        return empty, empty, torch.zeros(0, dtype=torch.float64)
    m, n = (torch.as_tensor(np.concatenate(x)) for x in (ancestor, node))
    weight = decay ** torch.as_tensor(np.concatenate(distance))
    if pair_weight == "path":
        is_leaf = ~np.isin(np.arange(len(parent)), parent)
        leaves = is_leaf.astype(float)
        np.add.at(leaves, m.numpy()[is_leaf[n.numpy()]], 1.0)
        weight = weight * torch.as_tensor(leaves)[n]
    total = torch.zeros(forest.num_trees, dtype=torch.float64).index_add(0, forest.tree[n], weight)
    return m, n, weight / total[forest.tree[n]]


def root_sums(forest: Forest, edge_values: Tensor) -> Tensor:
    """The sum from the root to each node, node by node."""
    sums: list[Tensor] = []
    edge = 0
    for above in forest.parent.tolist():
        if above < 0:
            sums.append(edge_values.new_zeros(()))
        else:
            sums.append(sums[above] + edge_values[edge])
            edge += 1
    return torch.stack(sums)


def subtb(
    log_flow: Tensor,
    log_ratio: Tensor,
    forest: Forest,
    decay: float,
    pair_weight: str,
    penalty: Callable[[Tensor], Tensor] = torch.square,
) -> Tensor:
    """Mean over trees of the weighted mean of the residuals' penalties, with ``log_flow`` as it stands."""
    m, n, weight = pairs(forest, decay, pair_weight)
    along = root_sums(forest, log_ratio)
    residual = log_flow[n] - log_flow[m] - (along[n] - along[m])
    return (weight * penalty(residual)).sum() / forest.num_trees


def leaf_sums(forest: Forest, edge_values: Tensor) -> Tensor:
    """The sum from the root to each leaf."""
    return root_sums(forest, edge_values)[forest.leaves]


def tree_mean(values: list[Tensor], tree: list[int], forest: Forest) -> Tensor:
    """The mean of ``values`` within each tree, then over trees, one at a time; 0 for a tree without any."""
    means = []
    for i in range(forest.num_trees):
        own = [value for value, t in zip(values, tree, strict=True) if t == i]
        means.append(torch.stack(own).mean() if own else torch.zeros((), dtype=torch.float64))
    return torch.stack(means).mean()
