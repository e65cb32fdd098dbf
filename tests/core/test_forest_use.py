"""Forests in use: what does not fit is named, and they go through files, devices, inference and many λ."""

import copy
import io
import pickle

import pytest
import torch
from torch import Tensor

from gflowdial import Forest, segments
from gflowdial.dag import Dag
from gflowdial.filters import Chains
from gflowdial.numerics import MOST_REMEMBERED
from gflowdial.segments import Segments

FORESTS = {
    "tree": Forest.from_parents(torch.tensor([-1, 0, 0, 1])),
    "chains": Forest.from_lengths([3, 1]),
    "table": Forest.from_lengths([2, 2]),
}
each_forest = pytest.mark.parametrize("forest", FORESTS.values(), ids=FORESTS)
PLACES = {
    "edge": ("root_sum", "leaf_sum", "edges_to_nodes", "divergence"),
    "node": ("subtree_sum", "subtree_logsumexp", "ancestor_filter", "descendant_filter", "difference", "clear_leaves_"),
    "leaf": ("edge_sum",),
    "tree": ("trees_to_leaves",),
}
COUNTS = {"edge": "num_edges", "node": "num_nodes", "leaf": "num_leaves", "tree": "num_trees"}


@each_forest
@pytest.mark.parametrize(("place", "method"), [(place, method) for place in PLACES for method in PLACES[place]])
def test_values_of_another_length_are_named(forest: Forest, place: str, method: str) -> None:
    count = getattr(forest, COUNTS[place])
    for length in {1, count - 1, count + 1, 2 * count} - {count}:
        with pytest.raises(ValueError, match=rf"must have one entry per {place}, shape \[{count}\]; got \[{length}\]"):
            getattr(forest, method)(torch.zeros(length))


@each_forest
def test_second_values_of_another_length_are_named(forest: Forest) -> None:
    # Where shapes are checked at run time, as here, that check comes first.
    with pytest.raises((ValueError, TypeError), match="minus"):
        forest.leaf_sum(torch.zeros(forest.num_edges), minus=torch.zeros(1))
    with pytest.raises(ValueError, match="leaf_values must have one entry per leaf"):
        forest.set_leaves_(torch.zeros(forest.num_nodes), torch.zeros(forest.num_leaves + 1))
    with pytest.raises(ValueError, match="x must have one entry per node"):
        forest.set_leaves_(torch.zeros(forest.num_nodes - 1), torch.zeros(forest.num_leaves))


@pytest.mark.parametrize("mask", [[[False, True, True]], [[True, False, True]]], ids=["padded left", "two speakers"])
def test_masks_with_gaps_name_the_way_out(mask: list[list[bool]]) -> None:
    steps = torch.tensor(mask)
    with pytest.raises(ValueError, match=r"mask row 0 .* after a gap: .* Forest\.from_lengths\(mask\.sum\(1\)\)"):
        Forest.from_mask(steps)
    assert Forest.from_lengths(steps.sum(1)).num_edges == len(steps[steps]) == 2


@pytest.mark.parametrize("mask", [torch.ones(1, 2, dtype=torch.int64), torch.ones(1, 2), torch.tensor([True])], ids=str)
def test_masks_that_are_no_table_of_bool_are_named(mask: Tensor) -> None:
    with pytest.raises(ValueError, match="mask must be a table of bool"):
        Forest.from_mask(mask)


def test_jagged_tensors_with_holes_are_refused() -> None:
    flat, offsets = torch.arange(10.0), torch.tensor([0, 4, 8])
    holes = torch.nested.nested_tensor_from_jagged(flat, offsets, lengths=torch.tensor([2, 3]))
    with pytest.raises(ValueError, match=r"holes: lay it end to end by values\.contiguous\(\)"):
        Forest.from_jagged(holes)
    forest, values = Forest.from_jagged(holes.contiguous())
    assert forest.parent.tolist() == [-1, 0, -1, 2, 3]
    assert values.tolist() == [0, 1, 4, 5, 6]
    with pytest.raises(ValueError, match="holes"):
        Forest.from_jagged(torch.nested.nested_tensor_from_jagged(flat, offsets))
    ragged_last = torch.nested.nested_tensor([torch.zeros(2, 3)], layout=torch.jagged).transpose(1, 2)
    with pytest.raises(ValueError, match="ragged in dimension 2: transpose"):
        Forest.from_jagged(ragged_last)


@pytest.mark.parametrize("offsets", [torch.tensor([0.0, 2.0]), torch.tensor([[0, 2]]), torch.tensor([False, True])])
def test_offsets_that_are_no_integers_are_named(offsets: Tensor) -> None:
    with pytest.raises(ValueError, match="offsets must be a vector of int"):
        Forest.from_offsets(offsets)
    with pytest.raises(ValueError, match="offsets must be a vector of int64"):
        Segments.from_offsets(offsets)


