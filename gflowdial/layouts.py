"""What follows from the parents of a forest: indices, and sums along paths, in three layouts.

Chains of one length are a table, whose rows need no index. Other chains that lie end to end need cumulative sums.
Trees need an index of parents and rounds of jumps to ancestors. An operation is written once per layout that has a
shorter way to the same values; a forest finds out its layout once, and no other code asks for it.
"""

from dataclasses import dataclass
from functools import cached_property

import torch

from gflowdial import filters
from gflowdial.numerics import check_length, lifted, lifted_dtype, precise_dtype, usable_in_training
from gflowdial.shapes import Float, Int, Tensor


@usable_in_training
@dataclass(frozen=True, eq=False)
class Rooted:
    """Rooted trees on numbered nodes; every parent has a smaller number than its children.

    Attributes:
        parent: the parent of each node, -1 at a root; int64.
    """

    parent: Int[Tensor, " nodes"]

    @property
    def device(self) -> torch.device:
        """Where the forest's tensors live."""
        return self.parent.device

    @property
    def num_nodes(self) -> int:
        """States, over all trees."""
        return self.parent.shape[0]

    @property
    def num_edges(self) -> int:
        """Actions, over all trees."""
        return self.edge_child.shape[0]

    @property
    def num_leaves(self) -> int:
        """Nodes without children; a single-node tree's root is one."""
        return self.leaves.shape[0]

    @property
    def num_trees(self) -> int:
        """Trees, which is roots."""
        return self.roots.shape[0]

    @cached_property
    def layout(self) -> "Tree":
        """How the nodes lie: `Table`, `Chains` or `Tree`."""
        before = torch.arange(-1, self.num_nodes - 1, device=self.device)
        if bool(((self.parent < 0) | (self.parent == before)).all()):
            return Chains.of(self.roots, self.num_nodes)
        return Tree()

    @cached_property
    def roots(self) -> Int[Tensor, " trees"]:
        """The roots, ascending; the order of trees."""
        return torch.nonzero(self.parent < 0).squeeze(1)

    @cached_property
    def edge_child(self) -> Int[Tensor, " edges"]:
        """The node that each edge leads to: the non-root nodes, ascending; the order of edges."""
        return torch.nonzero(self.parent >= 0).squeeze(1)

    @cached_property
    def edge_parent(self) -> Int[Tensor, " edges"]:
        """The node that each edge starts from."""
        return self.parent[self.edge_child]

    @cached_property
    def num_children(self) -> Int[Tensor, " nodes"]:
        """Edges out of each node."""
        return torch.bincount(self.edge_parent, minlength=self.num_nodes)

    @cached_property
    def leaves(self) -> Int[Tensor, " leaves"]:
        """The nodes without children, ascending; the order of rewards."""
        return self.layout.leaves(self)

    @cached_property
    def tree(self) -> Int[Tensor, " nodes"]:
        """The tree that each node belongs to, an index into `roots`."""
        return self.layout.tree(self)

    @cached_property
    def depth(self) -> Int[Tensor, " nodes"]:
        """Steps from the root."""
        return self.layout.depth(self)

    @cached_property
    def edge_tree(self) -> Int[Tensor, " edges"]:
        """The tree that each edge belongs to."""
        return self.tree[self.edge_child]

    @cached_property
    def leaf_tree(self) -> Int[Tensor, " leaves"]:
        """The tree that each leaf belongs to."""
        return self.tree[self.leaves]

    @cached_property
    def leaf_share(self) -> float | Float[Tensor, " leaves"]:
        """Each leaf's weight in a mean over the leaves of each tree, then over trees; one number if all are equal."""
        return self.layout.leaf_share(self)

    @cached_property
    def edge_share(self) -> float | Float[Tensor, " edges"]:
        """Each edge's weight in a mean over the edges of each tree, then over trees; one number if all are equal."""
        return self.layout.edge_share(self)

    @cached_property
    def leaves_below(self) -> Int[Tensor, " nodes"]:
        """Leaves in the subtree of each node, which is root-to-leaf paths through it; 1 at a leaf."""
        return self.subtree_sum((self.num_children == 0).to(precise_dtype(self.device))).long()

    def ancestor(self, nodes: Int[Tensor, " queries"], steps: Int[Tensor, " queries"]) -> Int[Tensor, " queries"]:
        """The node ``steps`` above each of ``nodes``; ``steps`` is at most the node's depth, which is not checked."""
        return self.layout.ancestor(self, nodes, steps)

    def edges_to_nodes(self, edge_values: Float[Tensor, " edges"]) -> Float[Tensor, " nodes"]:
        """Each edge's value at the node it leads to, 0 at roots."""
        check_length("edge_values", edge_values, self.num_edges, "edge")
        return self.layout.edges_to_nodes(self, edge_values)

    def trees_to_leaves(self, tree_values: Float[Tensor, " trees"]) -> Float[Tensor, " leaves"]:
        """Each tree's value at its leaves. Differentiable."""
        check_length("tree_values", tree_values, self.num_trees, "tree")
        return self.layout.trees_to_leaves(self, tree_values)

    def set_leaves_(self, x: Float[Tensor, " nodes"], leaf_values: Float[Tensor, " leaves"]) -> None:
        """Write ``leaf_values``, cast to the dtype of ``x``, into the entries of ``x`` at leaves."""
        check_length("x", x, self.num_nodes, "node")
        check_length("leaf_values", leaf_values, self.num_leaves, "leaf")
        self.layout.set_leaves_(self, x, leaf_values)

    def clear_leaves_(self, x: Float[Tensor, " nodes"]) -> None:
        """Write 0 into the entries of ``x`` at leaves."""
        check_length("x", x, self.num_nodes, "node")
        self.layout.clear_leaves_(self, x)

    def difference(self, x: Float[Tensor, " nodes"]) -> Float[Tensor, " edges"]:
        """``x(child) - x(parent)`` of each edge. Differentiable."""
        check_length("x", x, self.num_nodes, "node")
        return self.layout.difference(self, lifted(x))

    def divergence(self, edge_values: Float[Tensor, " edges"]) -> Float[Tensor, " nodes"]:
        """The values of the edges out of each node less that of the edge into it: minus the transpose of `difference`.
        Differentiable."""
        check_length("edge_values", edge_values, self.num_edges, "edge")
        return self.layout.divergence(self, lifted(edge_values))

    def root_sum(self, edge_values: Float[Tensor, " edges"]) -> Float[Tensor, " nodes"]:
        """The sum of ``edge_values`` along the path from the root to each node; 0 at roots. Differentiable."""
        values = lifted(self.edges_to_nodes(edge_values))
        return values + self.ancestor_filter(values)

    def leaf_sum(
        self,
        edge_values: Float[Tensor, " edges"],
        dtype: torch.dtype | None = None,
        *,
        minus: Float[Tensor, " edges"] | None = None,
    ) -> Float[Tensor, " leaves"]:
        """The sum of ``edge_values`` along the path from the root to each leaf. Differentiable.

        Args:
            edge_values: one per edge.
            dtype: what they are cast to before they are summed, float32 at least; by default their own.
            minus: what is subtracted from them, after that cast.
        """
        for name, values in (("edge_values", edge_values), ("minus", minus)):
            if values is not None:
                check_length(name, values, self.num_edges, "edge")
        return self.layout.leaf_sum(self, edge_values, minus, lifted_dtype(dtype or edge_values.dtype))

    def edge_sum(
        self, leaf_values: Float[Tensor, " leaves"], dtype: torch.dtype | None = None
    ) -> Float[Tensor, " edges"]:
        """The sum of ``leaf_values`` over the leaves below each edge: the transpose of `leaf_sum`. Differentiable.

        Args:
            leaf_values: one per leaf.
            dtype: what the sums are cast to; by default that of ``leaf_values``, float32 at least.
        """
        check_length("leaf_values", leaf_values, self.num_leaves, "leaf")
        return self.layout.edge_sum(self, leaf_values, dtype or lifted_dtype(leaf_values.dtype))

    def subtree_sum(self, x: Float[Tensor, " nodes"]) -> Float[Tensor, " nodes"]:
        """The sum of ``x`` over the subtree of each node, the node itself among it. Differentiable."""
        return lifted(x) + self.descendant_filter(x)

    def subtree_logsumexp(self, x: Float[Tensor, " nodes"]) -> Float[Tensor, " nodes"]:
        """``log Σ exp x`` over the subtree of each node, itself among it; -inf counts nothing. Differentiable."""
        check_length("x", x, self.num_nodes, "node")
        return self._jumps.logsumexp(lifted(x))

    def ancestor_filter(self, x: Float[Tensor, " nodes"], decay: float = 1.0) -> Float[Tensor, " nodes"]:
        """``y_n = Σ over proper ancestors a of n of decay^distance(a, n) · x_a``. Differentiable.

        Raises:
            ValueError: if ``decay`` is outside (0, 1].
        """
        check_length("x", x, self.num_nodes, "node")
        return filters.forest_filter(x, decay, self, down=False)

    def descendant_filter(self, x: Float[Tensor, " nodes"], decay: float = 1.0) -> Float[Tensor, " nodes"]:
        """``y_m = Σ over proper descendants n of m of decay^distance(m, n) · x_n``: the transpose of
        `ancestor_filter`. Differentiable.

        Raises:
            ValueError: if ``decay`` is outside (0, 1].
        """
        check_length("x", x, self.num_nodes, "node")
        return filters.forest_filter(x, decay, self, down=True)

    @cached_property
    def _paths(self) -> filters.Paths:
        return self.layout.paths(self)

    @cached_property
    def _jumps(self) -> filters.TreeJumps:
        return filters.TreeJumps.of(self.parent)

    @cached_property
    def _jump_table(self) -> Int[Tensor, "rounds nodes"]:
        """The ancestor 2^k steps up of each node deep enough, in row k; 0 elsewhere."""
        rounds = self._jumps.tables
        table = self.parent.new_zeros(len(rounds), self.num_nodes)
        for row, (nodes, ancestors) in zip(table, rounds, strict=True):
            row[nodes] = ancestors
        return table


