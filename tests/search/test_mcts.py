"""Lockstep search: the selection rule, what may be expanded and scored, and independence of the batch."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gflowdial.search import SearchConfig, SearchTree, Transition, search, selection_policy

State = tuple[int, ...]


def noise(state: State, salt: int) -> float:
    """A number in [0, 1) that depends on the state alone."""
    return float(np.random.default_rng([salt, len(state), *state]).random())


@dataclass
class Toy:
    """A state is its root's name and the actions since; rewards, priors and ends depend on the state alone."""

    num_actions: int = 4
    ending: float = 0.2
    stepped: list[tuple[State, int]] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)

    def ends(self, state: State) -> bool:
        return len(state) > 1 and noise(state, 1) < self.ending

    def log_prior(self, states: Sequence[State]) -> NDArray[np.float64]:
        self.calls["log_prior"] += 1
        assert not any(map(self.ends, states))
        logits = np.array([[3 * noise((*state, a), 2) for a in range(self.num_actions)] for state in states])
        return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))

    def step(self, states: Sequence[State], actions: NDArray[np.int64]) -> list[Transition[State]]:
        self.calls["step"] += 1
        assert not any(map(self.ends, states)), "an ended state was expanded"
        self.stepped += zip(states, actions.tolist(), strict=True)
        after = [(*state, int(action)) for state, action in zip(states, actions, strict=True)]
        return [Transition(state, noise(state, 3), self.ends(state)) for state in after]

    def trajectory_return(self, rewards: Sequence[float], state: State) -> float:
        assert len(rewards) == len(state) - 1, "every turn from the root on earns one reward"
        return float(np.mean(rewards)) if rewards else 0.0


def nodes_by_tree(found: SearchTree[State]) -> list[list[tuple[object, ...]]]:
    """Every node's record, tree by tree."""
    trees: list[list[tuple[object, ...]]] = [[] for _ in range(found.forest.num_trees)]
    for node, tree in enumerate(found.forest.tree.tolist()):
        trees[tree].append(
            (
                found.states[node],
                int(found.visits[node]),
                float(found.value[node]),
                float(found.reward[node]),
                bool(found.ended[node]),
            )
        )
    return trees


probabilities = st.lists(st.floats(0.01, 1), min_size=2, max_size=6).map(lambda p: np.array(p) / sum(p))


@given(probabilities, st.data())
def test_selection_policy_is_the_formula(prior: NDArray[np.float64], data: st.DataObject) -> None:
    size = len(prior)
    q = data.draw(st.lists(st.floats(0, 1), min_size=size, max_size=size))
    n = data.draw(st.lists(st.integers(0, 50), min_size=size, max_size=size))
    kappa, weight = data.draw(st.floats(0, 2)), data.draw(st.floats(0, 3))
    total = 1 + sum(n)
    rho = kappa / (kappa + math.log(total + 1))
    u = [q[a] + weight * prior[a] * math.sqrt(total / (1 + n[a])) for a in range(size)]
    expected = [(1 - rho) * math.exp(u[a]) / sum(map(math.exp, u)) + rho / size for a in range(size)]
    policy = selection_policy(np.array(q), np.array(n), np.log(prior), SearchConfig(kappa=kappa, prior_weight=weight))
    np.testing.assert_allclose(policy, expected, rtol=1e-10)
    assert policy.sum() == pytest.approx(1)


def test_prior_speaks_before_the_first_visit() -> None:
    prior = np.array([0.7, 0.2, 0.1])
    policy = selection_policy(np.zeros(3), np.zeros(3, np.int64), np.log(prior))
    assert policy[0] > policy[1] > policy[2]


def test_prior_enters_as_probabilities_once() -> None:
    """Soft-maxed once more, this sharp prior would be nearly flat: (0.73, 0.27)."""
    prior = np.array([0.999, 0.001])
    policy = selection_policy(np.zeros(2), np.zeros(2, np.int64), np.log(prior), SearchConfig(kappa=0.0))
    assert policy[0] / policy[1] == pytest.approx(math.exp(0.998), rel=1e-9)


def test_uniform_exploration_is_shared_among_all_actions() -> None:
    """With κ huge, μ is uniform at any number of actions: ρ/|A|, not a constant."""
    for size in (2, 8, 16):
        policy = selection_policy(
            np.arange(size) / 1.0, np.ones(size, np.int64), np.full(size, -np.log(size)), SearchConfig(kappa=1e12)
        )
        np.testing.assert_allclose(policy, 1 / size, rtol=1e-6)


