"""Every history of small worlds, and search environments as environments and back."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from test_mcts import State, Toy, noise
from worlds import Chancy, Masked

from gflowdial import oracle
from gflowdial.envs import Environment, Hypergrid, MoveSequences, PerfectTree, enumerate_states
from gflowdial.estimators import TabularFlow
from gflowdial.search import HistoryEnvironment, SearchConfig, SearchTree, SearchView, enumerate_tree, search
from gflowdial.testing import check_environment
from gflowdial.training import train

ROOTS = [(1,), (2,)]


@dataclass
class Short(Masked):
    """Over after three turns at the latest."""

    def ends(self, state: State) -> bool:
        return len(state) > 3 or super().ends(state)


@dataclass
class ShortChancy(Chancy):
    """Over after two turns at the latest."""

    def ends(self, state: State) -> bool:
        return len(state) > 2 or super().ends(state)


def histories(world: Short | ShortChancy, state: State, rewards: tuple[float, ...] = ()) -> list[tuple[State, float]]:
    """All states below ``state`` with the returns of ended ones, depth first, without a tree."""
    if world.ends(state):
        return [(state, world.trajectory_return(rewards, state))]
    found = [(state, math.nan)]
    for action in np.flatnonzero(world.allowed(state)):
        taken = np.array([action])
        answers = world.outcomes([state], taken)[0] if isinstance(world, Chancy) else world.step([state], taken)
        for answer in answers:
            found += histories(world, answer.state, (*rewards, answer.reward))
    return found


worlds = st.builds(
    lambda kind, actions, ending, masking: kind(actions, ending, masking=masking),
    st.sampled_from([Short, ShortChancy]),
    st.integers(1, 3),
    st.sampled_from([0.0, 0.3]),
    st.sampled_from([0.0, 0.5]),
)


@settings(max_examples=40)
@given(worlds)
def test_every_history_is_there(world: Short | ShortChancy) -> None:
    found = enumerate_tree(world, ROOTS)
    assert found.states[0] == ROOTS[0]
    assert torch.equal(found.forest.tree, found.forest.tree.sort().values)
    for root, tree in zip(ROOTS, found.split(), strict=True):
        assert (tree.forest.depth.diff() >= 0).all(), "breadth first"
        acts = [node for node in range(len(tree.states)) if not tree.chance[node]]
        expected = histories(world, root)
        assert sorted(tree.states[node] for node in acts) == sorted(state for state, _ in expected)
        returns = {state: value for state, value in expected if not math.isnan(value)}
        assert [tree.states[leaf] for leaf in tree.forest.leaves.tolist()] == [s for s in tree.states if s in returns]
        for node, (state, parent) in enumerate(zip(tree.states, tree.forest.parent.tolist(), strict=True)):
            below = [value for end, value in returns.items() if end[: len(state)] == state]
            if tree.chance[node]:
                action = int(tree.action[node])
                below = [
                    value
                    for end, value in returns.items()
                    if end[: len(state)] == state and end[len(state)] % 10 == action
                ]
            assert int(tree.visits[node]) == len(below)
            assert float(tree.value[node]) == pytest.approx(np.mean(below))
            assert bool(tree.ended[node]) == (state in returns)
            asked = not tree.ended[node] and not tree.chance[node]
            assert bool(tree.log_prior[node].isnan().all()) != asked
            if asked:
                np.testing.assert_array_equal(tree.log_prior[node], world.log_prior([state])[0])
            if parent >= 0 and not tree.chance[node]:
                assert float(tree.reward[node]) == noise(state, 3)


def test_one_call_per_method_and_level() -> None:
    world = Short(3, 0.0)
    enumerate_tree(world, ROOTS)
    assert world.calls == {"log_prior": 3, "step": 3}
    world = ShortChancy(3, 0.0)
    enumerate_tree(world, ROOTS)
    assert world.calls == {"log_prior": 2, "outcomes": 2}


def test_too_many_histories_are_refused_before_they_are_played() -> None:
    world = Toy(4, 0.0)
    with pytest.raises(ValueError, match=r"170 nodes or more, above max_nodes = 100"):
        enumerate_tree(world, [(0,), (1,)], max_nodes=100)
    assert world.calls["step"] == 2
    assert len(enumerate_tree(Short(4, 0.0, masking=0.0), ROOTS, max_nodes=170).states) == 170
    with pytest.raises(ValueError, match="no roots"):
        enumerate_tree(world, [])
    with pytest.raises(ValueError, match="max_nodes = 20"):
        enumerate_tree(ShortChancy(2, 0.0), ROOTS, max_nodes=20)


@pytest.mark.parametrize("salt", range(3))
def test_the_expected_flow_policy_is_a_fixed_point(salt: int) -> None:
    """The flow policy acts by the expected flow behind each action; flows recomputed from it are the flows."""
    tree = enumerate_tree(ShortChancy(3, 0.2, masking=0.3), [(salt,)])
    forest, edge = tree.forest, tree.forest.edge_child
    log_reward = tree.leaf_return / 0.3
    log_chance = tree.log_chance[edge]
    log_flow, log_pf = oracle.expected_flows(forest, log_reward, chance=tree.chance, log_chance=log_chance)
    policy, flow = log_pf.exp(), torch.zeros(forest.num_nodes, dtype=torch.float64)
    flow[forest.leaves] = log_reward.exp()
    for child in reversed(edge.tolist()):
        parent = int(forest.parent[child])
        flow[parent] += (tree.log_chance[child].exp() if tree.chance[parent] else 1.0) * flow[child]
    torch.testing.assert_close(flow.log(), log_flow)
    torch.testing.assert_close(
        policy, torch.where(tree.chance[forest.edge_parent], log_chance.exp(), flow[edge] / flow[forest.edge_parent])
    )
    total = torch.zeros(forest.num_nodes, dtype=torch.float64).index_add(0, forest.edge_parent, policy)
    inner = forest.num_children > 0
    torch.testing.assert_close(total[inner], torch.ones_like(total[inner]))


def exact_policy(tree: SearchTree[State], temperature: float) -> dict[tuple[State, State], float]:
    _, log_pf = oracle.exact_flows(tree.forest, tree.leaf_return / temperature)
    ends = zip(tree.forest.edge_parent.tolist(), tree.forest.edge_child.tolist(), strict=True)
    return {(tree.states[a], tree.states[b]): p for (a, b), p in zip(ends, log_pf.tolist(), strict=True)}


@settings(max_examples=20)
@given(st.sampled_from([0.0, 0.3]), st.sampled_from([0.0, 0.5]), st.sampled_from([0.2, 1.0]))
def test_exact_flows_are_the_same_both_ways(ending: float, masking: float, temperature: float) -> None:
    world = Short(3, ending, masking=masking)
    environment = HistoryEnvironment(world, ROOTS, 3, temperature)
    graph = enumerate_states(environment)
    _, log_pf = oracle.dag_flows(graph.dag, oracle.uniform_backward(graph.dag), graph.log_reward)
    states = [(*ROOTS[row[0]], *(action for action in row[1:] if action >= 0)) for row in graph.states.tolist()]
    found = {
        (states[a], states[b]): p
        for a, b, p in zip(graph.dag.source.tolist(), graph.dag.target.tolist(), log_pf.tolist(), strict=True)
    }
    assert found == pytest.approx(exact_policy(enumerate_tree(world, ROOTS), temperature), rel=1e-9, abs=1e-9)
    # And back: the environment searched is the world again.
    view = SearchView(environment)
    again = enumerate_tree(view, view.roots)
    values = again.leaf_return * temperature
    assert again.forest.num_nodes == graph.dag.num_nodes
    torch.testing.assert_close(values, enumerate_tree(world, ROOTS).leaf_return)


@pytest.mark.parametrize(
    "environment",
    [
        PerfectTree(3, torch.linspace(-1, 1, 27)),
        MoveSequences(2, 3, 3, lambda states: states.sum(1).double() / 3, ended=lambda states: states[:, 1] == 1),
    ],
)
def test_a_tree_environment_has_the_same_flows_in_search(environment: Environment) -> None:
    graph = enumerate_states(environment)
    log_flow, _ = oracle.dag_flows(graph.dag, oracle.uniform_backward(graph.dag), graph.log_reward)
    view = SearchView(environment)
    tree = enumerate_tree(view, view.roots)
    flows, _ = oracle.exact_flows(tree.forest, tree.leaf_return)
    torch.testing.assert_close(flows, log_flow[graph.index(torch.tensor(tree.states))])


def test_search_in_an_environment() -> None:
    """The prior covers valid actions alone, and a policy may be given as one."""
    grid = Hypergrid(2, 4)
    view = SearchView(grid)
    found = search(view, view.roots, [0], SearchConfig(simulations=200, rollout_length=7))
    graph = enumerate_states(grid)
    for node, state in enumerate(found.states):
        if not found.ended[node]:
            mask = grid.forward_mask(torch.tensor([state]))[0]
            expected = torch.where(mask, 1 / mask.sum(), 0.0)
            np.testing.assert_allclose(found.log_prior[node].exp(), expected)
    best = float(graph.log_reward.max())
    assert found.value.max() <= best + 1e-12
    ends = [leaf for leaf in found.forest.leaves.tolist() if found.ended[leaf]]
    rewards = grid.log_reward(torch.tensor([found.states[leaf] for leaf in ends])).double()
    torch.testing.assert_close(found.value[ends], rewards)
    torch.manual_seed(0)
    policy = TabularFlow(grid, graph.index, len(graph.states))
    torch.nn.init.normal_(policy.forward_scores)
    learned = search(SearchView(grid, policy.forward_policy), view.roots, [0], SearchConfig(rollout_length=7))
    np.testing.assert_allclose(learned.log_prior[0], policy.forward_policy(grid.initial_states)[0].detach(), rtol=1e-5)
    with pytest.raises(ValueError, match="not terminal and has no reward: raise rollout_length"):
        search(view, view.roots, [0], SearchConfig(rollout_length=0))


def test_a_history_environment_keeps_the_laws() -> None:
    check_environment(HistoryEnvironment(Short(3, 0.3, masking=0.4), ROOTS, 3, 0.5))
    check_environment(HistoryEnvironment(Toy(2, 0.2), ROOTS, 4))


def test_each_step_is_asked_once() -> None:
    world = Short(3, 0.2)
    environment = HistoryEnvironment(world, ROOTS, 3)
    enumerate_states(environment)
    graph = enumerate_states(environment)
    assert len(world.stepped) == len(set(world.stepped)) == graph.dag.num_edges
    deep = HistoryEnvironment(Short(3, 0.0), ROOTS, 3)
    end = torch.tensor([[0, 1, 2, 0]])
    torch.testing.assert_close(
        deep.log_reward(end), torch.tensor([np.mean([noise((1, 1, 2, 0)[:n], 3) for n in (2, 3, 4)])])
    )


def test_tabular_trajectory_balance_learns_the_world() -> None:
    world = Short(3, 0.2, masking=0.3)
    environment = HistoryEnvironment(world, ROOTS, 3, 0.2)
    graph = enumerate_states(environment)
    torch.manual_seed(0)
    learner = TabularFlow(environment, graph.index, len(graph.states), num_conditions=2)
    train_trajectory_balance(environment, learner)
    log_pf = learner.forward_policy(graph.states)[graph.dag.source, graph.action].detach().double()
    learned = oracle.dag_terminating_distribution(graph.dag, log_pf)
    _, exact_pf = oracle.dag_flows(graph.dag, oracle.uniform_backward(graph.dag), graph.log_reward)
    exact = oracle.dag_terminating_distribution(graph.dag, exact_pf)
    # Two conditions: twice half the sum of differences.
    assert float((learned.exp() - exact.exp()).abs().sum()) / 4 < 0.02


def train_trajectory_balance(environment: Environment, learner: TabularFlow) -> None:
    optimiser = torch.optim.Adam(learner.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(0)
    options = {"steps": 300, "batch_size": 32, "generator": generator, "epsilon": 0.1}
    for _ in train(environment, learner, "trajectory_balance", optimiser, **options):
        pass


def test_what_a_history_cannot_tell_is_refused() -> None:
    with pytest.raises(ValueError, match="ShortChancy is stochastic"):
        HistoryEnvironment(ShortChancy(2), ROOTS, 3)
    with pytest.raises(ValueError, match="temperature is 0"):
        HistoryEnvironment(Short(2), ROOTS, 3, 0.0)

    class Unbounded(Short):
        def trajectory_return(self, rewards: Sequence[float], state: State) -> float:  # noqa: ARG002
            return math.inf

    environment = HistoryEnvironment(Unbounded(2), ROOTS, 3)
    with pytest.raises(ValueError, match="return of inf"):
        enumerate_states(environment)


def test_the_prior_of_a_world_does_not_enter_the_masks() -> None:
    class Tiny(Short):
        def log_prior(self, states: Sequence[State]) -> NDArray[np.float64]:
            return np.tile([[-1e4, 0.0, -np.inf]], (len(states), 1))

    environment = HistoryEnvironment(Tiny(3, 0.0), ROOTS, 2)
    assert environment.forward_mask(environment.initial_states).tolist() == [[True, True, False]] * 2
