"""Forbidden actions, rollouts that stay in the tree, and chance: properties over random worlds."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from test_mcts import State, Toy
from worlds import COLUMNS, Chancy, Masked, same

from gflowdial.search import SearchConfig, SearchTree, Transition, search, selection_policy

ROOTS = [(1,), (2,), (3,)]

configs = st.builds(
    SearchConfig,
    simulations=st.integers(1, 25),
    max_depth=st.integers(1, 4),
    rollout_length=st.integers(0, 3),
    kappa=st.sampled_from([0.0, 0.1, 2.0]),
)
worlds = st.builds(
    lambda kind, ending, masking, actions: kind(actions, ending, masking=masking),
    st.sampled_from([Masked, Chancy]),
    st.sampled_from([0.0, 0.2, 0.6]),
    st.sampled_from([0.0, 0.5, 0.9]),
    st.integers(1, 4),
)
seeds = st.integers(0, 2**32)


@pytest.mark.parametrize(
    ("toy", "config", "shape", "value"),
    [
        (Toy(), SearchConfig(), "8928441dbe791f63", 227.0243723288339),
        (
            Toy(ending=0.5),
            SearchConfig(simulations=60, max_depth=3, rollout_length=2, kappa=0.4),
            "07f1857b9bbc6615",
            1162.121378519725,
        ),
        (
            Toy(2, 0.0),
            SearchConfig(simulations=25, max_depth=4, rollout_length=0, prior_weight=0.3),
            "ac044e7407711e91",
            1049.1693916214942,
        ),
    ],
)
def test_trees_are_those_of_the_search_before_masks_and_chance(
    toy: Toy, config: SearchConfig, shape: str, value: float
) -> None:
    """Written by the search that knew neither masks, nor chance, nor kept rollouts."""
    found = search(toy, ROOTS, [7, 8, 9], config)
    digest = hashlib.sha256(repr([x.tolist() for x in (found.forest.parent, found.action, found.visits)]).encode())
    assert digest.hexdigest()[:16] == shape
    assert float((found.value * torch.arange(len(found.value))).sum()) == pytest.approx(value, rel=1e-13)


def test_a_tree_of_the_search_before_masks_and_chance() -> None:
    config = SearchConfig(simulations=6, max_depth=3, rollout_length=1)
    found = search(Toy(num_actions=3), [(4,)], [5], config)
    assert found.forest.parent.tolist() == [-1, 0, 0, 0, 3]
    assert found.action.tolist() == [-1, 2, 0, 1, 1]
    assert found.visits.tolist() == [6, 2, 2, 2, 1]
    value = [0.47161979667141946, 0.7192759371319156, 0.2910521116595639, 0.4045313412227787, 0.3929835111660742]
    np.testing.assert_allclose(found.value, value, rtol=1e-14)


@given(
    st.lists(st.tuples(st.floats(0.01, 1), st.booleans(), st.floats(0, 1), st.integers(0, 9)), min_size=2, max_size=6)
)
def test_selection_over_allowed_actions_is_selection_without_the_others(
    actions: list[tuple[float, bool, float, int]],
) -> None:
    prior, allowed, value, visits = map(np.array, zip(*actions, strict=True))
    allowed[0] = True
    visits = np.where(allowed, visits, 0)
    with np.errstate(divide="ignore"):
        log_prior = np.log(np.where(allowed, prior, 0) / prior[allowed].sum())
    policy = selection_policy(value, visits, log_prior, SearchConfig(kappa=0.5))
    assert (policy[~allowed] == 0).all()
    alone = selection_policy(value[allowed], visits[allowed], log_prior[allowed], SearchConfig(kappa=0.5))
    np.testing.assert_allclose(policy[allowed], alone, rtol=1e-12)


@settings(max_examples=60)
@given(worlds, configs, st.booleans(), seeds)
def test_a_forbidden_action_is_never_taken(world: Masked, config: SearchConfig, keep: bool, seed: int) -> None:
    found = search(world, ROOTS, [seed, seed + 1, seed + 2], replace(config, keep_rollouts=keep))
    assert all(world.allowed(state)[action] for state, action in world.stepped)
    for node in found.forest.edge_child.tolist():
        if found.action[node] >= 0:
            assert found.log_prior[found.forest.parent[node], found.action[node]] > -torch.inf
    best = found.best_actions()
    assert (found.log_prior[found.forest.roots, best] > -torch.inf).all()


def test_a_state_that_allows_nothing_is_named() -> None:
    class Stuck(Toy):
        def log_prior(self, states: Sequence[State]) -> NDArray[np.float64]:
            return np.where([[state == (1, 0)] for state in states], -np.inf, super().log_prior(states))

    with pytest.raises(ValueError, match=r"forbids every action in \(1, 0\), which has not ended"):
        search(Stuck(num_actions=1, ending=0.0), [(1,)], [0])


@settings(max_examples=60)
@given(worlds, configs, seeds)
def test_the_expanded_nodes_are_the_tree_without_rollouts(world: Masked, config: SearchConfig, seed: int) -> None:
    some_seeds = [seed, seed + 1, seed + 2]
    kept = search(world, ROOTS, some_seeds, replace(config, keep_rollouts=True))
    same(kept.select(kept.expanded), search(world, ROOTS, some_seeds, config))


@dataclass
class Told(Masked):
    """Keeps the end of every simulation and its return."""

    ends_told: list[tuple[State, float]] = field(default_factory=list)

    def trajectory_return(self, rewards: Sequence[float], state: State) -> float:
        value = super().trajectory_return(rewards, state)
        self.ends_told.append((state, value))
        return value


@settings(max_examples=40)
@given(configs, st.sampled_from([0.0, 0.3]), seeds)
def test_rollout_nodes_count_the_simulations_through_them(config: SearchConfig, ending: float, seed: int) -> None:
    world = Told(3, ending, masking=0.3)
    found = search(world, [(1,)], [seed], replace(config, keep_rollouts=True))
    assert len(set(found.states)) == len(found.states), "equal histories are one node"
    for node, state in enumerate(found.states):
        through = [value for end, value in world.ends_told if end[: len(state)] == state]
        if found.expanded[node]:
            assert 1 <= found.visits[node] <= len(through)
        else:
            assert found.visits[node] == len(through)
            assert float(found.value[node]) == pytest.approx(np.mean(through))
    ends = {end for end, _ in world.ends_told}
    assert ends <= set(found.states), "every state that a rollout reached is a node"


def test_a_search_expands_what_a_rollout_passed_without_a_second_node() -> None:
    toy = Toy(num_actions=1, ending=0.0)
    found = search(toy, [(0,)], [0], SearchConfig(simulations=3, rollout_length=3, keep_rollouts=True))
    assert found.states == tuple((0,) * n for n in range(1, 8))
    assert found.expanded.tolist() == [True] * 4 + [False] * 3
    assert found.visits.tolist() == [3, 3, 2, 1, 3, 2, 1]
    assert len(toy.stepped) == len(set(toy.stepped)) == 6


@settings(max_examples=60)
@given(worlds, configs, st.booleans(), seeds)
def test_certain_outcomes_are_the_deterministic_search(
    world: Masked, config: SearchConfig, keep: bool, seed: int
) -> None:
    """Up to the chance nodes, which have the visits and the value of their one outcome."""
    config = replace(config, keep_rollouts=keep)
    some_seeds = [seed, seed + 1, seed + 2]
    settings_of_world = (world.num_actions, world.ending)
    plain = search(Masked(*settings_of_world, masking=world.masking), ROOTS, some_seeds, config)
    found = search(Chancy(*settings_of_world, masking=world.masking, certain=True), ROOTS, some_seeds, config)
    acts = (~found.chance).nonzero().squeeze(1)
    assert tuple(found.states[node] for node in acts.tolist()) == plain.states
    for name in ("reward", "visits", "value", "log_prior", "ended", "expanded", "log_chance"):
        torch.testing.assert_close(getattr(found, name)[acts], getattr(plain, name), rtol=0, atol=0, equal_nan=True)
    by_chance = found.forest.parent[acts[plain.forest.edge_child]]
    assert found.chance[by_chance].all()
    assert torch.equal(found.action[by_chance], plain.action[plain.forest.edge_child])
    assert torch.equal(found.visits[by_chance], plain.visits[plain.forest.edge_child])
    assert torch.equal(found.root_visits(), plain.root_visits())
    assert torch.equal(found.best_actions(), plain.best_actions())


@settings(max_examples=60)
@given(configs, st.booleans(), st.sampled_from([0.0, 0.3]), seeds)
def test_trees_with_chance(config: SearchConfig, keep: bool, ending: float, seed: int) -> None:
    config = replace(config, keep_rollouts=keep)
    world = Chancy(3, ending, masking=0.3)
    found = search(world, ROOTS, [seed, seed + 1, seed + 2], config)
    forest, parent = found.forest, found.forest.parent
    for node in range(len(found.states)):
        above = int(parent[node])
        if above < 0 or not found.chance[above]:
            assert found.log_chance[node] == 0
            if above >= 0:
                assert found.chance[node], "an action leads to a chance node"
        if found.chance[node]:
            assert found.states[node] == found.states[above]
            assert (float(found.reward[node]), bool(found.ended[node])) == (0.0, False)
            assert found.log_prior[node].isnan().all()
            below = (parent == node).nonzero().squeeze(1)
            assert len(below)
            if not keep:
                assert found.visits[node] == found.visits[below].sum()
            (answers,) = world.outcomes([found.states[node]], found.action[[node]].numpy())
            known = {answer.state: answer for answer in answers}
            for outcome in below.tolist():
                answer = known[found.states[outcome]]
                assert float(found.log_chance[outcome]) == np.log(answer.probability)
                assert (float(found.reward[outcome]), bool(found.ended[outcome])) == (answer.reward, answer.ended)
                assert found.action[outcome] == -1
    acts = [state for state, chance in zip(found.states, found.chance, strict=True) if not chance]
    assert len(set(acts)) == len(acts), "an outcome is one node"
    assert (found.visits[forest.roots] == config.simulations).all()
    depth = torch.tensor([len(state) for state in found.states]) - 1
    assert int(depth[found.expanded].max()) <= config.max_depth, "depth counts actions"


@settings(max_examples=20)
@given(st.lists(seeds, min_size=2, max_size=5), configs, st.booleans())
def test_a_tree_with_chance_or_rollouts_does_not_depend_on_its_company(
    some_seeds: list[int], config: SearchConfig, stochastic: bool
) -> None:
    config = replace(config, keep_rollouts=True)
    world = (Chancy if stochastic else Masked)(3, 0.2, masking=0.3)
    roots = [(n,) for n in range(len(some_seeds))]
    together = search(world, roots, some_seeds, config).split()
    for root, seed, tree in zip(roots, some_seeds, together, strict=True):
        same(tree, search(world, [root], [seed], config))


def test_outcomes_come_with_their_probabilities() -> None:
    """The outcome of the only action in 5,000 one-simulation trees of one root, and in one tree of 5,000 visits."""
    world = Chancy(1, 0.0)
    root = next((n,) for n in range(100) if len(world.outcomes([(n,)], np.array([0]))[0]) == 3)
    (answers,) = world.outcomes([root], np.array([0]))
    expected = 5000 * np.array([answer.probability for answer in answers])
    many = search(world, [root] * 5000, range(5000), SearchConfig(simulations=1, rollout_length=0))
    one = search(world, [root], [0], SearchConfig(simulations=5000, max_depth=1, rollout_length=0))
    for found in (many, one):
        counts: Counter[State] = Counter()
        for state, visits, depth in zip(found.states, found.visits.tolist(), found.forest.depth.tolist(), strict=True):
            counts[state] += visits if depth == 2 else 0
        seen = np.array([counts[answer.state] for answer in answers])
        assert seen.sum() == 5000
        assert ((seen - expected) ** 2 / expected).sum() < 13.8


def test_outcomes_of_an_action_at_a_node_are_asked_once() -> None:
    world = Chancy(2, 0.1)
    search(world, [(0,)], [1], SearchConfig(simulations=200, max_depth=3, rollout_length=2, keep_rollouts=True))
    assert len(world.stepped) == len(set(world.stepped))


def test_bad_outcomes_are_named() -> None:
    @dataclass
    class Wrong(Chancy):
        probabilities: tuple[float, ...] = ()

        def outcomes(self, states: Sequence[State], actions: NDArray[np.int64]) -> list[list[Transition[State]]]:  # noqa: ARG002
            return [[Transition((*s, 0), 0.0, False, p) for p in self.probabilities] for s in states]

    for probabilities in ((), (0.5, 0.4), (1.0, 0.0)):
        with pytest.raises(ValueError, match=r"outcomes of an action in \(0,\) have the probabilities"):
            search(Wrong(probabilities=probabilities), [(0,)], [0])


@settings(max_examples=30)
@given(worlds, configs, seeds, st.data())
def test_selecting_nodes(world: Masked, config: SearchConfig, seed: int, data: st.DataObject) -> None:
    found = search(world, ROOTS, [seed, seed + 1, seed + 2], config)
    size = len(found.states)
    chosen = torch.tensor(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    kept: list[int] = []
    for node, above in enumerate(found.forest.parent.tolist()):
        if chosen[node] and (above < 0 or above in kept):
            kept.append(node)
    if not kept:
        with pytest.raises(ValueError, match="leaves no root"):
            found.select(chosen)
        return
    part = found.select(chosen)
    assert part.states == tuple(found.states[node] for node in kept)
    above = [-1 if p < 0 else kept.index(p) for p in found.forest.parent[kept].tolist()]
    assert part.forest.parent.tolist() == above
    for name in COLUMNS:
        assert torch.equal(getattr(part, name).nan_to_num(), getattr(found, name)[kept].nan_to_num())


def test_merging_what_was_split_is_the_tree() -> None:
    found = search(Chancy(3, 0.2), ROOTS, [1, 2, 3])
    same(SearchTree.merge(found.split()), found)
    with pytest.raises(ValueError, match="no trees"):
        SearchTree.merge([])
