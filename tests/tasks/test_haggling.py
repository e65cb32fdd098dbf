"""Haggling: the rules of its world, and its conversations as an environment in which every loss trains."""

import re
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from examples.haggling import MOVES, PHRASES, TASK, Sale, World, after, profit, scenes, simulated
from gflowdial import oracle
from gflowdial.dialogue.environment import DialogueEnvironment, DialogueState
from gflowdial.dialogue.outcomes import enumerated_outcome, exact_log_pf
from gflowdial.dialogue.policies import UniformPolicy
from gflowdial.dialogue.values import Dialogue
from gflowdial.envs import enumerate_states
from gflowdial.estimators import TabularFlow
from gflowdial.search import HistoryEnvironment, SearchTree, enumerate_tree
from gflowdial.testing import check_environment
from gflowdial.training import train

WORLD = DialogueEnvironment.of(TASK, simulated(MOVES), MOVES)
SALES = scenes()
sales = st.sampled_from(SALES)


def tree_of(sale: Sale, turns: int = 4) -> SearchTree[DialogueState]:
    world = DialogueEnvironment.of(TASK, simulated(MOVES), MOVES, turns)
    return enumerate_tree(world, [DialogueState.begin(sale)])


@pytest.fixture(scope="module", params=SALES[:40:11], ids=lambda sale: sale.id)
def tree(request: pytest.FixtureRequest) -> SearchTree[DialogueState]:
    """Every talk about one thing."""
    return tree_of(request.param)


def test_scenes_are_all_different() -> None:
    assert len({sale.id for sale in SALES}) == len(SALES) == 54
    assert all(sale.cost < sale.reserve for sale in SALES)


def test_an_offer_never_exceeds_the_reserve_price_nor_the_seller_s(tree: SearchTree[DialogueState]) -> None:
    for state in tree.states:
        sale = state.dialogue.scene
        assert isinstance(sale, Sale)
        for talk in World(PHRASES).talks(state.dialogue):
            assert 0 <= talk.offer <= min(sale.reserve, talk.price)
            assert 0 <= talk.mood <= 3
            if talk.status == "deal":
                assert talk.price <= sale.reserve


@given(sales, st.lists(st.sampled_from(MOVES.names), max_size=6))
def test_the_reserve_price_is_never_shown(sale: Sale, moves: list[str]) -> None:
    """No number that the buyer says is the reserve price, unless the seller asks for no more than that."""
    state = DialogueState.begin(sale)
    for move in moves:
        if WORLD.ended(state) or not TASK.allowed(state.dialogue, MOVES)[MOVES.index(move)]:
            break
        (made,) = WORLD.step([state], np.array([MOVES.index(move)]))
        state = made.state
        talk = World(PHRASES).talks(state.dialogue)[-1]
        said = [int(number) for number in re.findall(r"\d+", state.dialogue.turns[-1].text)]
        assert set(said) <= {talk.offer}
        assert str(sale.mood) not in state.dialogue.turns[-1].text or talk.offer
    assert str(sale.reserve) not in sale.opening


def test_accept_never_comes_before_ask(tree: SearchTree[DialogueState]) -> None:
    taken = 0
    for state in tree.states:
        moves = state.dialogue.moves
        if "Accept" in moves:
            assert "Ask" in moves[: moves.index("Accept")]
            taken += 1
    assert taken
    accept = MOVES.index("Accept")
    for node, state in enumerate(tree.states):
        if not tree.ended[node]:
            assert (tree.log_prior[node, accept] == -torch.inf) == ("Ask" not in state.dialogue.moves)


def test_the_words_alone_replay_the_world(tree: SearchTree[DialogueState]) -> None:
    world = World(PHRASES)
    assert len(set(PHRASES.values())) == len(PHRASES)
    for above, state in zip(tree.forest.parent.tolist(), tree.states, strict=True):
        bare = state.dialogue.without_moves()
        assert world.moves_of(bare) == state.dialogue.moves
        assert world.talks(bare) == world.talks(state.dialogue)
        if above >= 0:
            heard = Dialogue(bare.scene, bare.turns[:-1])
            (reply,) = world.respond([heard])
            assert (reply.text, reply.status, reply.probability) == (bare.turns[-1].text, state.status, 1.0)
    with pytest.raises(ValueError, match="'Take it!' is none of the agent's phrases"):
        world.moves_of(Dialogue.from_messages([{"role": "assistant", "content": "Take it!"}], SALES[0]))


def test_the_return_is_the_profit_of_the_deal(tree: SearchTree[DialogueState]) -> None:
    leaves = [tree.states[leaf] for leaf in tree.forest.leaves.tolist()]
    for state, value in zip(leaves, tree.leaf_return.tolist(), strict=True):
        moves, talk = state.dialogue.moves, World(PHRASES).talks(state.dialogue)[-1]
        assert value == profit(state.dialogue.scene, talk, moves)
        assert 0 <= value <= 1
        if state.status != "deal":
            assert value == 0
    assert {state.status for state in leaves} >= {"deal", "no deal"}


