"""The forest: one index structure for batches of trajectories (chains) and for search results (trees)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar, cast

import torch

from gflowdial import filters
from gflowdial.precision import precise_dtype
from gflowdial.shapes import Bool, Float, Int, Tensor

Kept = TypeVar("Kept")


@dataclass(frozen=True, eq=False)
class Forest:
    """Rooted trees on numbered nodes; every parent has a smaller number than its children.

    Tensors beside a forest are flat and never padded: one value per state is ``[nodes]``, per action ``[edges]``
    (in the order of `edge_child`), per reward ``[leaves]`` (in the order of `leaves`), per tree ``[trees]`` (in the
    order of `roots`). The nodes of a tree need not be neighbours.

    Build one with `from_lengths`, `from_parents`, `from_mask` or `from_offsets`, which check what they are given;
    the bare constructor does not.

    Attributes:
        parent: the parent of each node, -1 at a root; int64.
    """

    parent: Int[Tensor, " nodes"]

    @staticmethod
    def from_lengths(lengths: Tensor | Sequence[int]) -> "Forest":
        """Chains laid end to end: a trajectory of ``lengths[i]`` actions has ``lengths[i] + 1`` nodes.

        Args:
            lengths: actions per trajectory, ``[trees]``; 0 is a trajectory that ends where it starts.

        Raises:
            ValueError: if there is no trajectory, or a length is negative or no integer.
        """
        lengths = torch.as_tensor(lengths)
        if lengths.ndim != 1 or lengths.numel() == 0:
            raise ValueError(
                f"lengths must be a non-empty vector, one entry a trajectory; got shape {_shape(lengths)}."
            )
        if lengths.is_floating_point() or lengths.dtype == torch.bool:
            raise ValueError(f"lengths must be integers, actions per trajectory; got {lengths.dtype}.")
        if bool((lengths < 0).any()):
            first = int(torch.nonzero(lengths < 0)[0])
            raise ValueError(f"lengths must be 0 or more; lengths[{first}] is {int(lengths[first])}.")
        nodes = lengths.long() + 1
        parent = torch.arange(int(nodes.sum()), device=lengths.device) - 1
        parent[nodes.cumsum(0) - nodes] = -1
        return Forest(parent)

    @staticmethod
    def from_parents(parent: Tensor) -> "Forest":
        """Any forest, from the parent of each node, ``int64 [nodes]``, -1 at a root.

        Raises:
            ValueError: if ``parent`` is empty, no int64 vector, points outside the forest, or puts a child before
                its parent.
        """
        if parent.dtype != torch.int64:
            raise ValueError(f"parent must be int64; got {parent.dtype}. Convert it with parent.long().")
        if parent.ndim != 1:
            raise ValueError(f"parent must be a vector, one entry a node; got shape {_shape(parent)}.")
        if parent.numel() == 0:
            raise ValueError("parent is empty; a forest needs at least one node.")
        outside = (parent < -1) | (parent >= len(parent))
        if bool(outside.any()):
            node = int(torch.nonzero(outside)[0])
            raise ValueError(
                f"parent[{node}] is {int(parent[node])}, out of range: it must be a node (0 to {len(parent) - 1}) "
                "or -1 at a root."
            )
        late = parent >= torch.arange(len(parent), device=parent.device)
        if bool(late.any()):
            node = int(torch.nonzero(late)[0])
            raise ValueError(
                f"parent[{node}] is {int(parent[node])}: a child before its parent. Renumber the nodes so that "
                "every parent comes first, in order of depth for instance."
            )
        return Forest(parent)

    @staticmethod
    def from_mask(mask: Bool[Tensor, "trees steps"]) -> "Forest":
        """Chains from a padded batch: ``mask[i, t]`` says that trajectory i took an action at step t.

        The edges come in the order of ``values[mask]``, which turns padded per-action tensors into flat ones.

        Raises:
            ValueError: if a row has an action after a gap (pad on the right only).
        """
        gap = mask[:, 1:] & ~mask[:, :-1]
        if bool(gap.any()):
            row = int(torch.nonzero(gap)[0, 0])
            raise ValueError(f"mask row {row} takes an action after a gap: align the batch left, pad it on the right.")
        return Forest.from_lengths(mask.sum(1))

    @staticmethod
    def from_offsets(offsets: Int[Tensor, " bounds"]) -> "Forest":
        """Chains from PyTorch's jagged layout: tree i holds the nodes ``offsets[i]`` to ``offsets[i + 1]``.

        Raises:
            ValueError: if ``offsets`` does not start at 0 or does not grow (every tree has a root).
        """
        if len(offsets) < 2 or int(offsets[0]) != 0 or bool((offsets.diff() < 1).any()):
            raise ValueError("offsets must start at 0 and grow by at least one node per tree.")
        return Forest.from_lengths(offsets.diff() - 1)

    @staticmethod
    def from_jagged(values: Tensor) -> "tuple[Forest, Tensor]":
        """A jagged nested tensor of node values ``[trees, j, ...]`` as ``(chains, flat values [nodes, ...])``.

        Raises:
            ValueError: if ``values`` is not of layout ``torch.jagged``.
        """
        if values.layout != torch.jagged:
            raise ValueError(
                "from_jagged takes a nested tensor of layout torch.jagged; see torch.nested.nested_tensor."
            )
        return Forest.from_offsets(values.offsets()), values.values()  # type: ignore[attr-defined]

    @staticmethod
    def concatenate(forests: "Sequence[Forest]") -> "Forest":
        """All trees of ``forests`` in one, one forest after the other.

        Every order is kept: values beside the forests, of nodes, edges, leaves or trees, join by ``torch.cat``.

        Raises:
            ValueError: if there is no forest.
        """
        if not forests:
            raise ValueError("concatenate needs at least one forest.")
        starts = torch.tensor([0, *(forest.num_nodes for forest in forests[:-1])]).cumsum(0).tolist()
        moved = [forest.parent + start for forest, start in zip(forests, starts, strict=True)]
        return Forest(torch.cat([p.where(f.parent >= 0, -1) for p, f in zip(moved, forests, strict=True)]))

    def split(self) -> "tuple[Part, ...]":
        """Each tree as a forest of its own, in the order of `roots`, with where its values are in this one."""
        position = torch.empty_like(self.parent)

        def by_tree(tree: Tensor) -> tuple[Tensor, ...]:
            sizes = torch.bincount(tree, minlength=self.num_trees).tolist()
            return torch.split(torch.argsort(tree, stable=True), sizes)

        parts = []
        for nodes, edges, leaves in zip(
            by_tree(self.tree), by_tree(self.edge_tree), by_tree(self.leaf_tree), strict=True
        ):
            position[nodes] = torch.arange(len(nodes), device=self.device)
            above = self.parent[nodes]
            parts.append(Part(Forest(above.where(above < 0, position[above])), nodes, edges, leaves))
        return tuple(parts)

    def prepare(self, *decays: float) -> "Forest":
        """Derive now what is otherwise derived on first use, and return the forest itself.

        Code under ``torch.compile(fullgraph=True)`` cannot derive it, since the sizes depend on the data: prepare a
        forest before it goes into compiled code. `sibling_pairs`, which may be many, is left out: read it once for a
        loss that needs it.

        Args:
            decays: of the filters and of the losses that will be called; 1 is prepared in any case.

        Raises:
            ValueError: if a decay is outside (0, 1].
        """
        _ = self.leaves_below, self.edge_tree, self.leaf_tree, self.depth, self.num_pairs, self._ancestors, self.memo
        _ = self.chain_size
        nothing = torch.zeros(self.num_nodes, dtype=precise_dtype(self.device), device=self.device)
        for decay in (1.0, *decays):
            self.ancestor_filter(nothing, decay)
        return self

    def to_jagged(self, values: Tensor) -> Tensor:
        """Flat values ``[nodes, ...]`` or ``[edges, ...]`` as a nested tensor of layout ``torch.jagged``, a tree a row.

        Raises:
            ValueError: if ``values`` has another length, or the trees interleave (see `offsets`).
        """
        if len(values) == self.num_nodes:
            offsets = self.offsets
        elif len(values) == self.num_edges:
            # One root a tree carries no edge.
            offsets = self.offsets - torch.arange(self.num_trees + 1, device=self.device)
        else:
            raise ValueError(
                f"values must have {self.num_nodes} (nodes) or {self.num_edges} (edges) rows; got {len(values)}."
            )
        return torch.nested.nested_tensor_from_jagged(values, offsets)

    def to(self, device: torch.device | str) -> "Forest":
        """The same forest on another device."""
        return Forest(self.parent.to(device))

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
        if self.is_chains:
            return torch.cat([self.roots[1:], self.roots.new_tensor([self.num_nodes])]) - 1
        return torch.nonzero(self.num_children == 0).squeeze(1)

    @cached_property
    def is_chains(self) -> bool:
        """Whether every tree is a path and its nodes follow one another."""
        before = torch.arange(-1, self.num_nodes - 1, device=self.device)
        return bool(((self.parent < 0) | (self.parent == before)).all())

    @cached_property
    def chain_size(self) -> int | None:
        """Nodes of each tree, if all are chains of one length: values are then a table ``[trees, nodes]``."""
        size, rest = divmod(self.num_nodes, self.num_trees)
        if not self.is_chains or rest > 0:
            return None
        return size if bool((self.roots.diff() == size).all()) else None

    @cached_property
    def tree(self) -> Int[Tensor, " nodes"]:
        """The tree that each node belongs to, an index into `roots`."""
        if self.is_chains:
            return (self.parent < 0).cumsum(0) - 1
        top = torch.arange(self.num_nodes, device=self.device)
        for nodes, ancestors in self._tree_jumps.tables:
            top[nodes] = top[ancestors]
        return torch.searchsorted(self.roots, top)

    @cached_property
    def depth(self) -> Int[Tensor, " nodes"]:
        """Steps from the root."""
        if self.is_chains:
            return torch.arange(self.num_nodes, device=self.device) - self.roots[self.tree]
        depth = (self.parent >= 0).long()
        for nodes, ancestors in self._tree_jumps.tables:
            depth[nodes] += depth[ancestors]
        return depth

    @cached_property
    def edge_tree(self) -> Int[Tensor, " edges"]:
        """The tree that each edge belongs to."""
        return self.tree[self.edge_child]

    @cached_property
    def leaf_tree(self) -> Int[Tensor, " leaves"]:
        """The tree that each leaf belongs to."""
        return self.tree[self.leaves]

    @cached_property
    def leaves_below(self) -> Int[Tensor, " nodes"]:
        """Leaves in the subtree of each node, which is root-to-leaf paths through it; 1 at a leaf."""
        return self.subtree_sum((self.num_children == 0).to(precise_dtype(self.device))).long()

    @cached_property
    def offsets(self) -> Int[Tensor, " bounds"]:
        """Tree i holds the nodes ``offsets[i]`` to ``offsets[i + 1]``: PyTorch's jagged layout.

        Raises:
            ValueError: if the trees interleave; `tree` says where each node belongs in every case.
        """
        if bool((self.tree.diff() < 0).any()):
            raise ValueError("the trees of this forest interleave, so they have no offsets; use forest.tree instead.")
        counts = torch.bincount(self.tree, minlength=self.num_trees)
        return torch.nn.functional.pad(counts.cumsum(0), (1, 0))

    @cached_property
    def sibling_pairs(self) -> Int[Tensor, "2 pairs"]:
        """All ordered pairs of different edges out of the same node, as indices into `edge_child`."""
        order = torch.argsort(self.edge_parent, stable=True)
        siblings = self.num_children[self.edge_parent[order]]
        first = order.repeat_interleave(siblings)
        group_start = torch.searchsorted(self.edge_parent[order], self.edge_parent[order])
        run_start = siblings.cumsum(0) - siblings
        within = torch.arange(len(first), device=self.device) - run_start.repeat_interleave(siblings)
        second = order[group_start.repeat_interleave(siblings) + within]
        different = first != second
        return torch.stack([first[different], second[different]])

    @cached_property
    def num_pairs(self) -> int:
        """Pairs of a node and a proper ancestor of it."""
        return int(self.pair_bounds[-1])

    @cached_property
    def pair_bounds(self) -> Int[Tensor, " nodes"]:
        """Where each node's pairs end when the pairs of a node and a proper ancestor are numbered node by node."""
        return self.depth.cumsum(0)

    @cached_property
    def _ancestors(self) -> Int[Tensor, "rounds nodes"]:
        """The ancestor 2^k steps up of each node deep enough, in row k; chains need none."""
        rounds = () if self.is_chains else self._tree_jumps.tables
        table = self.parent.new_zeros(len(rounds), self.num_nodes)
        for row, (nodes, ancestors) in zip(table, rounds, strict=True):
            row[nodes] = ancestors
        return table

    def ancestor(self, nodes: Int[Tensor, " queries"], steps: Int[Tensor, " queries"]) -> Int[Tensor, " queries"]:
        """The node ``steps`` above each of ``nodes``; ``steps`` is at most the node's depth, which is not checked."""
        if self.is_chains:
            return nodes - steps
        for k, ancestors in enumerate(self._ancestors):
            nodes = torch.where((steps >> k) & 1 == 1, ancestors[nodes], nodes)
        return nodes

    @cached_property
    def memo(self) -> dict[Any, Any]:
        """What was `kept` with the forest."""
        return {}

    def kept(self, key: Any, derive: Callable[[], Kept]) -> Kept:
        """``derive()``, remembered under ``key``: for what follows from the forest alone. Let it hold no forest."""
        if key in self.memo:
            return cast(Kept, self.memo[key])
        value = derive()
        # Compiled code keeps nothing: its tensors may be rewritten by the next call.
        if not torch.compiler.is_compiling():
            self.memo[key] = value
        return value

    def edges_to_nodes(self, edge_values: Float[Tensor, " edges"]) -> Float[Tensor, " nodes"]:
        """Each edge's value at the node it leads to, 0 at roots."""
        if self.chain_size is not None:
            return torch.constant_pad_nd(edge_values.view(self.num_trees, -1), (1, 0)).view(-1)
        return edge_values.new_zeros(self.num_nodes).scatter_(0, self.edge_child, edge_values)

    def difference(self, x: Float[Tensor, " nodes"]) -> Float[Tensor, " edges"]:
        """``x(child) - x(parent)`` of each edge. Differentiable."""
        if self.chain_size is not None:
            return x.view(self.num_trees, -1).diff(dim=1).view(-1)
        if self.is_chains:
            return torch.constant_pad_nd(x.diff(), (1, 0)).index_select(0, self.edge_child)
        return x.index_select(0, self.edge_child) - x.index_select(0, self.edge_parent)

    def divergence(self, edge_values: Float[Tensor, " edges"]) -> Float[Tensor, " nodes"]:
        """The values of the edges out of each node less that of the edge into it: minus the transpose of `difference`.
        Differentiable."""
        if self.chain_size is not None:
            return torch.constant_pad_nd(edge_values.view(self.num_trees, -1), (1, 1)).diff(dim=1).view(-1)
        inward = self.edges_to_nodes(edge_values)
        if self.is_chains:
            return torch.constant_pad_nd(inward, (0, 1)).diff()
        return inward.neg().index_add_(0, self.edge_parent, edge_values)

    def root_sum(self, edge_values: Float[Tensor, " edges"]) -> Float[Tensor, " nodes"]:
        """The sum of ``edge_values`` along the path from the root to each node; 0 at roots. Differentiable."""
        values = self.edges_to_nodes(edge_values)
        return values + self.ancestor_filter(values)

    def leaf_sum(
        self, edge_values: Float[Tensor, " edges"], dtype: torch.dtype | None = None
    ) -> Float[Tensor, " leaves"]:
        """The sum of ``edge_values`` along the path from the root to each leaf. Differentiable.

        Args:
            edge_values: one per edge.
            dtype: what they are cast to before they are summed; by default they stay what they are.
        """
        if self.chain_size is not None:
            return edge_values.reshape(self.num_trees, -1).sum(1, dtype=dtype)
        edge_values = edge_values.to(dtype or edge_values.dtype)
        if self.is_chains:
            return edge_values.new_zeros(self.num_trees).index_add(0, self.edge_tree, edge_values)
        return self.root_sum(edge_values)[self.leaves]

    def edge_sum(self, leaf_values: Float[Tensor, " leaves"]) -> Float[Tensor, " edges"]:
        """The sum of ``leaf_values`` over the leaves below each edge: the transpose of `leaf_sum`. Differentiable."""
        if self.chain_size is not None:
            return leaf_values.repeat_interleave(self.chain_size - 1, output_size=self.num_edges)
        if self.is_chains:
            return leaf_values.index_select(0, self.edge_tree)
        at_leaves = leaf_values.new_zeros(self.num_nodes).index_copy(0, self.leaves, leaf_values)
        return self.subtree_sum(at_leaves).index_select(0, self.edge_child)

    def subtree_sum(self, x: Float[Tensor, " nodes"]) -> Float[Tensor, " nodes"]:
        """The sum of ``x`` over the subtree of each node, the node itself among it. Differentiable."""
        return x + self.descendant_filter(x)

    def subtree_logsumexp(self, x: Float[Tensor, " nodes"]) -> Float[Tensor, " nodes"]:
        """``log Σ exp x`` over the subtree of each node, itself among it; -inf counts nothing. Differentiable."""
        # A running (peak, sum relative to it) per node stays exact however far apart the subtrees' scales lie.
        peak = x.detach()
        total = torch.exp(x - _finite(peak))
        for nodes, ancestors in self._tree_jumps.tables:
            higher = peak.scatter_reduce(0, ancestors, peak[nodes], "amax")
            addends = total[nodes] * torch.exp(peak[nodes] - _finite(higher)[ancestors])
            total = (total * torch.exp(peak - _finite(higher))).index_add(0, ancestors, addends)
            peak = higher
        return torch.where(total > 0, _finite(peak) + total.clamp(min=torch.finfo(x.dtype).tiny).log(), peak)

    def ancestor_filter(self, x: Float[Tensor, " nodes"], decay: float = 1.0) -> Float[Tensor, " nodes"]:
        """``y_n = Σ over proper ancestors a of n of decay^distance(a, n) · x_a``. Differentiable.

        Raises:
            ValueError: if ``decay`` is outside (0, 1].
        """
        return filters.ancestor_filter(x, _checked_decay(decay), self._paths)

    def descendant_filter(self, x: Float[Tensor, " nodes"], decay: float = 1.0) -> Float[Tensor, " nodes"]:
        """``y_m = Σ over proper descendants n of m of decay^distance(m, n) · x_n``: the transpose of
        `ancestor_filter`. Differentiable.

        Raises:
            ValueError: if ``decay`` is outside (0, 1].
        """
        return filters.descendant_filter(x, _checked_decay(decay), self._paths)

    @cached_property
    def _paths(self) -> filters.Paths:
        if not self.is_chains:
            return self._tree_jumps
        return filters.Chains(self.roots.diff(append=self.roots.new_tensor([self.num_nodes])))

    @cached_property
    def _tree_jumps(self) -> filters.TreeJumps:
        return filters.TreeJumps.of(self.parent)


@dataclass(frozen=True, eq=False)
class Part:
    """One tree taken out of a forest; ``values[part.nodes]`` are its values of the forest's ``values [nodes]``.

    Attributes:
        forest: the tree.
        nodes: its nodes in the whole, ascending.
        edges: its edges in the whole, ascending.
        leaves: its leaves in the whole, ascending.
    """

    forest: Forest
    nodes: Int[Tensor, " nodes"]
    edges: Int[Tensor, " edges"]
    leaves: Int[Tensor, " leaves"]


def _checked_decay(decay: float) -> float:
    if not 0 < decay <= 1:
        raise ValueError(f"decay must lie in (0, 1]; got {decay}.")
    return decay


def _finite(peak: Tensor) -> Tensor:
    return torch.where(peak == -torch.inf, 0.0, peak)


def _shape(x: Tensor) -> list[int]:
    return list(x.shape)
