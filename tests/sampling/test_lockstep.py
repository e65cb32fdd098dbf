"""Sampled trajectories follow the environment's rules, and the policy's probabilities."""

from collections import Counter

import pytest
import torch
from all_paths import ENVIRONMENTS, Path, all_paths, deviation_bound, summed
from torch import Tensor

from gflowdial import Forest, oracle
from gflowdial.envs import Environment, Hypergrid, enumerate_states
from gflowdial.estimators import TabularFlow
from gflowdial.sampling import Policy, Trajectories, sample_backward, sample_forward
from gflowdial.sampling.lockstep import FEW

each_environment = pytest.mark.parametrize("name", ENVIRONMENTS)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_estimator(environment: Environment, seed: int = 0) -> TabularFlow:
    """Any policies, far from even."""
    graph = enumerate_states(environment)
    estimator = TabularFlow(
        environment, graph.index, len(graph.states), backward="learned", num_conditions=graph.num_conditions
    ).double()
    with torch.no_grad():
        for parameter in estimator.parameters():
            parameter.normal_(generator=generator(seed))
    return estimator


def conditions(environment: Environment, trees: int) -> Tensor:
    return torch.arange(trees) % len(environment.initial_states)


def paths(trajectories: Trajectories) -> list[Path]:
    found: list[list[tuple[int, ...]]] = [[] for _ in range(trajectories.forest.num_trees)]
    for tree, state in zip(trajectories.forest.tree.tolist(), trajectories.states.tolist(), strict=True):
        found[tree].append(tuple(state))
    return [tuple(path) for path in found]


def check_trajectories(environment: Environment, trajectories: Trajectories) -> None:
    forest, states, actions = trajectories.forest, trajectories.states, trajectories.actions
    lengths = forest.offsets.diff() - 1
    chains = Forest.from_lengths(lengths)
    for known in (
        "parent",
        "roots",
        "leaves",
        "leaf_tree",
        "edge_tree",
        "edge_parent",
        "edge_child",
    ):
        torch.testing.assert_close(getattr(forest, known), getattr(chains, known))
    assert forest.layout == chains.layout == Forest(chains.parent).layout
    torch.testing.assert_close(states[forest.roots], environment.initial_states[trajectories.condition])
    before, after = states[forest.edge_parent], states[forest.edge_child]
    assert environment.forward_mask(before).gather(1, actions[:, None]).all()
    assert environment.backward_mask(after).gather(1, actions[:, None]).all()
    torch.testing.assert_close(environment.step(before, actions), after)
    torch.testing.assert_close(environment.step_back(after, actions), before)
    assert not environment.forward_mask(states[forest.leaves]).any()
    torch.testing.assert_close(trajectories.log_reward, environment.log_reward(states[forest.leaves]))


@each_environment
@pytest.mark.parametrize("trees", [1, 60])
def test_forward_trajectories_are_whole(name: str, trees: int) -> None:
    environment = ENVIRONMENTS[name]
    condition = conditions(environment, trees)
    sampled = sample_forward(
        environment, random_estimator(environment).forward_policy, condition, generator=generator()
    )
    check_trajectories(environment, sampled)
    torch.testing.assert_close(sampled.condition, condition)
    if trees > 1 and name not in ("tree", "bits"):
        assert len(sampled.forest.offsets.diff().unique()) > 1, "no ragged batch was tried"


@each_environment
def test_backward_trajectories_end_where_they_were_told(name: str) -> None:
    environment = ENVIRONMENTS[name]
    graph = enumerate_states(environment)
    order = torch.randperm(len(graph.dag.terminals), generator=generator()).repeat(3)
    ends = graph.states[graph.dag.terminals][order]
    estimator = random_estimator(environment)
    sampled = sample_backward(environment, estimator.backward_policy, ends, generator=generator())
    check_trajectories(environment, sampled)
    torch.testing.assert_close(sampled.terminals.states, ends)
    torch.testing.assert_close(sampled.condition, graph.dag.root_of[graph.dag.terminals][order])
    known = torch.arange(len(ends)).double()
    kept = sample_backward(environment, estimator.backward_policy, ends, generator=generator(), log_reward=known)
    torch.testing.assert_close(kept.log_reward, known)


