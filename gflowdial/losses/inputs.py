"""What every loss does first: check what comes in, lift the precision, put the rewards at the leaves."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

import torch
from torch.autograd import forward_ad

from gflowdial.forest import Forest
from gflowdial.numerics import check_length, check_vector, first_true, lifted_dtype, precise_dtype
from gflowdial.segments import Segments
from gflowdial.shapes import Float, Int, Tensor

Place = Literal["node", "edge", "leaf", "tree"]
# Of each place: how many there are, the node of each (None: the nodes themselves), and what the node is called.
PLACES: dict[Place, tuple[str, str | None, str]] = {
    "node": ("num_nodes", None, "node"),
    "edge": ("num_edges", "edge_child", "the edge into node"),
    "leaf": ("num_leaves", "leaves", "the leaf, node"),
    "tree": ("num_trees", "roots", "its root is node"),
}
_finite_required = ContextVar("finite_required", default=False)


@contextmanager
def require_finite() -> Iterator[None]:
    """Losses computed inside raise a ValueError on NaN and infinite input that names the tree and the node::

        with losses.require_finite():
            loss = losses.detailed_balance(log_flow, log_pf, log_pb, log_reward, forest)

    Each input is looked at, which makes a GPU wait; code under ``torch.compile`` does not look.
    """
    before = _finite_required.set(True)
    try:
        yield
    finally:
        _finite_required.reset(before)


def lift(name: str, values: Tensor, forest: Forest, place: Place) -> Tensor:
    """``values``, one per node, edge, leaf or tree, in `precise_dtype`.

    Raises:
        ValueError: if ``values`` has another shape, is not floating point or not on the forest's device, or under
            `require_finite` not finite.
    """
    check(name, values, forest, place)
    return values.to(precise_dtype(values.device))


def check(name: str, values: Tensor, forest: Forest, place: Place) -> None:
    """
    Raises:
        ValueError: as `lift`, for callers that lift the values later.
    """
    count, nodes, what = PLACES[place]
    check_vector(name, values, getattr(forest, count), place)
    check_device(name, values, forest)
    if not torch.compiler.is_compiling() and _finite_required.get():

        def locate(index: int) -> str:
            node = index if nodes is None else int(getattr(forest, nodes)[index])
            return f"tree {int(forest.tree[node])}, {what} {node}"

        check_finite_if_required(name, values, locate)


def check_device(name: str, values: Tensor, beside: Forest | Tensor, called: str = "the forest") -> None:
    """
    Raises:
        ValueError: if ``values`` is not on the device of what it is ``beside``.
    """
    if values.device != beside.device:
        raise ValueError(
            f"{name} is on {values.device} and {called} on {beside.device}: move one of them, for instance with "
            f"{name}.to({str(beside.device)!r})."
        )


def check_finite_if_required(name: str, values: Tensor, locate: Callable[[int], str]) -> None:
    """
    Raises:
        ValueError: under `require_finite`, if an entry is not; ``locate`` says in words where it belongs.
    """
    if torch.compiler.is_compiling() or not _finite_required.get():
        return
    if (index := first_true(~values.isfinite())) is not None:
        raise ValueError(f"{name}[{index}] is {float(values.detach()[index])}: {locate(index)}.")


def log_ratio(log_pf: Tensor, log_pb: Tensor | None, forest: Forest) -> Float[Tensor, " edges"]:
    """``log P_F - log P_B`` per edge, lifted; no ``log_pb`` means a tree, where log P_B = 0."""
    ratio = lift("log_pf", log_pf, forest, "edge")
    if log_pb is None:
        return ratio
    check("log_pb", log_pb, forest, "edge")
    # What is subtracted from float64 is lifted on the way.
    return ratio - log_pb


def path_ratio(log_pf: Tensor, log_pb: Tensor | None, forest: Forest) -> Float[Tensor, " leaves"]:
    """``Σ over root→leaf of (log P_F - log P_B)`` of each leaf, lifted."""
    check("log_pf", log_pf, forest, "edge")
    if log_pb is not None:
        check("log_pb", log_pb, forest, "edge")
    return forest.leaf_sum(log_pf, precise_dtype(log_pf.device), minus=log_pb)


def loss_dtype(values: Tensor) -> torch.dtype:
    """The dtype of a loss of ``values``: their own, or float32 if that is wider."""
    return lifted_dtype(values.dtype)


def transformed(*values: Tensor | None) -> bool:
    """Whether `torch.func` transforms the caller, or a value has a tangent of forward mode."""
    if torch.compiler.is_compiling():
        return False
    # The name is private, but `torch.autograd.Function` itself asks this in every release since 2.0.
    if torch._C._are_functorch_transforms_active():
        return True
    return any(_has_tangent(x) for x in values if x is not None)


def _has_tangent(x: Tensor) -> bool:
    return forward_ad.unpack_dual(x).tangent is not None  # type: ignore[no-untyped-call]


def anchored_flow(log_flow: Tensor, log_reward: Tensor, forest: Forest) -> Float[Tensor, " nodes"]:
    """``log_flow``, lifted, with its leaf entries replaced by ``log_reward``."""
    check("log_flow", log_flow, forest, "node")
    check("log_reward", log_reward, forest, "leaf")
    if transformed():
        # Under `vmap` nothing can be written into what has no batch of its own.
        flow = log_flow.to(precise_dtype(log_flow.device))
        return flow.index_copy(0, forest.leaves, log_reward.to(flow.dtype))
    flow = log_flow.to(precise_dtype(log_flow.device), copy=True)
    forest.set_leaves_(flow, log_reward)
    return flow


def group_segments(group: Int[Tensor, " trees"], forest: Forest) -> Segments:
    """Which group each leaf is of, the groups numbered from 0 without gaps; does not wait for the device.

    Raises:
        ValueError: if ``group`` has not one integer per tree, or is not on the forest's device.
    """
    check_length("group", group, forest.num_trees, "tree")
    check_device("group", group, forest)
    if group.is_floating_point() or group.dtype == torch.bool:
        raise ValueError(f"group must hold integers; got {group.dtype}.")
    ordered, order = group.sort()
    number = torch.nn.functional.pad((ordered.diff() != 0).long(), (1, 0)).cumsum(0)
    numbered = torch.empty_like(number).index_copy(0, order, number)
    return Segments.from_ids(numbered[forest.leaf_tree], forest.num_trees)


def edge_residual(log_flow: Tensor, log_ratio: Tensor, forest: Forest) -> Float[Tensor, " edges"]:
    """The one-step residual ``δ = log F(child) - log F(parent) - (log P_F - log P_B)`` of each edge."""
    return forest.difference(log_flow) - log_ratio


def leaf_residual(log_z: Tensor, reached: Tensor, log_reward: Tensor, forest: Forest) -> Float[Tensor, " leaves"]:
    """``log R - log Z - reached`` of each leaf, with one log Z for all trees or one per tree."""
    check("log_z", log_z.expand(forest.num_trees) if log_z.ndim == 0 else log_z, forest, "tree")
    check("log_reward", log_reward, forest, "leaf")
    # `reached` is lifted, so that the others are on the way.
    return log_reward - reached - (log_z if log_z.ndim == 0 else forest.trees_to_leaves(log_z))
