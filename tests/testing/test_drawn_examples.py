"""What the strategies draw is what they say, and a drawn flow reads well where a test fails."""

import pytest
import torch
from hypothesis import find, given, settings
from hypothesis import strategies as st
from test_planted_environments import Grid

from gflowdial import oracle, segments
from gflowdial.dag import Dag
from gflowdial.forest import Forest
from gflowdial.layouts import Chains
from gflowdial.sampling import Trajectories
from gflowdial.segments import Segments
from gflowdial.testing import (
    DagFlow,
    Flow,
    PaddedBatch,
    balanced_dag_flows,
    balanced_flows,
    chains,
    dags,
    forests,
    padded_batches,
    trajectories,
    trees,
)
from gflowdial.testing.rearranged import kept, renumbered


@given(forest=chains(max_trees=3, max_actions=4))
def test_chains_are_chains(forest: Forest) -> None:
    assert isinstance(forest.layout, Chains)
    assert forest.num_trees <= 3
    assert int(forest.depth.max()) <= 4


@given(forest=trees(max_nodes=8))
def test_trees_are_single(forest: Forest) -> None:
    assert forest.num_trees == 1
    assert forest.num_nodes <= 8


@given(flow=balanced_flows(forests(max_nodes=8), any_backward=False, spread=300.0))
def test_rewards_span_magnitudes_and_stay_balanced(flow: Flow) -> None:
    torch.testing.assert_close(
        flow.log_flow[flow.forest.edge_parent] + flow.log_pf, flow.log_flow[flow.forest.edge_child]
    )
    assert bool((flow.log_pf <= 0).all())


def test_wide_rewards_are_drawn() -> None:
    wide = find(
        balanced_flows(st.just(Forest.from_lengths([1])), spread=300.0),
        lambda flow: bool((flow.log_reward.abs() > 200).all()),
        settings=settings(database=None, derandomize=True),
    )
    assert float(wide.log_reward.abs()) <= 300


@given(dag=dags())
def test_dags_have_one_root_above_every_node(dag: Dag) -> None:
    assert bool((dag.source < dag.target).all())
    assert dag.root_of.shape == (dag.num_nodes,)


def test_dags_have_joins_several_roots_and_double_edges() -> None:
    def double(dag: Dag) -> bool:
        edges = list(zip(dag.source.tolist(), dag.target.tolist(), strict=True))
        return len(set(edges)) < len(edges)

    for wanted in (double, lambda dag: len(dag.roots) > 1, lambda dag: len(dag.source.unique()) > 2):
        find(dags(), wanted, settings=settings(database=None, derandomize=True))


@given(flow=balanced_dag_flows(dags()))
def test_flows_on_dags_balance_on_every_edge_and_end_in_proportion_to_reward(flow: DagFlow) -> None:
    dag = flow.dag
    torch.testing.assert_close(flow.log_flow[dag.source] + flow.log_pf, flow.log_flow[dag.target] + flow.log_pb)
    into = segments.sum(flow.log_pb.exp(), Segments.from_ids(dag.target, dag.num_nodes))
    torch.testing.assert_close(into[dag.target.unique()], torch.ones_like(into[dag.target.unique()]))
    ends = oracle.dag_terminating_distribution(dag, flow.log_pf)
    torch.testing.assert_close(ends, flow.log_reward - flow.log_flow[dag.roots[dag.root_of[dag.terminals]]])


@given(batch=padded_batches(balanced_flows(chains(max_trees=3, max_actions=4))))
def test_padded_batches_hold_the_flow_and_nothing_else(batch: PaddedBatch) -> None:
    flow = batch.flow
    assert torch.equal(batch.log_pf[batch.mask], flow.log_pf)
    assert torch.equal(batch.log_pb[batch.mask], flow.log_pb)
    states = torch.nn.functional.pad(batch.mask, (1, 0), value=True)
    assert torch.equal(batch.log_flow[states], flow.log_flow)
    assert bool((batch.log_flow[~states] == batch.padding).all())
    assert bool((batch.log_pf[~batch.mask] == 2 * batch.padding).all())
    assert bool((batch.log_pb[~batch.mask] == 5 * batch.padding).all())


def test_trees_cannot_be_padded() -> None:
    flow = find(
        balanced_flows(trees()),
        lambda flow: not isinstance(flow.forest.layout, Chains),
        settings=settings(database=None, derandomize=True),
    )
    with pytest.raises(ValueError, match="chains"):
        PaddedBatch.of(flow, 0.0)


