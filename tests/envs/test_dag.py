"""Graphs: what follows from their edges, against searches node by node; what is refused."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gflowdial.dag import Dag, longest_path
from gflowdial.testing import dags


def parents(dag: Dag, node: int) -> list[int]:
    return dag.source[dag.target == node].tolist()


@given(dags())
def test_levels_are_longest_paths(dag: Dag) -> None:
    longest: list[int] = []
    for node in range(dag.num_nodes):
        longest.append(max((longest[above] + 1 for above in parents(dag, node)), default=0))
    assert dag.level.tolist() == longest


@given(dags())
def test_roots_and_terminals(dag: Dag) -> None:
    assert dag.roots.tolist() == [n for n in range(dag.num_nodes) if n not in dag.target.tolist()]
    assert dag.terminals.tolist() == [n for n in range(dag.num_nodes) if n not in dag.source.tolist()]
    above: list[int] = []
    for node in range(dag.num_nodes):
        above.append(above[parents(dag, node)[0]] if parents(dag, node) else dag.roots.tolist().index(node))
    assert dag.root_of.tolist() == above


@given(dags())
def test_each_level_holds_its_edges_and_needs_no_later_one(dag: Dag) -> None:
    for levels, near, far in ((dag.levels_down, dag.target, dag.source), (dag.levels_up, dag.source, dag.target)):
        done = set(dag.roots.tolist() if near is dag.target else dag.terminals.tolist())
        seen: list[int] = []
        for level in levels:
            assert torch.equal(level.nodes[level.position], near[level.edges])
            assert set(far[level.edges].tolist()) <= done
            done |= set(level.nodes.tolist())
            seen += level.edges.tolist()
        assert sorted(seen) == list(range(dag.num_edges))
        assert done == set(range(dag.num_nodes))


@given(dag=dags(), seed=st.integers(0, 2**32))
def test_longest_paths_do_not_depend_on_numbers(dag: Dag, seed: int) -> None:
    number = torch.randperm(dag.num_nodes, generator=torch.Generator().manual_seed(seed))
    level = longest_path(number[dag.source], number[dag.target], dag.num_nodes)
    assert torch.equal(level[number], dag.level)


def test_adjacency_keeps_the_order_of_edges() -> None:
    dag = Dag.from_adjacency([[3, 1], [2, 2], [], []])
    assert (dag.source.tolist(), dag.target.tolist()) == ([0, 0, 1, 1], [3, 1, 2, 2])
    assert dag.num_parents.tolist() == [0, 1, 2, 1]
    assert dag.num_children.tolist() == [2, 2, 0, 0]
    lonely = Dag.from_adjacency([[], []])
    assert lonely.roots.tolist() == lonely.terminals.tolist() == lonely.root_of.tolist() == [0, 1]
    assert lonely.to("cpu").num_edges == 0


def test_a_node_below_two_roots_is_named() -> None:
    with pytest.raises(ValueError, match="node 3 lies below the roots 0 and 1"):
        _ = Dag.from_adjacency([[2, 3], [3], [], []]).root_of


@pytest.mark.parametrize(
    ("source", "target", "num_nodes", "complaint"),
    [
        ([0], [1], 0, "num_nodes must be 1 or more; got 0"),
        ([0.0], [1], 2, "source must be int64; got torch.float32"),
        ([0], [[1]], 2, r"target must be a vector, one entry an edge; got shape \[1, 1\]"),
        ([0, 1], [1, 2], 2, r"target\[1\] is 2, out of range: nodes are 0 to 1"),
        ([-1], [1], 2, r"source\[0\] is -1, out of range"),
        ([0, 0], [1], 2, "source and target must be equally long; got 2 and 1"),
        ([0, 1], [1, 1], 2, "edge 1 leads from node 1 to node 1"),
        ([0, 2], [1, 1], 3, "edge 1 leads from node 2 to node 1: number the nodes so that"),
    ],
)
def test_what_is_no_graph_is_refused(source: list[int], target: list[int], num_nodes: int, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Dag.from_edges(torch.tensor(source), torch.tensor(target), num_nodes)


def test_a_circle_has_no_longest_path() -> None:
    with pytest.raises(ValueError, match="close a circle on the way to node 1"):
        longest_path(torch.tensor([0, 1, 2, 3]), torch.tensor([1, 2, 3, 1]), 4)
