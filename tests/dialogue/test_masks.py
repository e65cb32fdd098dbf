"""A forbidden move is never taken, by search, play, policies, chat or the exact flow, nor given flow in training."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from learners import talk, trainer, untrained
from numpy.typing import NDArray
from small_world import MASKED, MOVES, allowed, begun, draw, environment, every, hashed, scenes

from gflowdial.dialogue import Dialogue, Inventory, Task
from gflowdial.dialogue.environment import DialogueEnvironment, DialogueState
from gflowdial.dialogue.outcomes import enumerated_outcome, exact_log_pf, policy_log_pf
from gflowdial.dialogue.play import play
from gflowdial.dialogue.policies import DialoguePolicy, PriorPolicy, SearchPolicy, UniformPolicy
from gflowdial.dialogue.speakers import DescribingAgent
from gflowdial.envs import enumerate_states
from gflowdial.search import HistoryEnvironment, SearchConfig, SearchTree, search
from gflowdial.training.methods import method
from gflowdial.training.readings import read_trees
from gflowdial.training.trees import Untried


def masked(salt: int) -> Task:
    """A task with a mask of its own."""

    def rule(dialogue: Dialogue, inventory: Inventory) -> list[bool]:
        numbers = [draw(dialogue, f"{salt} {name}") for name in inventory.names]
        return [number > 0.5 or number == max(numbers) for number in numbers]

    return dataclasses.replace(MASKED, allowed=rule)


worlds = st.builds(lambda salt, chance: environment(masked(salt), stochastic=chance), st.integers(0, 99), st.booleans())


def mask(world: DialogueEnvironment, dialogue: Dialogue) -> NDArray[np.bool_]:
    assert world.task.allowed is not None
    return np.array(world.task.allowed(dialogue, world.inventory))


def check_tree(world: DialogueEnvironment, tree: SearchTree[DialogueState]) -> None:
    for node, above in enumerate(tree.forest.parent.tolist()):
        if tree.action[node] >= 0:
            assert mask(world, tree.states[above].dialogue)[tree.action[node]]
        if not tree.log_prior[node].isnan().any():
            expected = mask(world, tree.states[node].dialogue)
            assert ((tree.log_prior[node] > -torch.inf).numpy() == expected).all()
            assert tree.log_prior[node].exp().sum() == pytest.approx(1)


class Contrary:
    """Prefers what is forbidden, by far."""

    def __init__(self, world: DialogueEnvironment) -> None:
        self.world = world

    def log_policy(self, dialogues: Sequence[Dialogue]) -> NDArray[np.float64]:
        scores = np.array([np.where(mask(self.world, dialogue), 0.0, 20.0) for dialogue in dialogues])
        return scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)


@given(worlds, st.integers(0, 99), st.sampled_from([0, 2]), st.booleans())
@settings(max_examples=20)
def test_search_never_takes_a_forbidden_move(
    world: DialogueEnvironment, seed: int, rollout: int, rollouts: bool
) -> None:
    config = SearchConfig(simulations=15, max_depth=3, rollout_length=rollout, kappa=3.0, keep_rollouts=rollouts)
    check_tree(world, search(world, begun(2), [seed, seed + 1], config))


@given(worlds)
@settings(max_examples=10)
def test_enumeration_and_the_exact_flow_leave_it_out(world: DialogueEnvironment) -> None:
    tree = every(world)
    check_tree(world, tree)
    forest = tree.forest
    acts = (forest.num_children > 0) & ~tree.chance
    for node in acts.nonzero().squeeze(1).tolist():
        assert forest.num_children[node] == mask(world, tree.states[node].dialogue).sum()
    for policy in (None, UniformPolicy(3), Contrary(world)):
        log_pf = exact_log_pf(tree, 0.3) if policy is None else policy_log_pf(world, tree, policy)
        # The moves that are there have all the probability.
        total = torch.zeros(forest.num_nodes, dtype=torch.float64).index_add(0, forest.edge_parent, log_pf.exp())
        torch.testing.assert_close(total[forest.num_children > 0], torch.ones_like(total[forest.num_children > 0]))
        assert enumerated_outcome(world, tree, policy, 0.3)["expected_return"] == pytest.approx(
            float(forest.leaf_sum(log_pf).exp() @ tree.leaf_return)
        )


@given(worlds, st.integers(0, 99))
@settings(max_examples=10)
def test_play_never_takes_a_forbidden_move(world: DialogueEnvironment, seed: int) -> None:
    config = SearchConfig(simulations=4, max_depth=2, rollout_length=1)
    policies: list[DialoguePolicy] = [
        UniformPolicy(3),
        PriorPolicy(world.roles.prior),
        Contrary(world),
        SearchPolicy(world, config, seed),
    ]
    for policy in policies:
        for episodes in play(world, policy, scenes()[:2], 2, seed):
            for episode in episodes:
                check_dialogue(world, episode.dialogue)
                assert all(0 <= entropy <= np.log(3) + 1e-12 for entropy in episode.entropies)


def check_dialogue(world: DialogueEnvironment, dialogue: Dialogue) -> None:
    for number, turn in enumerate(dialogue.turns):
        if turn.move is not None:
            before = Dialogue(dialogue.scene, dialogue.turns[:number])
            assert mask(world, before)[world.inventory.index(turn.move)]


def test_a_language_model_policy_is_held_to_the_mask_in_play() -> None:
    world, policy = environment(MASKED), untrained(MOVES)
    for episodes in play(world, policy, scenes(), 3, 0):
        for episode in episodes:
            check_dialogue(world, episode.dialogue)


@pytest.mark.parametrize("value", [False, True])
def test_a_chat_never_takes_a_forbidden_move(value: bool) -> None:
    lines = "".join(f"line {number}\n" for number in range(12))
    told = talk(MASKED, untrained(MOVES), lines, ranks_by_value=value, top_k=3)
    said = [line for line in told.splitlines() if "agent (" in line]
    moves = [line.split("(")[1].split(")")[0] for line in said]
    assert len(moves) == 12
    dialogue = Dialogue.begin(dataclasses.replace(scenes()[0], opening="line 0"))
    agent = DescribingAgent(MOVES)
    for number, move in enumerate(moves):
        assert allowed(dialogue, MOVES)[MOVES.index(move)]
        (reply,) = agent.reply([dialogue], [move])
        turn = dataclasses.replace(dialogue.turns[0], speaker="agent", text=reply, move=move)
        dialogue = dialogue.then(turn, dataclasses.replace(dialogue.turns[0], text=f"line {number + 1}"))


@pytest.mark.parametrize("rule", get_args(Untried))
@pytest.mark.parametrize("stochastic", [False, True])
def test_training_gives_it_no_flow(rule: Untried, stochastic: bool, tmp_path: Path) -> None:
    world, policy = environment(MASKED, stochastic=stochastic), untrained(MOVES)
    found = search(world, begun(3), range(3), SearchConfig(simulations=10, max_depth=3, rollout_length=1)).split()
    made = trainer(policy, found, method("detailed_balance", untried=rule), tmp_path)
    (batch,) = made.data_collator(made.trees)["passes"]
    reading = read_trees(policy.model(batch.packed), batch)
    acting = [node for node in batch.packed.node.tolist() if batch.forest.num_children[node] > 0]
    states = [state for tree in found for state in tree.states]
    expected = np.array([mask(world, states[node].dialogue) for node in acting])
    assert ((reading["log_policy"] > -torch.inf).numpy() == expected).all()
    assert not bool(torch.isinf(reading["log_pf"]).any())
    total = torch.zeros(batch.forest.num_nodes).index_add(0, batch.forest.edge_parent, reading["log_pf"].exp().detach())
    assert float(total.max()) <= 1 + 1e-5
    # Edges of the batch, the floor's leaves too, are of allowed moves alone.
    taken = torch.zeros(len(acting), 3, dtype=torch.bool)
    row = {node: number for number, node in enumerate(acting)}
    for child in batch.forest.edge_child.tolist():
        above = int(batch.forest.parent[child])
        if above in row and batch.action[child] >= 0:
            taken[row[above], batch.action[child]] = True
    assert not bool((taken & (reading["log_policy"] == -torch.inf)).any())
    made.train()
    masked_out = world.restrict(
        policy.log_policy([state.dialogue for state in begun(3)]), [s.dialogue for s in begun(3)]
    )
    for state, row_of in zip(begun(3), masked_out, strict=True):
        assert ((row_of > -np.inf) == mask(world, state.dialogue)).all()


def test_a_history_environment_has_the_mask() -> None:
    world = environment(MASKED, hashed(MOVES))
    environment_ = HistoryEnvironment(world, begun(2), 3, 0.3)
    graph = enumerate_states(environment_)
    assert graph.dag.num_edges == every(world, 2).forest.num_edges
