"""Rollouts of a policy that join trees: each is a trajectory of the policy, and nothing is asked for twice."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from worlds import Chancy, Masked, same

from gflowdial import oracle
from gflowdial.search import SearchConfig, SearchTree, enumerate_tree, grow, search, unite

State = tuple[int, ...]
ROOTS: list[State] = [(1,), (2,), (3,)]
worlds = st.builds(
    lambda kind, ending, masking, actions: kind(actions, ending, masking=masking),
    st.sampled_from([Masked, Chancy]),
    st.sampled_from([0.2, 0.6]),
    st.sampled_from([0.0, 0.5]),
    st.integers(1, 4),
)
seeds = st.integers(0, 2**32)


def begin(world: Masked | Chancy) -> SearchTree[State]:
    return SearchTree.begin(ROOTS, world.num_actions)


def grown(world: Masked | Chancy, tree: SearchTree[State], rollouts: int, seed: int) -> SearchTree[State]:
    return grow(world, tree, world.log_prior, rollouts, [seed, seed + 1, seed + 2], max_depth=6)


@given(worlds, st.integers(1, 8), seeds)
@settings(max_examples=60)
def test_trees_of_rollouts_hold_the_laws_of_trees(world: Masked | Chancy, rollouts: int, seed: int) -> None:
    tree = grown(world, begin(world), rollouts, seed)
    forest = tree.forest
    assert forest.num_trees == len(ROOTS)
    assert [tree.states[root] for root in forest.roots.tolist()] == ROOTS
    inner = forest.num_children > 0
    # What leaves a node came into it, less the trajectories that ended there.
    out = torch.zeros(forest.num_nodes).index_add(0, forest.edge_parent, tree.visits[forest.edge_child].float())
    assert bool((out[inner] == tree.visits[inner]).all())
    assert tree.visits[forest.roots].tolist() == [rollouts] * len(ROOTS)
    assert not bool((tree.ended & inner).any())
    # The mean return of a node is that of the trajectories through it.
    leaves = forest.leaves
    total = torch.zeros(forest.num_nodes).double()
    total[leaves] = tree.value[leaves] * tree.visits[leaves]
    np.testing.assert_allclose(forest.subtree_sum(total) / tree.visits, tree.value, rtol=1e-12)
    for leaf in leaves.tolist():
        path, node = [], leaf
        while node >= 0:
            path.append(node)
            node = int(forest.parent[node])
        rewards = [float(tree.reward[n]) for n in path[-2::-1] if not tree.chance[n]]
        assert float(tree.value[leaf]) == pytest.approx(world.trajectory_return(rewards, tree.states[leaf]))


@given(worlds, st.integers(1, 5), seeds)
@settings(max_examples=40)
def test_what_a_tree_holds_stays_and_is_counted_on(world: Masked | Chancy, rollouts: int, seed: int) -> None:
    before = search(world, ROOTS, [5, 6, 7], SearchConfig(simulations=12, max_depth=3, rollout_length=2))
    after = grown(world, before, rollouts, seed)
    for old, new in zip(before.split(), after.split(), strict=True):
        known = len(old.states)
        assert new.states[:known] == old.states
        assert new.forest.parent[:known].tolist() == old.forest.parent.tolist()
        assert bool((new.visits[:known] >= old.visits).all())
        assert int(new.visits[0]) == int(old.visits[0]) + rollouts
        assert not bool(new.expanded[known:].any())


class Asked(Masked):
    """Remembers which steps it was asked for."""

    steps: list[tuple[State, int]]

    def step(self, states: Sequence[State], actions: NDArray[np.int64]) -> list:  # type: ignore[type-arg]
        self.__dict__.setdefault("asked", []).extend(zip(states, actions.tolist(), strict=True))
        return super().step(states, actions)


@given(st.integers(1, 10), seeds)
@settings(max_examples=20)
def test_no_step_is_asked_for_twice(rollouts: int, seed: int) -> None:
    world = Asked(3, 0.2, masking=0.3)
    tree = grown(world, begin(world), rollouts, seed)
    asked = world.__dict__["asked"]
    assert len(set(asked)) == len(asked) == len(tree.states) - len(ROOTS)
    again = grown(world, tree, rollouts, seed)
    assert len(again.states) == len(tree.states), "the same draws lead along the same paths"


def test_a_tree_depends_on_its_own_seed_alone() -> None:
    world = Masked(3, 0.3, masking=0.3)
    together = grow(world, begin(world), world.log_prior, 6, [1, 2, 3], max_depth=5).split()
    alone = grow(world, SearchTree.begin(ROOTS[1:2], 3), world.log_prior, 6, [2], max_depth=5)
    same(together[1], alone)


def test_trajectories_come_in_the_policys_proportions() -> None:
    world = Masked(3, 0.4, masking=0.4)
    whole = enumerate_tree(world, ROOTS[:1])
    taken = grow(world, SearchTree.begin(ROOTS[:1], 3), world.log_prior, 20_000, [0])
    log_pf = whole.log_prior[whole.forest.edge_parent, whole.action[whole.forest.edge_child]]
    expected = {
        whole.states[leaf]: float(p.exp())
        for leaf, p in zip(
            whole.forest.leaves.tolist(), oracle.terminating_distribution(whole.forest, log_pf), strict=True
        )
    }
    found = {taken.states[leaf]: int(taken.visits[leaf]) / 20_000 for leaf in taken.forest.leaves.tolist()}
    assert set(found) <= set(expected)
    assert sum(abs(found.get(state, 0) - p) for state, p in expected.items()) / 2 < 0.02


def test_exploration_is_uniform_over_what_is_allowed() -> None:
    world = Masked(4, 0.0, masking=0.5)
    tree = grow(world, SearchTree.begin(ROOTS[:1], 4), world.log_prior, 8_000, [0], epsilon=1.0, max_depth=1)
    allowed = int((tree.log_prior[0] > -torch.inf).sum())
    np.testing.assert_allclose(tree.visits[1:] / 8_000, 1 / allowed, atol=0.03)
    flat = grow(world, SearchTree.begin(ROOTS[:1], 4), world.log_prior, 8_000, [0], temperature=1e6, max_depth=1)
    np.testing.assert_allclose(flat.visits[1:] / 8_000, 1 / allowed, atol=0.03)


@given(st.integers(1, 8), st.integers(1, 8), seeds)
@settings(max_examples=30)
def test_united_trees_count_all_simulations_once(first: int, second: int, seed: int) -> None:
    world = Masked(3, 0.3, masking=0.3)
    one, two = grown(world, begin(world), first, seed), grown(world, begin(world), second, seed + 9)
    both = unite([one, two])
    held, more, found = (
        {state: int(v) for state, v in zip(tree.states, tree.visits, strict=True)} for tree in (one, two, both)
    )
    assert found == {state: held.get(state, 0) + more.get(state, 0) for state in held | more}
    total = float((one.value * one.visits)[0] + (two.value * two.visits)[0])
    assert float(both.value[0]) == pytest.approx(total / (first + second))
    same(unite([one]), one)


def test_refusals_name_the_way_out() -> None:
    world = Masked(3, 0.3)
    with pytest.raises(ValueError, match=r"rollouts is 0.*give at least 1"):
        grow(world, begin(world), world.log_prior, 0, [1, 2, 3])
    with pytest.raises(ValueError, match="give one seed per root"):
        grow(world, begin(world), world.log_prior, 1, [1])
    with pytest.raises(ValueError, match="other roots"):
        unite([begin(world), SearchTree.begin(ROOTS[:2], 3)])