def test_forests_of_two_devices_do_not_join() -> None:
    here = FORESTS["tree"]
    with pytest.raises(ValueError, match=r"forests\[1\] is on meta and forests\[0\] on cpu"):
        Forest.concatenate([here, Forest(here.parent.to("meta"))])


@each_forest
def test_pickles_and_copies_hold_the_parents_alone(forest: Forest) -> None:
    fresh = Forest.from_parents(forest.parent.clone())
    before = len(pickle.dumps(fresh))
    _ = fresh.prepare(0.9).sibling_pairs
    assert len(pickle.dumps(fresh)) == before
    for again in (pickle.loads(pickle.dumps(fresh)), copy.copy(fresh), copy.deepcopy(fresh)):
        assert torch.equal(again.parent, forest.parent)
        assert torch.equal(again.leaves, forest.leaves)


def test_dags_are_pickled_without_what_is_derived() -> None:
    dag = Dag.from_adjacency([[1, 2], [3], [3], []])
    before = len(pickle.dumps(dag))
    _ = dag.levels_up, dag.root_of
    assert len(pickle.dumps(dag)) == before
    assert pickle.loads(pickle.dumps(dag)).level.tolist() == [0, 1, 1, 2]


@each_forest
def test_files_load_with_weights_only(forest: Forest) -> None:
    file = io.BytesIO()
    torch.save({"forest": forest, "x": torch.zeros(1)}, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=True)["forest"].parent, forest.parent)


def test_files_that_hold_no_forest_are_refused() -> None:
    file = io.BytesIO()
    torch.save(Forest(torch.tensor([1, 0])), file)
    file.seek(0)
    with pytest.raises(ValueError, match="a child before its parent"):
        torch.load(file, weights_only=True)


def test_moving_to_where_it_is_keeps_the_forest(monkeypatch: pytest.MonkeyPatch) -> None:
    forest = FORESTS["chains"]
    assert forest.to("cpu") is forest
    assert forest.to("meta", non_blocking=True).device.type == "meta"
    # Without an accelerator no memory can be pinned.
    monkeypatch.setattr(Tensor, "pin_memory", Tensor.clone)
    assert torch.equal(forest.pin_memory().parent, forest.parent)


@pytest.mark.parametrize("name", FORESTS)
@pytest.mark.parametrize("built_in_inference", [False, True])
def test_what_inference_derived_can_be_trained_on(name: str, built_in_inference: bool) -> None:
    def build() -> Forest:
        return Forest.from_lengths([3, 1]) if name == "chains" else Forest.from_parents(FORESTS[name].parent.clone())

    forest = build()
    with torch.inference_mode():
        forest = build() if built_in_inference else forest
        _ = forest.prepare(0.9).sibling_pairs
        forest.root_sum(torch.zeros(forest.num_edges))
        weight = forest.kept("weight", lambda: torch.full((forest.num_nodes,), 2.0))
    x = torch.ones(forest.num_nodes, requires_grad=True)
    edges, leaves, trees = x[forest.edge_child], x[forest.leaves], x[forest.roots]
    total = sum(
        values.square().sum()
        for values in (
            forest.root_sum(edges),
            forest.leaf_sum(edges) * forest.leaf_share,
            forest.edge_sum(leaves) * forest.edge_share,
            forest.difference(x),
            forest.divergence(edges),
            forest.ancestor_filter(x, 0.9) * weight,
            forest.descendant_filter(x, 0.9),
            forest.subtree_logsumexp(x),
            forest.trees_to_leaves(trees),
        )
    )
    (gradient,) = torch.autograd.grad(total, x)
    assert bool(gradient.isfinite().all())


def test_what_inference_derived_of_a_graph_can_be_trained_on() -> None:
    dag = Dag.from_adjacency([[1, 2], [3], [3], []])
    with torch.inference_mode():
        _ = dag.levels_up, dag.levels_down, dag.root_of, dag.terminals
    x = torch.zeros(4, requires_grad=True)
    for level in dag.levels_up:
        where = Segments.from_ids(level.position, len(level.nodes))
        total = segments.logsumexp(x[dag.target[level.edges]], where).sum()
        assert torch.autograd.grad(total, x)[0].isfinite().all()


def test_caches_of_many_decays_are_bounded() -> None:
    forest = Forest.from_lengths([3, 1])
    for decay in torch.linspace(0.1, 1, 200).tolist():
        found = forest.ancestor_filter(torch.ones(6), decay)
        torch.testing.assert_close(found[2], torch.tensor(decay + decay**2))
        assert forest.kept(decay, lambda d=decay: 2 * d) == 2 * decay
    assert isinstance(forest._paths, Chains)
    assert len(forest._paths.scans) <= MOST_REMEMBERED
    assert len(forest.memo) <= MOST_REMEMBERED