def test_selection_samples_with_the_frequencies_of_the_policy() -> None:
    """The first action of 20,000 one-simulation trees of one root, against μ (χ², 3 degrees of freedom)."""
    trees = 20_000
    toy = Toy(ending=0.0)
    config = SearchConfig(simulations=1, rollout_length=0, prior_weight=3.0)
    found = search(toy, [(0,)] * trees, range(trees), config)
    counts = found.root_visits().sum(dim=0).numpy()
    expected = trees * selection_policy(np.zeros(4), np.zeros(4, np.int64), toy.log_prior([(0,)])[0], config)
    assert counts.sum() == trees
    assert ((counts - expected) ** 2 / expected).sum() < 16.3


def test_second_simulation_samples_given_the_first() -> None:
    """Frequencies at a root with one visited child: Q and N of that child enter μ."""
    trees = 20_000
    toy = Toy(num_actions=2, ending=0.0)
    config = SearchConfig(simulations=2, max_depth=1, rollout_length=0, prior_weight=2.0, kappa=0.3)
    visits = search(toy, [(5,)] * trees, range(trees), config).root_visits().numpy()
    log_prior = toy.log_prior([(5,)])[0]

    def policy(q: list[float], n: list[int]) -> NDArray[np.float64]:
        return selection_policy(np.array(q, float), np.array(n), log_prior, config)

    first = policy([0, 0], [0, 0])
    twice = [
        first[0] * policy([noise((5, 0), 3), 0], [1, 0])[0],
        first[1] * policy([0, noise((5, 1), 3)], [0, 1])[1],
    ]
    for action in (0, 1):
        share = (visits[:, action] == 2).mean()
        assert abs(share - twice[action]) < 4 * math.sqrt(0.25 / trees)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 2**32), min_size=1, max_size=6), st.integers(1, 4), st.integers(0, 3))
def test_a_tree_does_not_depend_on_its_company(seeds: list[int], max_depth: int, rollout_length: int) -> None:
    config = SearchConfig(simulations=8, max_depth=max_depth, rollout_length=rollout_length)
    roots = [(root,) for root in range(len(seeds))]
    together = nodes_by_tree(search(Toy(), roots, seeds, config))
    alone = [nodes_by_tree(search(Toy(), [r], [s], config))[0] for r, s in zip(roots, seeds, strict=True)]
    turned = nodes_by_tree(search(Toy(), roots[::-1], seeds[::-1], config))[::-1]
    assert together == alone == turned


def test_seeds_matter() -> None:
    assert nodes_by_tree(search(Toy(), [(0,)], [1])) != nodes_by_tree(search(Toy(), [(0,)], [2]))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.floats(0, 0.9), st.integers(1, 5), st.integers(0, 3), st.integers(1, 30))
def test_tree_invariants(seed: int, ending: float, max_depth: int, rollout_length: int, simulations: int) -> None:
    config = SearchConfig(simulations=simulations, max_depth=max_depth, rollout_length=rollout_length)
    toy = Toy(ending=ending)
    found = search(toy, [(1,), (2,), (3,)], [seed, seed + 1, seed + 2], config)
    forest = found.forest
    assert forest.num_trees == 3
    assert torch.equal(forest.tree, forest.tree.sort().values), "trees are contiguous"
    assert int(forest.depth.max()) <= max_depth
    assert found.leaf_return.shape == forest.leaves.shape
    torch.testing.assert_close(found.leaf_return, found.value[forest.leaves], rtol=0, atol=0)
    assert torch.equal(found.log_prior.isnan().all(dim=1), found.ended)
    for node, (parent, state) in enumerate(zip(forest.parent.tolist(), found.states, strict=True)):
        below = found.visits[forest.parent == node].sum()
        if parent < 0:
            assert (state, found.action[node], found.visits[node], found.reward[node]) == (
                state[:1],
                -1,
                simulations,
                0,
            )
            continue
        assert state == (*found.states[parent], int(found.action[node]))
        assert float(found.reward[node]) == noise(state, 3), "the reward is the expanded turn's"
        assert bool(found.ended[node]) == toy.ends(state)
        assert not found.ended[parent]
        if not found.ended[node] and forest.depth[node] < max_depth:
            assert found.visits[node] == 1 + below
    siblings = list(zip(forest.parent.tolist(), found.action.tolist(), strict=True))
    assert len({siblings[i] for i in forest.edge_child.tolist()}) == len(forest.edge_child)


