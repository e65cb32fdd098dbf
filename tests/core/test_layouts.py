"""One forest in each layout gives the same indices, sums, losses and gradients; the layout is found out once."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loss_table import LOSSES, some_inputs
from torch import Tensor

from gflowdial import Forest, losses
from gflowdial.layouts import Chains, Rooted, Table, Tree
from gflowdial.losses.penalties import is_square

INDICES = ("leaves", "tree", "depth", "edge_tree", "leaf_tree", "leaves_below", "num_children", "pair_bounds")


def laid_out(forest: Forest, layout: Tree) -> Forest:
    """The same forest, treated as if it had another layout."""
    other = Forest(forest.parent)
    vars(other)["layout"] = layout
    return other


def in_each_layout(trees: int, size: int) -> list[Forest]:
    forest = Forest.from_lengths([size - 1] * trees)
    assert forest.layout == Table(size)
    return [laid_out(forest, layout) for layout in (Table(size), Chains(), Tree())]


@given(st.integers(1, 4), st.integers(1, 6))
def test_indices(trees: int, size: int) -> None:
    table, *others = in_each_layout(trees, size)
    nodes = torch.arange(table.num_nodes)
    for other in others:
        for name in INDICES:
            assert torch.equal(getattr(other, name), getattr(table, name)), name
        assert torch.equal(other.ancestor(nodes, other.depth // 2), table.ancestor(nodes, table.depth // 2))


def spread(share: float | Tensor, count: int) -> Tensor:
    return torch.as_tensor(share, dtype=torch.float64).expand(count)


def with_leaves(forest: Forest, x: Tensor, leaf_values: Tensor | None) -> Tensor:
    x = x.clone()
    if leaf_values is None:
        forest.clear_leaves_(x)
    else:
        forest.set_leaves_(x, leaf_values)
    return x


@given(st.integers(1, 4), st.integers(1, 6), st.sampled_from([1.0, 0.5]), st.integers(0, 2**16))
def test_sums_along_paths(trees: int, size: int, decay: float, seed: int) -> None:
    table, *others = in_each_layout(trees, size)
    generator = torch.Generator().manual_seed(seed)
    counts = (table.num_nodes, table.num_edges, table.num_edges, table.num_leaves, table.num_trees)
    x, along, back, ends, tops = (torch.randn(n, generator=generator, dtype=torch.float64) for n in counts)
    operations: list[Callable[[Forest], Tensor]] = [
        lambda f: f.edges_to_nodes(along),
        lambda f: f.difference(x),
        lambda f: f.divergence(along),
        lambda f: f.leaf_sum(along),
        lambda f: f.leaf_sum(along.float(), torch.float64, minus=back.float()),
        lambda f: f.edge_sum(ends, torch.float32),
        lambda f: f.root_sum(along),
        lambda f: f.subtree_sum(x),
        lambda f: f.subtree_logsumexp(x),
        lambda f: f.ancestor_filter(x, decay),
        lambda f: f.descendant_filter(x, decay),
        lambda f: with_leaves(f, x, ends.float()),
        lambda f: with_leaves(f, x, None),
        lambda f: f.trees_to_leaves(tops),
        lambda f: spread(f.leaf_share, f.num_leaves),
        lambda f: spread(f.edge_share, f.num_edges),
    ]
    for operation in operations:
        expected = operation(table)
        for other in others:
            torch.testing.assert_close(operation(other), expected)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(("trees", "size"), [(3, 5), (2, 1)])
def test_losses_and_gradients(name: str, trees: int, size: int) -> None:
    def value_and_gradients(forest: Forest) -> list[Tensor]:
        inputs = some_inputs(forest)
        value = LOSSES[name].loss(*inputs, forest)
        return [value, *torch.autograd.grad(value, inputs, allow_unused=True, materialize_grads=True)]

    table, *others = in_each_layout(trees, size)
    expected = value_and_gradients(table)
    for other in others:
        torch.testing.assert_close(value_and_gradients(other), expected)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=6))
def test_the_unchecked_constructor_knows_what_the_checked_one_derives(lengths: list[int]) -> None:
    forest = Forest.of_chains(torch.tensor(lengths))
    derived = Forest.from_parents(forest.parent)
    for name in ("roots", "edge_child", "edge_parent", *INDICES):
        assert torch.equal(getattr(forest, name), getattr(derived, name)), name
    assert forest.layout == derived.layout == (Table(lengths[0] + 1) if len(set(lengths)) == 1 else Chains())
    if isinstance(forest.layout, Table):
        assert Forest.of_chains(torch.tensor(lengths), forest.layout.size).layout == forest.layout


def test_the_layout_of_a_forest() -> None:
    for parent, layout in (
        ([-1, 0, -1, 2], Table(2)),
        ([-1, -1], Table(1)),
        ([-1, 0, 1, -1], Chains()),
        ([-1, 0, 0], Tree()),
        ([-1, -1, 0, 1], Tree()),  # two chains that interleave
    ):
        assert Forest.from_parents(torch.tensor(parent)).layout == layout
        assert isinstance(Forest.from_parents(torch.tensor(parent)), Rooted)


SQUARES = (losses.squared, torch.square, lambda t: t**2, lambda t: t * t, partial(losses.huber, threshold=torch.inf))
OTHERS = (
    losses.huber,
    partial(losses.huber, threshold=1e9),
    losses.log_cosh,
    losses.linex,
    torch.abs,
    lambda t: 2 * t**2,
)


@pytest.mark.parametrize("penalty", range(len(SQUARES)))
def test_every_square_takes_the_quadratic_way(penalty: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> Tensor:
        raise AssertionError("pairs were listed")

    monkeypatch.setattr("gflowdial.losses.subtrajectory.listed_pairs_sum", refused)
    for forest in (Forest.from_lengths([3, 3]), Forest.from_parents(torch.tensor([-1, 0, 0, 2]))):
        inputs = some_inputs(forest)
        found = losses.subtrajectory_balance(*inputs, forest, penalty=SQUARES[penalty])
        assert torch.equal(found, losses.subtrajectory_balance(*inputs, forest))


def test_what_is_no_square_is_told_apart() -> None:
    assert not any(is_square(penalty) for penalty in OTHERS)
    scale = torch.ones((), requires_grad=True)
    assert not is_square(lambda t: scale * t**2), "what is learned may not stay the square"