@each_environment
def test_a_seed_says_it_all(name: str) -> None:
    environment = ENVIRONMENTS[name]
    policy = random_estimator(environment).forward_policy
    condition = conditions(environment, 40)
    first, same, other = (
        paths(sample_forward(environment, policy, condition, generator=generator(seed))) for seed in (1, 1, 2)
    )
    assert first == same
    assert first != other


@each_environment
@pytest.mark.parametrize(("epsilon", "temperature"), [(0.0, 1.0), (0.3, 1.0), (0.0, 2.0), (0.2, 0.5), (1.0, 1.0)])
def test_paths_come_as_often_as_the_policy_says(name: str, epsilon: float, temperature: float) -> None:
    environment = ENVIRONMENTS[name]
    policy = random_estimator(environment).forward_policy

    def explored(states: Tensor) -> Tensor:
        valid = environment.forward_mask(states).double()
        flattened = (policy(states) / temperature).softmax(1)
        return ((1 - epsilon) * flattened + epsilon * valid / valid.sum(1, keepdim=True)).log()

    trees = 4000
    for condition, start in enumerate(environment.initial_states):
        with torch.no_grad():
            expected = summed(all_paths(environment, explored, start))
        sampled = sample_forward(
            environment,
            policy,
            torch.full((trees,), condition),
            generator=generator(condition),
            epsilon=epsilon,
            temperature=temperature,
        )
        assert_frequencies(paths(sampled), expected)


def test_of_many_states_equal_ones_are_asked_about_once() -> None:
    environment = ENVIRONMENTS["hypergrid"]
    policy = random_estimator(environment).forward_policy
    asked: list[Tensor] = []

    def watched(states: Tensor) -> Tensor:
        asked.append(states)
        return policy(states)

    sample_forward(environment, watched, torch.zeros(FEW - 1, dtype=torch.int64), generator=generator())
    assert [len(states) for states in asked[:1]] == [FEW - 1]
    asked.clear()
    sample_forward(environment, watched, torch.zeros(30 * FEW, dtype=torch.int64), generator=generator())
    assert len(asked[0]) == 1
    assert all(len(states.unique(dim=0)) == len(states) for states in asked if len(states) >= FEW)


def assert_frequencies(found: list[Path], expected: dict[Path, float]) -> None:
    """Fails a right sampler with probability 1e-6."""
    counts = Counter(found)
    assert counts.keys() <= expected.keys()
    total_variation = sum(abs(counts[path] / len(found) - p) for path, p in expected.items()) / 2
    assert total_variation < deviation_bound(len(expected), len(found))


@each_environment
def test_under_a_balanced_flow_backward_paths_are_forward_paths(name: str) -> None:
    """Ends drawn from R and paths drawn by P_B have the distribution of P_F: R(x)·P_B(τ|x) = Z·P_F(τ)."""
    environment = ENVIRONMENTS[name]
    graph = enumerate_states(environment)
    estimator = random_estimator(environment)
    with torch.no_grad():
        log_pb = estimator(graph.states).log_pb[graph.dag.target, graph.action]
    _, log_pf = oracle.dag_flows(graph.dag, log_pb, graph.log_reward)

    def balanced(states: Tensor) -> Tensor:
        table = torch.full((len(graph.states), environment.num_actions), -torch.inf, dtype=torch.float64)
        table[graph.dag.source, graph.action] = log_pf
        return table[graph.index(states)]

    trees = 4000
    here = graph.dag.root_of[graph.dag.terminals] == 0
    share = graph.log_reward[here].softmax(0)
    ends = graph.states[graph.dag.terminals[here]][torch.multinomial(share, trees, True, generator=generator())]
    sampled = sample_backward(environment, estimator.backward_policy, ends, generator=generator(1))
    assert_frequencies(paths(sampled), summed(all_paths(environment, balanced, environment.initial_states[0])))