def test_values_are_mean_returns_and_leaves_have_their_own() -> None:
    """Without rollouts a simulation returns the mean reward of its path: every value can be told by hand."""
    config = SearchConfig(simulations=40, max_depth=3, rollout_length=0)
    found = search(Toy(ending=0.3), [(7,)], [11], config)
    forest = found.forest

    def path_mean(state: State) -> float:
        return float(np.mean([noise(state[: n + 1], 3) for n in range(1, len(state))]))

    total = found.value * found.visits
    for node in range(len(found.states)):
        children = (forest.parent == node).nonzero().squeeze(1)
        own = int(found.visits[node] - found.visits[children].sum())
        expected = sum(total[children].tolist())
        if own and node:
            expected += own * path_mean(found.states[node])
        assert float(total[node]) == pytest.approx(expected)
    for value, leaf in zip(found.leaf_return.tolist(), forest.leaves.tolist(), strict=True):
        assert value == pytest.approx(path_mean(found.states[leaf]))
        assert value > 0


def test_rollouts_count_and_stop_at_the_end() -> None:
    @dataclass
    class Countdown(Toy):
        """One action, every turn earns its depth, over after three turns."""

        num_actions: int = 1

        def ends(self, state: State) -> bool:
            return len(state) > 3

        def step(self, states: Sequence[State], actions: NDArray[np.int64]) -> list[Transition[State]]:
            transitions = super().step(states, actions)
            return [replace(t, reward=float(len(t.state) - 1)) for t in transitions]

    toy = Countdown()
    assert search(toy, [(0,)], [0], SearchConfig(simulations=1, rollout_length=1)).value.tolist() == [
        1.5,
        1.5,
    ]
    assert search(toy, [(0,)], [0], SearchConfig(simulations=1, rollout_length=9)).value.tolist() == [
        2.0,
        2.0,
    ]
    assert max(len(state) for state, _ in toy.stepped) == 3


def test_ended_nodes_are_visited_again_without_a_call() -> None:
    toy = Toy(num_actions=2, ending=1.0)
    found = search(toy, [(0,)], [3], SearchConfig(simulations=50))
    assert len(found.states) == 3
    assert found.visits.tolist()[0] == 50
    assert toy.calls == {"log_prior": 1, "step": 2}


def test_one_call_per_method_and_step() -> None:
    few, many = Toy(ending=0.0), Toy(ending=0.0)
    config = SearchConfig(simulations=5, rollout_length=2)
    search(few, [(0,)], [0], config)
    search(many, [(n,) for n in range(50)], range(50), config)
    assert few.calls == many.calls == {"step": 15, "log_prior": 11}


def test_acting_at_test_time() -> None:
    config = SearchConfig(simulations=30, kappa=0.0, prior_weight=0.0)
    found = search(Toy(), [(n,) for n in range(20)], range(20), config)
    visits, forest = found.root_visits(), found.forest
    assert visits.sum(dim=1).tolist() == [30] * 20
    torch.testing.assert_close(found.root_policy().sum(dim=1), torch.ones(20, dtype=torch.float64))
    for tree, action in enumerate(found.best_actions().tolist()):
        children = [node for node in range(len(found.states)) if forest.depth[node] == 1 and forest.tree[node] == tree]
        best = max(children, key=lambda node: (int(found.visits[node]), float(found.value[node])))
        assert int(found.action[best]) == action


def test_progress_is_told() -> None:
    told: list[int] = []
    search(Toy(), [(0,)], [0], SearchConfig(simulations=3), told.append)
    assert told == [1, 2, 3]


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="no roots"):
        search(Toy(), [], [])
    with pytest.raises(ValueError, match="2 roots and 1 seeds"):
        search(Toy(), [(0,), (1,)], [0])
    with pytest.raises(ValueError, match="simulations is 0"):
        SearchConfig(simulations=0)
    with pytest.raises(ValueError, match="kappa is nan"):
        SearchConfig(kappa=math.nan)

    class Broken(Toy):
        def step(self, states: Sequence[State], actions: NDArray[np.int64]) -> list[Transition[State]]:
            return [replace(t, reward=math.nan) for t in super().step(states, actions)]

    class Unnormalised(Toy):
        def log_prior(self, states: Sequence[State]) -> NDArray[np.float64]:
            return super().log_prior(states) + 1

    with pytest.raises(ValueError, match="reward of nan"):
        search(Broken(), [(0,)], [0])
    with pytest.raises(ValueError, match="do not sum to 1"):
        search(Unnormalised(), [(0,)], [0])
