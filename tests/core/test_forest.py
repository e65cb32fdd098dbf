"""Forests: what follows from the parents, what is refused, and path sums against single steps."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gflowdial import Forest
from gflowdial.testing import chains, forests, vectors

DECAYS = st.sampled_from([0.3, 0.9, 1.0])


def path_matrix(forest: Forest, decay: float) -> torch.Tensor:
    """``[n, a] = decay^distance`` where a is a proper ancestor of n, else 0."""
    matrix = torch.zeros(forest.num_nodes, forest.num_nodes, dtype=torch.float64)
    for node in range(forest.num_nodes):
        above, distance = int(forest.parent[node]), 1
        while above >= 0:
            matrix[node, above] = decay**distance
            above, distance = int(forest.parent[above]), distance + 1
    return matrix


@given(st.data())
def test_filters_equal_sums_over_listed_paths(data: st.DataObject) -> None:
    forest, decay = data.draw(forests()), data.draw(DECAYS)
    x = data.draw(vectors(forest.num_nodes))
    matrix = path_matrix(forest, decay)
    torch.testing.assert_close(forest.ancestor_filter(x, decay), matrix @ x)
    torch.testing.assert_close(forest.descendant_filter(x, decay), matrix.T @ x)


@given(st.data())
def test_chains_and_trees_agree_on_chains(data: st.DataObject) -> None:
    forest, decay = data.draw(chains()), data.draw(DECAYS)
    x = data.draw(vectors(forest.num_nodes))
    # A second node numbering of the same chains: all roots first, which no slice can walk.
    order = torch.argsort(forest.depth, stable=True)
    position = torch.argsort(order)
    parent = torch.where(forest.parent[order] < 0, -1, position[forest.parent[order]])
    other = Forest.from_parents(parent)
    torch.testing.assert_close(other.ancestor_filter(x[order], decay), forest.ancestor_filter(x, decay)[order])
    torch.testing.assert_close(other.depth, forest.depth[order])
    torch.testing.assert_close(other.tree, forest.tree[order])


@given(st.data())
def test_subtree_sums_and_logsumexp(data: st.DataObject) -> None:
    forest = data.draw(forests())
    x = data.draw(vectors(forest.num_nodes, -900.0, 900.0))
    below = path_matrix(forest, 1.0).T + torch.eye(forest.num_nodes, dtype=torch.float64)
    torch.testing.assert_close(forest.subtree_sum(x), below @ x)
    expected = torch.logsumexp(torch.where(below > 0, x, -torch.inf), dim=1)
    torch.testing.assert_close(forest.subtree_logsumexp(x), expected)


@given(st.data())
def test_derived_indices(data: st.DataObject) -> None:
    forest = data.draw(forests())
    matrix = path_matrix(forest, 1.0)
    torch.testing.assert_close(forest.depth.double(), matrix.sum(1))
    assert forest.leaves.tolist() == [n for n in range(forest.num_nodes) if n not in forest.parent]
    assert forest.num_edges + forest.num_trees == forest.num_nodes
    roots = [next((a for a in range(n) if matrix[n, a] and forest.parent[a] < 0), n) for n in range(forest.num_nodes)]
    assert forest.roots[forest.tree].tolist() == roots
    siblings = {
        (i, j)
        for i, a in enumerate(forest.edge_parent.tolist())
        for j, b in enumerate(forest.edge_parent.tolist())
        if a == b and i != j
    }
    listed = list(zip(*forest.sibling_pairs.tolist(), strict=True))
    assert set(listed) == siblings
    assert len(listed) == len(siblings)


def test_derivatives_of_the_primitives() -> None:
    for forest in (Forest.from_lengths([3, 0, 4]), Forest.from_parents(torch.tensor([-1, 0, 0, -1, 2, 2, 3, 5]))):
        x = torch.randn(forest.num_nodes, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        x.requires_grad_()
        for function in (forest.subtree_logsumexp, lambda y, f=forest: f.ancestor_filter(y, 0.7).square()):
            assert torch.autograd.gradcheck(function, x)
            assert torch.autograd.gradgradcheck(function, x)


def test_lengths_mask_and_jagged_layout_describe_the_same_chains() -> None:
    lengths = [2, 0, 3]
    chains = Forest.from_lengths(lengths)
    assert chains.parent.tolist() == [-1, 0, 1, -1, -1, 4, 5, 6]
    mask = torch.arange(4) < torch.tensor(lengths)[:, None]
    assert torch.equal(Forest.from_mask(mask).parent, chains.parent)
    assert torch.equal(Forest.from_offsets(chains.offsets).parent, chains.parent)
    values = torch.arange(8.0)
    again, flat = Forest.from_jagged(chains.to_jagged(values))
    assert torch.equal(again.parent, chains.parent)
    assert torch.equal(flat, values)
    actions = chains.to_jagged(torch.arange(5.0))
    assert [row.tolist() for row in actions.unbind()] == [[0.0, 1.0], [], [2.0, 3.0, 4.0]]


@given(st.data())
def test_forests_join_and_come_apart_with_their_values(data: st.DataObject) -> None:
    several = data.draw(st.lists(forests(max_nodes=12), min_size=1, max_size=4))
    whole = Forest.concatenate(several)
    assert torch.equal(whole.roots.diff() > 0, torch.ones(whole.num_trees - 1, dtype=torch.bool))
    # Marks that say where each value came from: forest, then index; joined they stand where the indices point.
    for at, count in (("roots", "num_trees"), ("edge_child", "num_edges"), ("leaves", "num_leaves")):
        starts = torch.tensor([0, *(forest.num_nodes for forest in several)]).cumsum(0)
        joined = torch.cat([getattr(f, at) + n for f, n in zip(several, starts[:-1], strict=True)])
        assert torch.equal(getattr(whole, at), joined)
        assert getattr(whole, count) == sum(getattr(f, count) for f in several)
    values = data.draw(vectors(whole.num_nodes))
    sums = whole.root_sum(values[whole.edge_child])
    torch.testing.assert_close(whole.leaf_sum(values[whole.edge_child]), sums[whole.leaves])
    parts = whole.split()
    assert len(parts) == whole.num_trees
    for root, part in zip(whole.roots, parts, strict=True):
        assert part.forest.num_trees == 1
        assert int(part.nodes[0]) == int(root)
        assert torch.equal(whole.edge_child[part.edges], part.nodes[part.forest.edge_child])
        assert torch.equal(whole.leaves[part.leaves], part.nodes[part.forest.leaves])
        assert torch.equal(part.forest.depth, whole.depth[part.nodes])
        torch.testing.assert_close(part.forest.root_sum(values[whole.edge_child][part.edges]), sums[part.nodes])
    assert sorted(torch.cat([part.nodes for part in parts]).tolist()) == list(range(whole.num_nodes))


@given(st.data())
def test_ancestors_by_number_of_steps(data: st.DataObject) -> None:
    forest = data.draw(forests())
    for node in range(forest.num_nodes):
        above, path = node, []
        while above >= 0:
            path.append(above)
            above = int(forest.parent[above])
        nodes = torch.full((len(path),), node)
        assert forest.ancestor(nodes, torch.arange(len(path))).tolist() == path
    assert forest.num_pairs == int(forest.depth.sum())


@given(st.data())
def test_differences_and_leaf_sums_and_their_transposes(data: st.DataObject) -> None:
    equal = st.builds(lambda trees, length: Forest.from_lengths([length] * trees), st.integers(1, 4), st.integers(0, 5))
    forest = data.draw(st.one_of(forests(), equal))
    at_nodes, at_edges = data.draw(vectors(forest.num_nodes)), data.draw(vectors(forest.num_edges))
    at_leaves = data.draw(vectors(forest.num_leaves))
    difference = forest.difference(at_nodes)
    torch.testing.assert_close(difference, at_nodes[forest.edge_child] - at_nodes[forest.parent[forest.edge_child]])
    torch.testing.assert_close(difference @ at_edges, -at_nodes @ forest.divergence(at_edges))
    torch.testing.assert_close(forest.leaf_sum(at_edges) @ at_leaves, at_edges @ forest.edge_sum(at_leaves))
    assert torch.equal(forest.leaf_sum(at_edges.float(), torch.float64), forest.leaf_sum(at_edges.float().double()))


def test_prepare_leaves_nothing_to_derive(monkeypatch: pytest.MonkeyPatch) -> None:
    for forest in (Forest.from_lengths([5, 2]), Forest.from_parents(torch.tensor([-1, 0, -1, 1, 0]))):
        assert forest.prepare(0.9) is forest
        monkeypatch.setattr(torch, "nonzero", None)
        assert forest.leaf_tree.shape == (forest.num_leaves,)
        forest.ancestor_filter(torch.ones(forest.num_nodes, dtype=torch.float64), 0.9)
        monkeypatch.undo()


def test_an_infinite_value_stays_in_its_own_chain() -> None:
    forest = Forest.from_lengths([2, 2])
    y = forest.ancestor_filter(torch.tensor([torch.inf, 0, 0, 1, 1, 1]), 0.5)
    assert y.tolist() == [0, torch.inf, torch.inf, 0, 0.5, 0.75]


@pytest.mark.parametrize(
    ("parent", "message"),
    [
        (torch.tensor([-1, 5]), r"parent\[1\] is 5, out of range"),
        (torch.tensor([-2]), r"parent\[0\] is -2, out of range"),
        (torch.tensor([-1, 2, 0]), r"parent\[1\] is 2: a child before its parent"),
        (torch.tensor([-1, 1]), r"parent\[1\] is 1: a child before its parent"),
        (torch.tensor([-1, 0], dtype=torch.int32), "must be int64"),
        (torch.tensor([-1.0, 0.0]), "must be int64"),
        (torch.tensor([[-1, 0]]), "must be a vector"),
        (torch.tensor([], dtype=torch.int64), "empty"),
    ],
)
def test_bad_parents_are_named(parent: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Forest.from_parents(parent)


def test_other_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"lengths\[1\] is -1"):
        Forest.from_lengths([1, -1])
    with pytest.raises(ValueError, match="non-empty"):
        Forest.from_lengths([])
    with pytest.raises(ValueError, match=r"row 1 .* after a gap"):
        Forest.from_mask(torch.tensor([[True, False], [False, True]]))
    with pytest.raises(ValueError, match="offsets"):
        Forest.from_offsets(torch.tensor([0, 2, 2]))
    with pytest.raises(ValueError, match="interleave"):
        _ = Forest.from_parents(torch.tensor([-1, -1, 0])).offsets
    with pytest.raises(ValueError, match="at least one forest"):
        Forest.concatenate([])
    with pytest.raises(ValueError, match="decay"):
        Forest.from_lengths([1]).prepare(2.0)
    with pytest.raises(ValueError, match="decay"):
        Forest.from_lengths([1]).ancestor_filter(torch.zeros(2), 1.5)
