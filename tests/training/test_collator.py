"""Batches of trees: what is read, what the targets are, and what becomes of actions that were never tried."""

from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from random_trees import ACTIONS, encoded_tree, encoded_trees, search_tree, tree_seeds, with_fields

from gflowdial import oracle
from gflowdial.training.trees import EncodedTree, TreeBatch, TreeCollator, Untried

TAU = 0.25
BRANCH = [5, 9]


def batch_of(trees: list[EncodedTree], untried: Untried = "masked", **settings: object) -> TreeBatch:
    return TreeCollator(BRANCH, TAU, untried=untried, **settings).collate(trees)


@given(seeds=tree_seeds(min_nodes=1), read_leaves=st.booleans())
def test_a_batch_is_the_trees_side_by_side(seeds: list[tuple[int, int]], read_leaves: bool) -> None:
    trees = encoded_trees(seeds)
    batch = batch_of(trees, read_leaves=read_leaves)
    forest = batch.forest
    assert forest.num_trees == len(trees)
    for number, tree in enumerate(each.tree for each in trees):
        nodes = torch.nonzero(forest.tree == number).flatten()
        above = forest.parent[nodes]
        assert torch.equal(torch.where(above < 0, -1, above - nodes[0]), tree.forest.parent)
        assert torch.equal(batch.action[nodes], tree.action)
        assert batch.visits[nodes].tolist() == tree.visits.tolist()
        torch.testing.assert_close(batch.log_q[nodes], (tree.value / TAU).float())
        torch.testing.assert_close(batch.log_turn_reward[nodes], (tree.reward / TAU).float())
        torch.testing.assert_close(batch.log_reward[forest.leaf_tree == number], (tree.leaf_return / TAU).float())


@given(seeds=tree_seeds(min_nodes=1), read_leaves=st.booleans())
def test_inner_nodes_and_roots_are_read_and_leaves_where_asked(seeds: list[tuple[int, int]], read_leaves: bool) -> None:
    trees = encoded_trees(seeds)
    batch = batch_of(trees, read_leaves=read_leaves)
    leaf = batch.forest.num_children == 0
    wanted = torch.ones_like(leaf) if read_leaves else ~leaf | (batch.forest.parent < 0)
    assert torch.equal(batch.row >= 0, wanted)
    assert batch.packed.node[batch.row[wanted]].tolist() == torch.nonzero(wanted).flatten().tolist()


@given(seeds=tree_seeds())
def test_tried_actions_are_those_with_a_child(seeds: list[tuple[int, int]]) -> None:
    trees = encoded_trees(seeds)
    batch = batch_of(trees)
    children = {(int(batch.forest.parent[node]), int(batch.action[node])) for node in batch.forest.edge_child}
    marked = {(int(batch.packed.node[row]), int(action)) for row, action in batch.tried.nonzero()}
    assert marked == children


@given(seeds=tree_seeds(), floor=st.floats(0.01, 2.0))
def test_a_floor_gives_every_untried_action_a_leaf_of_the_stated_reward(
    seeds: list[tuple[int, int]], floor: float
) -> None:
    trees = encoded_trees(seeds)
    plain, batch = batch_of(trees), batch_of(trees, untried="floor", floor=floor)
    size, forest = plain.forest.num_nodes, batch.forest
    assert torch.equal(forest.parent[:size], plain.forest.parent)
    assert batch.tried.all()
    log_prior = torch.cat([each.tree.log_prior for each in trees])
    value = torch.cat([each.tree.value for each in trees])
    log_flow, log_pf = oracle.exact_flows(forest, batch.log_reward.double())
    log_share = torch.full((forest.num_nodes,), torch.nan, dtype=torch.float64)
    log_share[forest.edge_child] = log_pf
    for node in range(size, forest.num_nodes):
        state, action = int(forest.parent[node]), int(batch.action[node])
        wanted = float(value[state] / TAU + np.log(floor) + log_prior[state, action])
        assert float(log_flow[node]) == pytest.approx(wanted, abs=1e-5)
        assert float(log_share[node]) == pytest.approx(wanted - float(log_flow[state]), abs=1e-5)
        assert batch.visits[node] == 0
    assert forest.num_nodes - size == int((~plain.tried).sum())


