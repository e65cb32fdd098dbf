"""What each environment pays, by hand; what each constructor refuses."""

import math
from fractions import Fraction
from itertools import product

import pytest
import torch
from specimens import MODES, leaves_early, numbers, worth

from gflowdial.dag import Dag
from gflowdial.envs import (
    AppendBits,
    GraphEnvironment,
    Hypergrid,
    InsertBits,
    MoveSequences,
    PerfectTree,
    SetBuilding,
    StopAnywhere,
    enumerate_states,
    random_modes,
)


@pytest.mark.parametrize("side", range(2, 65))
def test_hypergrid_pays_in_the_corners(side: int) -> None:
    grid = Hypergrid(2, side, r0=0.01, r1=0.4, r2=3.0)
    points = list(product(range(side), repeat=2))
    states = torch.tensor([[*point, 1] for point in points])
    u = [abs(Fraction(x, side - 1) - Fraction(1, 2)) for x in range(side)]
    corner, mode = [v > Fraction(1, 4) for v in u], [Fraction(3, 10) < v < Fraction(4, 10) for v in u]
    expected = [0.01 + 0.4 * (corner[x] and corner[y]) + 3.0 * (mode[x] and mode[y]) for x, y in points]
    torch.testing.assert_close(grid.log_reward(states).exp(), torch.tensor(expected, dtype=torch.float64))
    # Whether it is worth stopping, points that have not stopped say alike.
    states[:, -1] = 0
    torch.testing.assert_close(grid.log_reward(states).exp(), torch.tensor(expected, dtype=torch.float64))


def test_hypergrid_of_side_8_has_a_mode_of_one_point_in_each_corner() -> None:
    graph = enumerate_states(Hypergrid(2, 8))
    best = graph.states[graph.dag.terminals][graph.log_reward == graph.log_reward.max()]
    assert sorted(best[:, :-1].tolist()) == [[1, 1], [1, 6], [6, 1], [6, 6]]


def test_hypergrid_of_side_16_has_four_modes() -> None:
    log_reward = enumerate_states(Hypergrid(2, 16)).log_reward
    assert int((log_reward > 0.9).sum()) == 4
    assert math.isclose(float(log_reward.exp().sum()), 65.6, rel_tol=1e-12)


@pytest.mark.parametrize("kind", [AppendBits, InsertBits])
@pytest.mark.parametrize("word", [1, 2, 3])
def test_bits_pay_by_the_distance_to_the_nearest_mode(kind: type[AppendBits] | type[InsertBits], word: int) -> None:
    environment = kind(MODES, word, beta=0.7)
    sequences = list(product([0, 1], repeat=6))
    states = [[int("".join(map(str, bits[i : i + word])), 2) for i in range(0, 6, word)] for bits in sequences]
    nearest = [
        min(sum(a != b for a, b in zip(bits, mode, strict=True)) for mode in MODES.tolist()) for bits in sequences
    ]
    expected = -0.7 * torch.tensor(nearest, dtype=torch.float64)
    torch.testing.assert_close(environment.log_reward(torch.tensor(states)), expected)
    assert bool(environment.log_reward(environment.initial_states).isnan().all())


def test_random_modes_are_rows_of_the_five_words() -> None:
    modes = random_modes(24, 50, seed=3)
    assert torch.equal(modes, random_modes(24, 50, seed=3))
    assert not torch.equal(modes, random_modes(24, 50, seed=4))
    words = {"".join(map(str, word)) for word in modes.reshape(-1, 8).tolist()}
    assert words == {"00000000", "11111111", "11110000", "00001111", "00111100"}


def test_sets_pay_by_their_energies() -> None:
    sets = SetBuilding(torch.tensor([1.0, 2.0, 4.0]), 2)
    states = torch.tensor([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 1]])
    assert sets.log_reward(states).tolist() == [0, -1, -3, -6]


def test_a_perfect_tree_pays_from_left_to_right() -> None:
    tree = PerfectTree(2, torch.tensor([1.0, 2.0, 3.0, 4.0]))
    states = tree.initial_states.expand(4, 1)
    for turn in ([0, 0, 1, 1], [0, 1, 0, 1]):
        states = tree.step(states, torch.tensor(turn))
    assert tree.log_reward(states).tolist() == [1, 2, 3, 4]
    assert bool(tree.log_reward(tree.initial_states).isnan().all())


def test_a_tree_of_one_leaf_ends_where_it_starts() -> None:
    graph = enumerate_states(PerfectTree(2, torch.tensor([0.5])))
    assert graph.dag.num_nodes == 1
    assert graph.log_reward.tolist() == [0.5]


