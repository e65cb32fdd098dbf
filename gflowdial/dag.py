"""A small acyclic graph of states, written out in full: where exact answers about an environment are computed."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from gflowdial.forest import Forest
from gflowdial.numerics import first_true, usable_in_training
from gflowdial.shapes import Int, Tensor

__all__ = ["Dag", "Level", "longest_path"]


@dataclass(frozen=True, eq=False)
class Level:
    """The nodes of one level and all edges out of them (or into them): what one step of dynamic programming reads.

    Attributes:
        nodes: those that have such an edge, ascending.
        edges: the edges, indices into those of the dag.
        position: which of ``nodes`` each edge belongs to.
    """

    nodes: Int[Tensor, " members"]
    edges: Int[Tensor, " degree"]
    position: Int[Tensor, " degree"]


@usable_in_training
@dataclass(frozen=True, eq=False)
class Dag:
    """Numbered nodes and edges between them; every edge leads from a smaller to a greater number.

    Tensors beside it are flat, as with a `Forest`: ``[nodes]``, ``[edges]``, and rewards ``[terminals]``. Two edges may
    join the same nodes.

    Build one with `from_edges` or `from_adjacency`, which check what they are given; the bare constructor does not.

    Attributes:
        source: the node that each edge leaves, int64.
        target: the node that each edge enters, int64.
        num_nodes: how many nodes there are.
    """

    source: Int[Tensor, " edges"]
    target: Int[Tensor, " edges"]
    num_nodes: int

    @staticmethod
    def from_edges(source: Tensor, target: Tensor, num_nodes: int) -> "Dag":
        """A graph from its edges, in any order.

        Args:
            source: the node that each edge leaves, ``int64 [edges]``.
            target: the node that each edge enters, ``int64 [edges]``.
            num_nodes: how many nodes there are; a node without edges is a root and a terminal.

        Raises:
            ValueError: if there is no node, the two are not int64 vectors of one length, a node is out of range, or an
                edge does not lead from a smaller to a greater number.
        """
        if num_nodes < 1:
            raise ValueError(f"num_nodes must be 1 or more; got {num_nodes}.")
        for name, nodes in (("source", source), ("target", target)):
            if nodes.dtype != torch.int64:
                raise ValueError(f"{name} must be int64; got {nodes.dtype}. Convert it with {name}.long().")
            if nodes.ndim != 1:
                raise ValueError(f"{name} must be a vector, one entry an edge; got shape {list(nodes.shape)}.")
            if (edge := first_true((nodes < 0) | (nodes >= num_nodes))) is not None:
                raise ValueError(f"{name}[{edge}] is {int(nodes[edge])}, out of range: nodes are 0 to {num_nodes - 1}.")
        if len(source) != len(target):
            raise ValueError(f"source and target must be equally long; got {len(source)} and {len(target)}.")
        if (edge := first_true(source >= target)) is not None:
            raise ValueError(
                f"edge {edge} leads from node {int(source[edge])} to node {int(target[edge])}: number the nodes so "
                "that every edge leads from a smaller to a greater number, by `longest_path` for instance."
            )
        return Dag(source, target, num_nodes)

    @staticmethod
    def from_adjacency(children: Sequence[Sequence[int]]) -> "Dag":
        """A graph from the nodes that each node leads to; its edges come in that order.

        Raises:
            ValueError: as `from_edges`.
        """
        source = [node for node, below in enumerate(children) for _ in below]
        target = [child for below in children for child in below]
        return Dag.from_edges(
            torch.tensor(source, dtype=torch.int64), torch.tensor(target, dtype=torch.int64), len(children)
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # What can be derived is left out of pickles and copies.
        return Dag, (self.source, self.target, self.num_nodes)

    def to(self, device: torch.device | str) -> "Dag":
        """The same graph on another device."""
        return Dag(self.source.to(device), self.target.to(device), self.num_nodes)

    @property
    def device(self) -> torch.device:
        """Where the graph's tensors live."""
        return self.source.device

    @property
    def num_edges(self) -> int:
        """Edges, parallel ones counted each."""
        return len(self.source)

    @cached_property
    def num_parents(self) -> Int[Tensor, " nodes"]:
        """Edges into each node."""
        return torch.bincount(self.target, minlength=self.num_nodes)

    @cached_property
    def num_children(self) -> Int[Tensor, " nodes"]:
        """Edges out of each node."""
        return torch.bincount(self.source, minlength=self.num_nodes)

    @cached_property
    def roots(self) -> Int[Tensor, " roots"]:
        """The nodes that no edge enters, ascending."""
        return torch.nonzero(self.num_parents == 0).squeeze(1)

    @cached_property
    def terminals(self) -> Int[Tensor, " terminals"]:
        """The nodes that no edge leaves, ascending; the order of rewards."""
        return torch.nonzero(self.num_children == 0).squeeze(1)

    @cached_property
    def root_of(self) -> Int[Tensor, " nodes"]:
        """The root above each node, an index into `roots`.

        Raises:
            ValueError: if a node lies below two roots.
        """
        # Any one edge into each node makes a forest; its trees are whole exactly where no other edge joins two.
        some_parent = torch.full((self.num_nodes,), -1, device=self.device).scatter(0, self.target, self.source)
        tree = Forest(some_parent).tree
        if (edge := first_true(tree[self.source] != tree[self.target])) is not None:
            first, second = (int(self.roots[tree[ends[edge]]]) for ends in (self.source, self.target))
            raise ValueError(
                f"node {int(self.target[edge])} lies below the roots {first} and {second}: give states that follow "
                "different conditions nodes of their own, or join the roots under one."
            )
        return tree

    @cached_property
    def level(self) -> Int[Tensor, " nodes"]:
        """Edges on the longest path from a root to each node."""
        return longest_path(self.source, self.target, self.num_nodes)

    @cached_property
    def levels_down(self) -> tuple[Level, ...]:
        """From the roots on: the nodes of each level with the edges into them, all of which leave earlier levels."""
        return self._levels(self.target)

    @cached_property
    def levels_up(self) -> tuple[Level, ...]:
        """From the deepest on: the nodes of each level with the edges out of them, all of which enter deeper levels."""
        return self._levels(self.source)[::-1]

    def _levels(self, end: Tensor) -> tuple[Level, ...]:
        level = self.level[end]
        order = torch.argsort(level * self.num_nodes + end, stable=True)
        groups = [edges for edges in torch.split(order, torch.bincount(level).tolist()) if len(edges)]
        members = (torch.unique_consecutive(end[edges], return_inverse=True) for edges in groups)
        return tuple(Level(nodes, edges, position) for edges, (nodes, position) in zip(groups, members, strict=True))