def test_moves_do_what_their_names_say() -> None:
    (sale,) = [each for each in SALES if each.id == "bike-85-2"]
    start = World(PHRASES).talks(Dialogue.begin(sale))[0]
    assert (start.price, start.offer, start.mood) == (100, 0, 2)
    asked = after(sale, start, "Ask", [])
    assert 0 < asked.offer < sale.reserve
    assert after(sale, asked, "Lower", ["Ask"]).price < 100
    deal = after(sale, asked, "Accept", ["Ask"])
    assert (deal.price, deal.status) == (asked.offer, "deal")
    assert after(sale, start, "Praise", []).mood == 3
    assert after(sale, start._replace(mood=0), "Hold firm", []).status == "no deal"


def test_the_exact_flow_is_ahead_of_uniform() -> None:
    exact, uniform = [], []
    for sale in SALES[::9]:
        tree = tree_of(sale)
        forest = tree.forest
        log_pf = exact_log_pf(tree, 0.1)
        total = torch.zeros(forest.num_nodes, dtype=torch.float64).index_add(0, forest.edge_parent, log_pf.exp())
        torch.testing.assert_close(total[forest.num_children > 0], torch.ones_like(total[forest.num_children > 0]))
        exact.append(enumerated_outcome(WORLD, tree, None, 0.1)["expected_return"])
        uniform.append(enumerated_outcome(WORLD, tree, UniformPolicy(6), 0.1)["expected_return"])
    assert (np.array(exact) > np.array(uniform)).all()
    assert np.mean(exact) > 1.5 * np.mean(uniform)


# The talk as an environment of the plain loop.
ROOTS = [DialogueState.begin(sale) for sale in (SALES[4], SALES[22])]
TURNS, TAU = 2, 0.2


@pytest.fixture(scope="module")
def histories() -> HistoryEnvironment[DialogueState]:
    world = DialogueEnvironment.of(TASK, simulated(MOVES), MOVES, TURNS)
    return HistoryEnvironment(world, ROOTS, TURNS, TAU)


def exact_leaves(environment: HistoryEnvironment[DialogueState]) -> tuple[torch.Tensor, torch.Tensor]:
    """log probability of every talk by the exact flow, from the environment and from the enumerated tree."""
    graph = enumerate_states(environment)
    _, log_pf = oracle.dag_flows(graph.dag, oracle.uniform_backward(graph.dag), graph.log_reward)
    return oracle.dag_terminating_distribution(graph.dag, log_pf), graph.states[graph.dag.terminals]


def test_talks_are_an_environment_with_the_flow_of_the_enumeration(
    histories: HistoryEnvironment[DialogueState],
) -> None:
    check_environment(histories)
    world = histories.environment
    tree = enumerate_tree(world, ROOTS)
    expected = Counter()
    ends = tree.forest.leaf_sum(exact_log_pf(tree, TAU)).tolist()
    for leaf, log_p in zip(tree.forest.leaves.tolist(), ends, strict=True):
        dialogue = tree.states[leaf].dialogue
        root = [state.dialogue.scene for state in ROOTS].index(dialogue.scene)
        expected[(root, *map(MOVES.index, dialogue.moves))] = log_p
    found, rows = exact_leaves(histories)
    keys = [tuple(number for number in row if number >= 0) for row in rows.tolist()]
    assert dict(zip(keys, found.tolist(), strict=True)) == pytest.approx(dict(expected), abs=1e-9)


@pytest.mark.parametrize(
    "loss",
    [
        "trajectory_balance",
        "log_partition_variance",
        "detailed_balance",
        "subtrajectory_balance",
        "flow_matching",
    ],
)
def test_the_plain_loop_learns_it(loss: str, histories: HistoryEnvironment[DialogueState]) -> None:
    graph = enumerate_states(histories)
    torch.manual_seed(0)
    learner = TabularFlow(histories, graph.index, len(graph.states), num_conditions=2)

    def distance() -> float:
        log_pf = learner.forward_policy(graph.states)[graph.dag.source, graph.action].detach().double()
        learned = oracle.dag_terminating_distribution(graph.dag, log_pf)
        # Two scenes: twice half the sum of differences.
        return float((learned.exp() - exact_leaves(histories)[0].exp()).abs().sum()) / 4

    assert distance() > 0.3
    optimiser = torch.optim.Adam(learner.parameters(), lr=0.2)
    generator = torch.Generator().manual_seed(0)
    options = {"steps": 150, "batch_size": 32, "generator": generator, "epsilon": 0.1}
    for _ in train(histories, learner, loss, optimiser, **options):
        pass
    assert distance() < 0.02