@dataclass(frozen=True)
class Tree:
    """Trees of any shape, whose nodes may interleave. Its methods are those of `Rooted`, for any layout."""

    def leaves(self, forest: Rooted) -> Tensor:
        return torch.nonzero(forest.num_children == 0).squeeze(1)

    def tree(self, forest: Rooted) -> Tensor:
        # Each round doubles the distance jumped: after all of them every node has met its root.
        top = torch.arange(forest.num_nodes, device=forest.device)
        for nodes, ancestors in forest._jumps.tables:
            top[nodes] = top[ancestors]
        return torch.searchsorted(forest.roots, top)

    def depth(self, forest: Rooted) -> Tensor:
        depth = (forest.parent >= 0).long()
        for nodes, ancestors in forest._jumps.tables:
            depth[nodes] += depth[ancestors]
        return depth

    def leaf_share(self, forest: Rooted) -> float | Tensor:
        return _share(forest.leaf_tree, forest)

    def edge_share(self, forest: Rooted) -> float | Tensor:
        return _share(forest.edge_tree, forest)

    def paths(self, forest: Rooted) -> filters.Paths:
        return forest._jumps

    def ancestor(self, forest: Rooted, nodes: Tensor, steps: Tensor) -> Tensor:
        return filters.climb(forest._jump_table, nodes, steps)

    def edges_to_nodes(self, forest: Rooted, edge_values: Tensor) -> Tensor:
        return edge_values.new_zeros(forest.num_nodes).scatter_(0, forest.edge_child, edge_values)

    def trees_to_leaves(self, forest: Rooted, tree_values: Tensor) -> Tensor:
        return tree_values[forest.leaf_tree]

    def set_leaves_(self, forest: Rooted, x: Tensor, leaf_values: Tensor) -> None:
        x.index_copy_(0, forest.leaves, leaf_values.to(x.dtype))

    def clear_leaves_(self, forest: Rooted, x: Tensor) -> None:
        x.index_fill_(0, forest.leaves, 0.0)

    def difference(self, forest: Rooted, x: Tensor) -> Tensor:
        return x.index_select(0, forest.edge_child) - x.index_select(0, forest.edge_parent)

    def divergence(self, forest: Rooted, edge_values: Tensor) -> Tensor:
        return self.edges_to_nodes(forest, edge_values).neg().index_add_(0, forest.edge_parent, edge_values)

    def leaf_sum(self, forest: Rooted, edge_values: Tensor, minus: Tensor | None, dtype: torch.dtype) -> Tensor:
        return forest.root_sum(_less(edge_values, minus, dtype))[forest.leaves]

    def edge_sum(self, forest: Rooted, leaf_values: Tensor, dtype: torch.dtype) -> Tensor:
        at_leaves = leaf_values.new_zeros(forest.num_nodes).index_copy(0, forest.leaves, leaf_values)
        return forest.subtree_sum(at_leaves).index_select(0, forest.edge_child).to(dtype)


