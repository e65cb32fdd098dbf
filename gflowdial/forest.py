"""The forest: one index structure for batches of trajectories (chains) and for search results (trees)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar, cast

import torch

from gflowdial import filters
from gflowdial.layouts import Chains, Rooted, Table
from gflowdial.numerics import first_true, precise_dtype, remember, usable_in_training
from gflowdial.shapes import Int, Tensor

__all__ = ["Forest", "Part"]

Kept = TypeVar("Kept")


@usable_in_training
@dataclass(frozen=True, eq=False)
class Forest(Rooted):
    """Rooted trees on numbered nodes; every parent has a smaller number than its children.

    Tensors beside a forest are flat and never padded: one value per state is ``[nodes]``, per action ``[edges]``
    (in the order of `edge_child`), per reward ``[leaves]`` (in the order of `leaves`), per tree ``[trees]`` (in the
    order of `roots`). The nodes of a tree need not be neighbours.

    Build one with `from_lengths`, `from_parents`, `from_mask` or `from_offsets`, which check what they are given;
    `of_chains` and the bare constructor do not. Indices and sums along paths are those of `layouts.Rooted`.

    A forest that was made or read in `torch.inference_mode` can be trained on later. Pickles and copies hold the
    parents alone, and ``torch.load(weights_only=True)`` loads what ``torch.save`` wrote.

    Attributes:
        parent: the parent of each node, -1 at a root; int64.
    """

    def __post_init__(self) -> None:
        if self.parent.is_inference():
            # Autograd saves what is made of it.
            with torch.inference_mode(False):
                object.__setattr__(self, "parent", self.parent.clone())

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
                f"lengths must be a non-empty vector, one entry a trajectory; got shape {list(lengths.shape)}."
            )
        if lengths.is_floating_point() or lengths.dtype == torch.bool:
            raise ValueError(f"lengths must be integers, actions per trajectory; got {lengths.dtype}.")
        if (first := first_true(lengths < 0)) is not None:
            raise ValueError(f"lengths must be 0 or more; lengths[{first}] is {int(lengths[first])}.")
        return Forest.of_chains(lengths.long())

    @staticmethod
    @torch.inference_mode(False)
    def of_chains(lengths: Int[Tensor, " trees"], size: int | None = None) -> "Forest":
        """`from_lengths` without its checks, with the indices that lengths give at once.

        Args:
            lengths: actions per trajectory, at least one entry, all 0 or more; int64.
            size: nodes of each trajectory, where all have the same number; None asks the device whether they do.
        """
        trees = torch.arange(len(lengths), device=lengths.device)
        end = (lengths + 1).cumsum(0)
        roots = end - lengths - 1
        edge_tree = trees.repeat_interleave(lengths)
        # A tree has one edge fewer than nodes: edge e of tree i leaves node e + i.
        edge_parent = torch.arange(len(edge_tree), device=lengths.device) + edge_tree
        nodes = len(edge_tree) + len(lengths)
        forest = Forest(torch.arange(-1, nodes - 1, device=lengths.device).index_fill_(0, roots, -1))
        # A cached property looks here before it derives anything.
        vars(forest).update(
            layout=Chains.of(roots, nodes) if size is None else Table(size),
            roots=roots,
            leaves=end - 1,
            leaf_tree=trees,
            edge_tree=edge_tree,
            edge_parent=edge_parent,
            edge_child=edge_parent + 1,
        )
        return forest

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
            raise ValueError(f"parent must be a vector, one entry a node; got shape {list(parent.shape)}.")
        if parent.numel() == 0:
            raise ValueError("parent is empty; a forest needs at least one node.")
        if (node := first_true((parent < -1) | (parent >= len(parent)))) is not None:
            raise ValueError(
                f"parent[{node}] is {int(parent[node])}, out of range: it must be a node (0 to {len(parent) - 1}) "
                "or -1 at a root."
            )
        if (node := first_true(parent >= torch.arange(len(parent), device=parent.device))) is not None:
            raise ValueError(
                f"parent[{node}] is {int(parent[node])}: a child before its parent. Renumber the nodes so that "
                "every parent comes first, in order of depth for instance."
            )
        return Forest(parent)

    @staticmethod
    def from_mask(mask: Tensor) -> "Forest":
        """Chains from a padded batch: ``mask[i, t]`` says that trajectory i took an action at step t.

        The edges come in the order of ``values[mask]``, which turns padded per-action tensors into flat ones. Where the
        actions of a trajectory do not lie side by side (padding on the left, another speaker's tokens between), say so
        by ``Forest.from_lengths(mask.sum(1))``, whose edges come in the same order.

        Args:
            mask: bool ``[trees, steps]``.

        Raises:
            ValueError: if ``mask`` is no table of bool, or a row has an action after a gap.
        """
        if mask.ndim != 2 or mask.dtype != torch.bool:
            raise ValueError(
                f"mask must be a table of bool, [trees, steps]; got {mask.dtype} of shape {list(mask.shape)}. Convert "
                "it with mask.bool()."
            )
        if (row := first_true((mask[:, 1:] & ~mask[:, :-1]).any(1))) is not None:
            raise ValueError(
                f"mask row {row} takes an action after a gap: pad the batch on the right, or use "
                "Forest.from_lengths(mask.sum(1)) if what lies between is padding or not the policy's; its edges are "
                "in the order of values[mask]."
            )
        return Forest.from_lengths(mask.sum(1))

    @staticmethod
    def from_offsets(offsets: Tensor) -> "Forest":
        """Chains from PyTorch's jagged layout: tree i holds the nodes ``offsets[i]`` to ``offsets[i + 1]``.

        Args:
            offsets: ``int [trees + 1]``.

        Raises:
            ValueError: if ``offsets`` is no vector of integers, does not start at 0 or does not grow (every tree has a
                root).
        """
        if offsets.ndim != 1 or offsets.is_floating_point() or offsets.dtype == torch.bool:
            raise ValueError(
                f"offsets must be a vector of integers; got {offsets.dtype} of shape {list(offsets.shape)}."
            )
        if len(offsets) < 2 or int(offsets[0]) != 0 or bool((offsets.diff() < 1).any()):
            raise ValueError("offsets must start at 0 and grow by at least one node per tree.")
        return Forest.from_lengths(offsets.diff() - 1)

    @staticmethod
    def from_jagged(values: Tensor) -> "tuple[Forest, Tensor]":
        """A jagged nested tensor of node values ``[trees, j, ...]`` as ``(chains, flat values [nodes, ...])``.

        Raises:
            ValueError: if ``values`` is not of layout ``torch.jagged``, has holes, or its second dimension is not the
                ragged one.
        """
        if values.layout != torch.jagged:
            raise ValueError(
                "from_jagged takes a nested tensor of layout torch.jagged; see torch.nested.nested_tensor."
            )
        offsets, flat = values.offsets(), values.values()  # type: ignore[attr-defined]
        if values._ragged_idx != 1:  # type: ignore[attr-defined]
            raise ValueError(
                f"values is ragged in dimension {values._ragged_idx}: transpose it to [trees, j, ...] first."  # type: ignore[attr-defined]
            )
        if values.lengths() is not None or int(offsets[-1]) != len(flat):  # type: ignore[attr-defined]
            raise ValueError("values is a jagged tensor with holes: lay it end to end by values.contiguous() first.")
        return Forest.from_offsets(offsets), flat

    @staticmethod
    def concatenate(forests: "Sequence[Forest]") -> "Forest":
        """All trees of ``forests`` in one, one forest after the other.

        Every order is kept: values beside the forests, of nodes, edges, leaves or trees, join by ``torch.cat``.

        Raises:
            ValueError: if there is no forest, or two lie on different devices.
        """
        if not forests:
            raise ValueError("concatenate needs at least one forest.")
        device = forests[0].device
        for i, forest in enumerate(forests):
            if forest.device != device:
                raise ValueError(
                    f"forests[{i}] is on {forest.device} and forests[0] on {device}: move them to one by Forest.to."
                )
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
        _ = self.leaves_below, self.edge_tree, self.leaf_tree, self.edge_share, self.leaf_share
        _ = self.num_pairs, self.memo
        self.ancestor(self.roots, torch.zeros_like(self.roots))
        nothing = torch.zeros(self.num_nodes, dtype=precise_dtype(self.device), device=self.device)
        for decay in (1.0, *decays):
            self.ancestor_filter(nothing, decay)
        filters.PREPARED[self.parent] = self._paths
        return self

    def to_jagged(self, values: Tensor) -> Tensor:
        """Flat values ``[nodes, ...]`` or ``[edges, ...]`` as a ``torch.jagged`` nested tensor, one tree per row.

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

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "Forest":
        """The same forest on another device, the forest itself where that is its own.

        Args:
            device: where to.
            non_blocking: whether the copy may run beside other work, as of ``Tensor.to``; pin the memory first.
        """
        parent = self.parent.to(device, non_blocking=non_blocking)
        return self if parent is self.parent else Forest(parent)

    def pin_memory(self) -> "Forest":
        """The same forest in page-locked memory; a ``DataLoader`` with ``pin_memory=True`` calls it."""
        return Forest(self.parent.pin_memory())

    def __reduce__(self) -> tuple[Any, ...]:
        # What can be derived is left out of pickles and copies.
        return _restored, (self.parent,)

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
        # Edge order[i] is the first of siblings[i] pairs; run_start is where they begin, group_start its first sibling.
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
        # A node has as many proper ancestors as its depth.
        return self.depth.cumsum(0)

    @cached_property
    def memo(self) -> dict[Any, Any]:
        """What was `kept` with the forest last."""
        return {}

    def kept(self, key: Any, derive: Callable[[], Kept]) -> Kept:
        """``derive()``, remembered under ``key``: for what follows from the forest alone. Let it hold no forest.

        Of many keys the last ones are remembered.
        """
        if key in self.memo:
            return cast(Kept, self.memo[key])
        # Compiled code keeps nothing: its tensors may be rewritten by the next call.
        if torch.compiler.is_compiling():
            return derive()
        with torch.inference_mode(False):
            return cast(Kept, remember(self.memo, key, derive()))


def _restored(parent: Tensor) -> Forest:
    """What a pickle calls, by this name: a file may hold anything, and is checked."""
    return Forest.from_parents(parent)


torch.serialization.add_safe_globals([_restored])


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