@given(walks=trajectories(Grid(), max_trajectories=3))
def test_trajectories_follow_the_environment(walks: Trajectories) -> None:
    grid, forest = Grid(), walks.forest
    before = walks.states[forest.edge_parent]
    assert bool(grid.forward_mask(before)[torch.arange(len(before)), walks.actions].all())
    assert torch.equal(grid.step(before, walks.actions), walks.states[forest.edge_child])
    assert torch.equal(walks.states[forest.roots], grid.initial_states[walks.condition])
    ends = walks.states[forest.leaves]
    assert not bool(grid.forward_mask(ends).any())
    torch.testing.assert_close(walks.log_reward, grid.log_reward(ends))


def test_every_way_through_an_environment_can_be_drawn() -> None:
    long = find(
        trajectories(Grid(), max_trajectories=1),
        lambda walks: int(walks.forest.depth.max()) == 5 and int(walks.condition[0]) == 1,
        settings=settings(database=None, derandomize=True),
    )
    assert sorted(long.actions.tolist()) == [0, 0, 1, 1, 2]


@given(flow=balanced_flows(forests(max_nodes=12)), seed=st.integers(0, 1000))
def test_renumbering_keeps_every_path(flow: Flow, seed: int) -> None:
    other, tree = renumbered(flow, torch.Generator().manual_seed(seed))

    def paths(flow: Flow) -> list[tuple[float, ...]]:
        forest, ratio = flow.forest, flow.log_pf - flow.log_pb
        top = flow.log_z[forest.leaf_tree]
        columns = (top, forest.root_sum(ratio)[forest.leaves], flow.log_reward, forest.depth[forest.leaves])
        return sorted(tuple(round(float(x), 9) for x in row) for row in zip(*columns, strict=True))

    assert paths(other) == paths(flow)
    assert sorted(tree.tolist()) == list(range(flow.forest.num_trees))
    torch.testing.assert_close(other.log_z, flow.log_z[tree])
    assert isinstance(other.forest.layout, Chains) or not isinstance(flow.forest.layout, Chains)
    alone = [kept(flow, torch.arange(flow.forest.num_trees) == one) for one in range(flow.forest.num_trees)]
    assert sorted(path for part in alone for path in paths(part)) == paths(flow)


def test_a_flow_reads_as_a_table() -> None:
    forest = Forest.from_parents(torch.tensor([-1, 0, 0]))
    log_flow, log_pf = oracle.exact_flows(forest, torch.tensor([0.0, 1.0]).double())
    flow = Flow(forest, log_flow[:1], log_flow, log_pf, torch.zeros(2).double(), torch.tensor([0.0, 1.0]).double())
    assert repr(flow) == (
        "Flow on 1 tree, 3 nodes:\n"
        "  node  parent  log Z  log F  log P_F  log P_B  log R\n"
        "     0       -  1.313  1.313        -        -      -\n"
        "     1       0      -      0   -1.313        0      0\n"
        "     2       0      -      1  -0.3133        0      1"
    )
    forest = Forest.from_lengths([60])
    log_flow, log_pf = oracle.exact_flows(forest, torch.zeros(1).double())
    many = Flow(forest, log_flow[:1], log_flow, log_pf, torch.zeros_like(log_pf), torch.zeros(1).double())
    assert len(repr(many).splitlines()) == 27
    assert repr(many).endswith("  and 37 more rows")


def test_a_falsifying_example_shows_the_table() -> None:
    @settings(database=None, derandomize=True)
    @given(flow=balanced_flows(forests()))
    def no_flow_has_three_nodes(flow: Flow) -> None:
        assert flow.forest.num_nodes < 3

    with pytest.raises(AssertionError) as caught:
        no_flow_has_three_nodes()
    notes = "\n".join(caught.value.__notes__).partition("Explanation")[0]
    assert "3 nodes:" in notes
    assert "parent" in notes
    assert len(notes.splitlines()) < 12


def test_a_flow_on_a_dag_reads_as_its_edges() -> None:
    dag = Dag.from_edges(torch.tensor([0, 0]), torch.tensor([1, 1]), 2)
    half = torch.full((2,), 0.5).double().log()
    flow = DagFlow(dag, torch.zeros(2).double(), half, half, torch.zeros(1).double())
    assert repr(flow).splitlines() == [
        "DagFlow on 2 nodes, log F = [0, 0]:",
        "   edge  log P_F  log P_B",
        "  0 → 1  -0.6931  -0.6931",
        "  0 → 1  -0.6931  -0.6931",
    ]