@dataclass(frozen=True)
class Chains(Tree):
    """Chains that lie end to end: the parent of node n is n - 1, unless n is a root; a chain has one leaf."""

    @staticmethod
    def of(roots: Int[Tensor, " trees"], num_nodes: int) -> "Chains":
        """A `Table` if all chains are of one length; waits for the device."""
        size, rest = divmod(num_nodes, len(roots))
        return Table(size) if rest == 0 and bool((roots.diff() == size).all()) else Chains()

    def leaves(self, forest: Rooted) -> Tensor:
        return torch.cat([forest.roots[1:], forest.roots.new_tensor([forest.num_nodes])]) - 1

    def tree(self, forest: Rooted) -> Tensor:
        return (forest.parent < 0).cumsum(0) - 1

    def depth(self, forest: Rooted) -> Tensor:
        return torch.arange(forest.num_nodes, device=forest.device) - forest.roots[forest.tree]

    def leaf_share(self, forest: Rooted) -> float | Tensor:
        return 1 / forest.num_trees

    def paths(self, forest: Rooted) -> filters.Paths:
        return filters.Chains(forest.roots.diff(append=forest.roots.new_tensor([forest.num_nodes])))

    def ancestor(self, forest: Rooted, nodes: Tensor, steps: Tensor) -> Tensor:  # noqa: ARG002
        return nodes - steps

    def trees_to_leaves(self, forest: Rooted, tree_values: Tensor) -> Tensor:  # noqa: ARG002
        return tree_values

    def difference(self, forest: Rooted, x: Tensor) -> Tensor:
        return torch.constant_pad_nd(x.diff(), (1, 0)).index_select(0, forest.edge_child)

    def divergence(self, forest: Rooted, edge_values: Tensor) -> Tensor:
        # The edge out of node n is the edge into node n + 1, and a root has 0 there.
        return torch.constant_pad_nd(self.edges_to_nodes(forest, edge_values), (0, 1)).diff()

    def leaf_sum(self, forest: Rooted, edge_values: Tensor, minus: Tensor | None, dtype: torch.dtype) -> Tensor:
        values = _less(edge_values, minus, dtype)
        return values.new_zeros(forest.num_trees).index_add(0, forest.edge_tree, values)

    def edge_sum(self, forest: Rooted, leaf_values: Tensor, dtype: torch.dtype) -> Tensor:
        return leaf_values.to(dtype).index_select(0, forest.edge_tree)