def test_what_the_prior_excludes_gets_no_floor() -> None:
    tree = encoded_tree(0, 2)
    excluded = next(action for action in range(ACTIONS) if action != tree.tree.action[1])
    tree.tree.log_prior[0, excluded] = -torch.inf
    batch = batch_of([tree], untried="floor")
    assert excluded not in batch.action.tolist()
    assert not batch.tried[0, excluded]
    assert len(batch.action) == 2 + ACTIONS - 2


@pytest.mark.parametrize("untried", get_args(Untried))
def test_what_the_prior_excludes_is_not_allowed(untried: Untried) -> None:
    free = encoded_tree(0, 6)
    assert batch_of([free], untried).allowed is None
    log_prior = torch.full((3, ACTIONS), -np.log(ACTIONS))
    log_prior[0, 4], log_prior[1] = -torch.inf, torch.nan
    # At node 1 the prior was not asked; node 2 is not read.
    tree = EncodedTree(search_tree([-1, 0, 1], [-1, 2, 4], log_prior=log_prior), [[1], [2], [3]])
    if untried == "floor":
        with pytest.raises(ValueError, match="NaN or infinite"):
            batch_of([tree], untried)
        return
    batch = batch_of([free, tree], untried)
    assert batch.allowed is not None
    assert (~batch.allowed).nonzero().tolist() == [[int(batch.row[6]), 4]]


def test_a_tree_that_took_an_excluded_action_is_refused() -> None:
    tree = encoded_tree(0, 3)
    tree.tree.log_prior[0, tree.tree.action[1]] = -torch.inf
    with pytest.raises(ValueError, match="took an action that its prior excludes"):
        batch_of([tree])


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("node", [0, 3])
def test_what_is_not_finite_is_refused(node: int, number: float) -> None:
    tree = encoded_tree(0, 4)
    tree.tree.value[node] = number
    with pytest.raises(ValueError, match="NaN or infinite: search its scene anew"):
        batch_of([encoded_tree(1, 3), tree])


def chance_tree(**fields: object) -> EncodedTree:
    """A root whose action 3 meets a world with two seen answers, 1/2 and 1/4; the first was gone on from."""
    tree = search_tree(
        [-1, 0, 1, 1, 2],
        [-1, 3, -1, -1, 1],
        visits=[5, 4, 2, 2, 1],
        value=torch.tensor([0.5, 0.5, 0.2, 0.8, 0.3]).double(),
        chance=[False, True, False, False, False],
        log_chance=torch.tensor([1, 1, 0.5, 0.25, 1]).double().log(),
    )
    return with_fields(EncodedTree(tree, [[1], [2], [3], [4], [5]]), **fields)


@pytest.mark.parametrize("read_leaves", [False, True])
@pytest.mark.parametrize("untried", get_args(Untried))
def test_where_the_world_moves_nothing_is_read_or_added(untried: Untried, read_leaves: bool) -> None:
    batch = batch_of([encoded_tree(0, 4), chance_tree()], untried, read_leaves=read_leaves)
    assert batch.chance.nonzero().flatten().tolist() == [5]
    assert batch.row[5] == -1
    assert (batch.row[[4, 6]] >= 0).all()
    assert not (batch.forest.parent[9:] == 5).any()
    expected = torch.tensor([1, 1, 2 / 3, 1 / 3, 1]).log()
    torch.testing.assert_close(batch.log_chance[4:9], expected, atol=1e-6, rtol=0.0)
    assert not batch.log_chance[9:].any()


def test_nodes_of_rollouts_are_nodes_as_others() -> None:
    tree = encoded_tree(0, 6)
    rolled = with_fields(tree, expanded=torch.tensor([True, True, False, False, False, True]))
    ours, other = batch_of([tree]), batch_of([rolled])
    assert torch.equal(ours.packed.input_ids, other.packed.input_ids)
    assert torch.equal(ours.log_reward, other.log_reward)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"temperature": 1.0, "floor": 0.0}, "floor is 0.0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TreeCollator(BRANCH, **settings)


def test_no_trees_are_no_batch() -> None:
    with pytest.raises(ValueError, match="no trees to batch"):
        batch_of([])


def test_an_unknown_way_with_untried_actions_is_refused() -> None:
    made = TreeCollator([5, 9], 1.0)
    object.__setattr__(made, "untried", "nonsense")
    with pytest.raises(ValueError, match="untried is 'nonsense': choose 'free', 'masked', 'floor'"):
        made.__post_init__()