def everything(states: Tensor) -> Tensor:
    return torch.zeros(len(states), 3)


def past_the_end(states: Tensor) -> Tensor:
    return torch.where(states[:, :1] == 2, torch.tensor([0.0, -torch.inf, -torch.inf]), 0.0).log_softmax(1)


def nothing(states: Tensor) -> Tensor:
    return torch.full((len(states), 3), -torch.inf)


def certain_beyond_measure(states: Tensor) -> Tensor:
    right, stop = torch.tensor([torch.inf, -torch.inf, -torch.inf]), torch.tensor([-torch.inf, -torch.inf, 0.0])
    return torch.where(states[:, :1] < 2, right, stop)


def no_number(states: Tensor) -> Tensor:
    return torch.full((len(states), 3), torch.nan)


@pytest.mark.parametrize("policy", [certain_beyond_measure, everything, past_the_end, nothing, no_number])
def test_a_policy_that_lies_is_found_out(policy: Policy) -> None:
    environment = ENVIRONMENTS["hypergrid"]
    with pytest.raises(ValueError, match="gives no distribution over the valid actions of state"):
        sample_forward(environment, policy, torch.zeros(50, dtype=torch.int64), generator=generator())


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"epsilon": 1.5}, "epsilon must lie in"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"condition": torch.zeros(0, dtype=torch.int64)}, "condition is empty"),
    ],
)
def test_options_out_of_range_are_refused(option: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {"condition": torch.zeros(2, dtype=torch.int64), "generator": generator()} | option
    with pytest.raises(ValueError, match=message):
        sample_forward(ENVIRONMENTS["hypergrid"], everything, **arguments)  # type: ignore[arg-type]


def test_only_terminal_states_are_led_back() -> None:
    environment = ENVIRONMENTS["hypergrid"]
    with pytest.raises(ValueError, match=r"states\[1\] is not terminal: \[1, 0, 0\]"):
        sample_backward(environment, everything, torch.tensor([[1, 0, 1], [1, 0, 0]]), generator=generator())


def test_a_way_back_to_no_initial_state_is_found_out() -> None:
    environment = Hypergrid(2, 3)
    policy = random_estimator(environment).backward_policy
    environment.initial_states = torch.tensor([[5, 5, 0]])
    with pytest.raises(ValueError, match=r"no action leads back from \[0, 0, 0\], yet it is no initial state"):
        sample_backward(environment, policy, torch.tensor([[1, 0, 1]]), generator=generator())


@pytest.mark.parametrize("wrong", [-1, 1])
def test_conditions_that_are_none_are_named(wrong: int) -> None:
    environment = Hypergrid(2, 3)
    policy = random_estimator(environment).forward_policy
    with pytest.raises(ValueError, match=rf"condition\[1\] is {wrong}, out of range: initial states are 0 to 0"):
        sample_forward(environment, policy, torch.tensor([0, wrong]), generator=generator())


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_rewards_without_a_number_are_named(bad: float) -> None:
    environment = Hypergrid(1, 3)
    estimator = random_estimator(environment)
    environment.log_reward = lambda states: torch.where(states[:, 0] == 1, bad, 0.0)  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"log R must be finite; that of the state \[1, 1\] is"):
        sample_forward(environment, estimator.forward_policy, conditions(environment, 200), generator=generator())
    ends = torch.tensor([[0, 1], [1, 1]])
    with pytest.raises(ValueError, match=r"log R must be finite; that of the state \[1, 1\] is"):
        sample_backward(environment, estimator.backward_policy, ends, generator=generator())
    # Where shapes are checked at run time, as here, that check comes first.
    with pytest.raises((ValueError, TypeError), match="log_reward"):
        sample_backward(environment, estimator.backward_policy, ends, generator=generator(), log_reward=torch.zeros(1))