@dataclass(frozen=True)
class Table(Chains):
    """Chains of one length: values of nodes are a table ``[trees, size]``, of edges ``[trees, size - 1]``.

    Attributes:
        size: nodes of each chain.
    """

    size: int

    def edge_share(self, forest: Rooted) -> float | Tensor:
        return 1 / forest.num_edges if self.size > 1 else super().edge_share(forest)

    def edges_to_nodes(self, forest: Rooted, edge_values: Tensor) -> Tensor:
        return torch.constant_pad_nd(edge_values.view(forest.num_trees, -1), (1, 0)).view(-1)

    def set_leaves_(self, forest: Rooted, x: Tensor, leaf_values: Tensor) -> None:  # noqa: ARG002
        x[self.size - 1 :: self.size].copy_(leaf_values)

    def clear_leaves_(self, forest: Rooted, x: Tensor) -> None:  # noqa: ARG002
        x[self.size - 1 :: self.size].zero_()

    def difference(self, forest: Rooted, x: Tensor) -> Tensor:
        return x.view(forest.num_trees, -1).diff(dim=1).view(-1)

    def divergence(self, forest: Rooted, edge_values: Tensor) -> Tensor:
        return torch.constant_pad_nd(edge_values.view(forest.num_trees, -1), (1, 1)).diff(dim=1).view(-1)

    def leaf_sum(self, forest: Rooted, edge_values: Tensor, minus: Tensor | None, dtype: torch.dtype) -> Tensor:
        # Two sums over rows need no copy of both in `dtype`.
        total = edge_values.reshape(forest.num_trees, -1).sum(1, dtype=dtype)
        return total if minus is None else total - minus.reshape(forest.num_trees, -1).sum(1, dtype=dtype)

    def edge_sum(self, forest: Rooted, leaf_values: Tensor, dtype: torch.dtype) -> Tensor:
        return leaf_values.to(dtype).repeat_interleave(self.size - 1, output_size=forest.num_edges)


def _share(tree: Int[Tensor, " items"], forest: Rooted) -> Float[Tensor, " items"]:
    ones = torch.ones(len(tree), dtype=precise_dtype(forest.device), device=forest.device)
    return (ones.new_zeros(forest.num_trees).index_add(0, tree, ones) * forest.num_trees).reciprocal()[tree]


def _less(edge_values: Tensor, minus: Tensor | None, dtype: torch.dtype) -> Tensor:
    # What is subtracted from a wider dtype is cast on the way.
    values = edge_values.to(dtype)
    return values if minus is None else values - minus