def longest_path(source: Int[Tensor, " edges"], target: Int[Tensor, " edges"], num_nodes: int) -> Int[Tensor, " nodes"]:
    """Edges on the longest path to each node, 0 where none enters; the nodes may be numbered in any way.

    Sorting nodes by it gives a numbering in which every edge leads from a smaller to a greater number.

    Raises:
        ValueError: if the edges close a circle.
    """
    by_source = torch.argsort(source, stable=True)
    out_degree = torch.bincount(source, minlength=num_nodes)
    first_edge = out_degree.cumsum(0) - out_degree
    waiting = torch.bincount(target, minlength=num_nodes)
    level = torch.zeros_like(waiting)
    ready, depth = torch.nonzero(waiting == 0).squeeze(1), 0
    while len(ready):
        level[ready] = depth
        # The edges of the ready nodes, laid end to end.
        degree = out_degree[ready]
        shift = first_edge[ready] - (degree.cumsum(0) - degree)
        edges = torch.arange(int(degree.sum()), device=source.device) + shift.repeat_interleave(degree)
        reached, times = torch.unique(target[by_source[edges]], return_counts=True)
        waiting[reached] -= times
        ready, depth = reached[waiting[reached] == 0], depth + 1
    if (node := first_true(waiting > 0)) is not None:
        raise ValueError(f"the edges close a circle on the way to node {node}; flows need an acyclic graph.")
    return level