def test_a_graph_pays_at_its_terminals_in_their_order() -> None:
    graph = GraphEnvironment(Dag.from_adjacency([[1, 3], [2], [], []]), torch.tensor([5.0, 7.0]))
    assert graph.log_reward(torch.tensor([[3], [2]])).tolist() == [7, 5]
    assert bool(graph.log_reward(torch.tensor([[0], [1]])).isnan().all())


def test_a_dialogue_ends_when_the_state_says_so() -> None:
    dialogue = MoveSequences(2, 3, 4, worth, ended=leaves_early)
    states = torch.tensor([[0, 1, -1, -1, -1], [1, 1, 2, -1, -1], [0, 1, 1, 0, 1], [1, -1, -1, -1, -1]])
    assert dialogue.forward_mask(states).any(1).tolist() == [True, False, False, True]
    assert dialogue.backward_mask(states).tolist() == [
        [False, True, False],
        [False, False, True],
        [False, True, False],
        [False, False, False],
    ]
    assert torch.equal(dialogue.log_reward(states), worth(states))


def test_a_stop_pays_what_the_state_is_worth() -> None:
    sets = SetBuilding(numbers(4), 3)
    stoppable = StopAnywhere(sets)
    inner = torch.tensor([[0, 1, 1, 0], [0, 0, 0, 0]])
    stopped = stoppable.step(torch.nn.functional.pad(inner, (0, 1)), torch.tensor([4, 4]))
    assert stopped.tolist() == [[0, 1, 1, 0, 1], [0, 0, 0, 0, 1]]
    torch.testing.assert_close(stoppable.log_reward(stopped), sets.log_reward(inner))
    twice = StopAnywhere(sets, lambda states: 2 * sets.log_reward(states))
    torch.testing.assert_close(twice.log_reward(stopped), 2 * sets.log_reward(inner))
    assert stoppable.stop_action == 4
    assert Hypergrid(3, 4).stop_action == 3


def test_rewards_spread_over_the_sets_have_the_known_partition_function() -> None:
    # e_k, the elementary symmetric polynomial of exp(-energy).
    weights = (-numbers(5)).exp()
    polynomial = [1.0, 0.0, 0.0, 0.0]
    for weight in weights.tolist():
        polynomial = [1.0] + [polynomial[k] + weight * polynomial[k - 1] for k in (1, 2, 3)]
    graph = enumerate_states(SetBuilding(numbers(5), 3))
    assert math.isclose(float(graph.log_reward.logsumexp(0)), math.log(polynomial[3]), rel_tol=1e-12)


def test_rewards_without_a_number_are_named() -> None:
    for bad in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match=r"log_reward\[1\] is"):
            PerfectTree(2, torch.tensor([0.0, bad]))
        with pytest.raises(ValueError, match=r"log_reward\[0\] is"):
            GraphEnvironment(Dag.from_adjacency([[1], []]), torch.tensor([bad]))
        with pytest.raises(ValueError, match=r"energies\[1\] is"):
            SetBuilding(torch.tensor([0.0, bad]), 1)
        with pytest.raises(ValueError, match="beta must be finite"):
            AppendBits(MODES, beta=bad)
        with pytest.raises(ValueError, match="must be positive and finite"):
            Hypergrid(2, 4, r2=bad)
    with pytest.raises(ValueError, match="must be positive and finite"):
        Hypergrid(2, 4, r1=-0.2)


def test_what_cannot_be_built_is_refused() -> None:
    with pytest.raises(ValueError, match="needs dimensions ≥ 1, side ≥ 2 and r0 > 0; got 2, 1"):
        Hypergrid(2, 1)
    with pytest.raises(ValueError, match="modes must be a table of bits"):
        AppendBits(torch.tensor([[0, 2]]))
    with pytest.raises(ValueError, match="word must divide the length of a sequence, 6; got 4"):
        InsertBits(MODES, 4)
    with pytest.raises(ValueError, match="length must be a multiple of 8; got 12"):
        random_modes(12, 1)
    with pytest.raises(ValueError, match="size must lie between 1 and the number of elements, 3; got 4"):
        SetBuilding(torch.zeros(3), 4)
    with pytest.raises(ValueError, match="branching must be 2 or more"):
        PerfectTree(1, torch.zeros(1))
    with pytest.raises(ValueError, match=r"log_reward must have 3\^depth entries, one a leaf; got 8"):
        PerfectTree(3, torch.zeros(8))
    with pytest.raises(ValueError, match=r"log_reward must have one entry per terminal, shape \[1\]; got \[2\]"):
        GraphEnvironment(Dag.from_adjacency([[1], []]), torch.zeros(2))
    with pytest.raises(ValueError, match="node 2 lies below the roots 0 and 1"):
        GraphEnvironment(Dag.from_adjacency([[2], [2], []]), torch.zeros(1))
    with pytest.raises(ValueError, match="needs a scene, a move and a turn at least"):
        MoveSequences(0, 3, 4, worth)
