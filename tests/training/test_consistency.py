"""What trains on whole trees trains on any part of them: the exact flow has loss 0 wherever the search stopped."""

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_trees import ACTIONS, search_tree
from torch import Tensor

from gflowdial import Forest, oracle
from gflowdial.estimators.language_model import PolicyOutput
from gflowdial.losses import loss_on
from gflowdial.training.methods import method, method_names
from gflowdial.training.readings import read_trees
from gflowdial.training.trees import EncodedTree, TreeBatch, TreeCollator, Untried

TAU = 0.25
ZERO = 1e-12
POLICY_GRADIENTS = {"grpo", "rloo", "policy_gradient", "ppo", "reinforce"}
"""Their value is no distance from balance."""
TRUNCATED = {"afpo_truncated"}
"""Inconsistent by intent: the flow of the searched tree as if it were all there is."""


@dataclass(frozen=True)
class World:
    """Every history of a random world: the tree, the action into each node, returns and turn rewards in 64ths.

    In float32 such numbers over τ are exact.
    """

    forest: Forest
    action: Tensor
    leaf_return: Tensor
    reward: Tensor
    log_reference: Tensor

    @staticmethod
    def drawn(seed: int, inner: int) -> "World":
        """``inner`` states with 1 to `ACTIONS` allowed actions each."""
        generator = torch.Generator().manual_seed(seed)
        parent, action, open_nodes = [-1], [-1], [0]
        for _ in range(inner):
            above = open_nodes.pop(int(torch.randint(len(open_nodes), (), generator=generator)))
            allowed = 1 + int(torch.randint(ACTIONS, (), generator=generator))
            chosen = torch.randperm(ACTIONS, generator=generator)[:allowed].tolist()
            open_nodes += range(len(parent), len(parent) + allowed)
            parent += [above] * allowed
            action += chosen
        forest = Forest.from_parents(torch.tensor(parent))

        def sixty_fourths(size: int) -> Tensor:
            return torch.randint(0, 65, (size,), generator=generator).double() / 64

        scores = torch.randn(forest.num_nodes, ACTIONS, generator=generator).double()
        return World(
            forest,
            torch.tensor(action),
            sixty_fourths(forest.num_leaves),
            sixty_fourths(forest.num_nodes).index_fill(0, forest.roots, 0.0),
            scores.masked_fill(~allowed_actions(forest, torch.tensor(action)), -torch.inf),
        )

    def observed(self, seed: int, share: float) -> tuple[EncodedTree, Tensor]:
        """A random part that holds the root and every parent of its nodes, and which nodes it holds."""
        generator = torch.Generator().manual_seed(seed)
        kept = torch.rand(self.forest.num_nodes, generator=generator) < share
        parents = self.forest.parent.tolist()
        for node, above in enumerate(parents):
            kept[node] = above < 0 or (bool(kept[node]) and bool(kept[above]))
        nodes = kept.nonzero().squeeze(1)
        place = kept.long().cumsum(0) - 1
        above = self.forest.parent[nodes]
        parent = torch.where(above < 0, -1, place[above])
        ended = self.forest.num_children[nodes] == 0
        value = torch.randint(0, 65, (len(nodes),), generator=generator).double() / 64
        returns = torch.zeros(self.forest.num_nodes).double().index_copy(0, self.forest.leaves, self.leaf_return)
        allowed = allowed_actions(self.forest, self.action)[nodes]
        even = torch.where(allowed, 0.0, -torch.inf).double().log_softmax(1)
        tree = search_tree(
            parent.tolist(),
            self.action[nodes].tolist(),
            value=torch.where(ended, returns[nodes], value),
            reward=self.reward[nodes],
            ended=ended,
            log_prior=torch.where(allowed.any(1, keepdim=True), even, torch.nan),
        )
        return EncodedTree(tree, [[1]] * len(nodes)), nodes


def allowed_actions(forest: Forest, action: Tensor) -> Tensor:
    """``[nodes, actions]`` which actions have a child."""
    allowed = torch.zeros(forest.num_nodes, ACTIONS, dtype=torch.bool)
    allowed[forest.edge_parent, action[forest.edge_child]] = True
    return allowed


def at_the_exact_flow(name: str, world: World, seed: int, share: float, untried: Untried = "free") -> float:
    """The loss of method ``name`` on a part of ``world`` for the policy and the values of the world's exact flow."""
    chosen = method(name, untried=untried)
    tree, nodes = world.observed(seed, share)
    batch = TreeCollator([5, 9], TAU, untried=chosen.untried, read_leaves=chosen.read_leaves).collate([tree])
    forest, edge_child = world.forest, world.forest.edge_child
    log_reference = world.log_reference.log_softmax(1)
    log_reward = world.leaf_return / TAU
    log_flow, log_pf = oracle.exact_flows(forest, log_reward)
    if name.startswith("relative"):
        reference = log_reference[forest.edge_parent, world.action[edge_child]]
        everywhere = torch.ones(forest.num_nodes, dtype=torch.bool)
        log_flow, _ = oracle.expected_flows(forest, log_reward, chance=everywhere, log_chance=reference)
        log_pf = log_flow[edge_child] - log_flow[forest.edge_parent] + reference
    head = log_flow
    if name.startswith("forward_looking"):
        head = log_flow - forest.root_sum(world.reward[edge_child] / TAU)
    if name.startswith("afpo"):
        head = log_flow.index_add(0, nodes, -batch.log_q[: len(nodes)].double())
    log_policy = torch.full((forest.num_nodes, ACTIONS), -torch.inf).double()
    log_policy[forest.edge_parent, world.action[edge_child]] = log_pf
    log_value = torch.zeros_like(log_policy)
    log_value[forest.edge_parent, world.action[edge_child]] = head[edge_child]
    read = nodes[batch.packed.node]
    output = PolicyOutput(log_policy[read], log_value[read], head[read])
    with_reference = replace(batch, log_reference=log_reference[read].float())
    return float(loss_on(chosen.loss, with_references(output, with_reference, log_reference[read])))


def with_references(output: PolicyOutput, batch: TreeBatch, log_reference: Tensor) -> Any:
    """The reading of ``batch``, whose reference keeps its float64."""
    return read_trees(output, replace(batch, log_reference=log_reference))


@cache
def balances() -> list[str]:
    """The methods whose loss vanishes at the exact flow of whole trees."""
    worlds = [World.drawn(seed, 6) for seed in range(5)]
    return [
        name
        for name in method_names()
        if name not in POLICY_GRADIENTS | TRUNCATED
        and all(abs(at_the_exact_flow(name, world, 0, 1.0)) <= ZERO for world in worlds)
    ]


def test_the_balance_objectives_are_recognised() -> None:
    assert set(balances()) >= {
        "afpo_anchored",
        "detailed_balance",
        "expected_detailed_balance",
        "forward_looking_detailed_balance",
        "forward_looking_subtrajectory_balance",
        "log_partition_variance",
        "relative_subtrajectory_balance",
        "relative_trajectory_balance",
        "subtrajectory_balance",
        "trajectory_balance",
    }
    assert not {"behaviour_cloning", "maximum_likelihood", "reference_kl"} & set(balances())


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), inner=st.integers(1, 12), share=st.floats(0.0, 1.0), part=st.integers(0, 10_000))
def test_every_balance_vanishes_at_the_exact_flow_of_any_part(seed: int, inner: int, share: float, part: int) -> None:
    world = World.drawn(seed, inner)
    found = {name: at_the_exact_flow(name, world, part, share) for name in balances()}
    assert {name: loss for name, loss in found.items() if not abs(loss) <= ZERO} == {}


def two_moves_of_which_one_was_tried() -> World:
    """Two moves that end, of equal return; the part without the second is ``observed(…)`` of the test below."""
    forest = Forest.from_parents(torch.tensor([-1, 0, 0]))
    flat = torch.zeros(3, ACTIONS).double()
    return World(forest, torch.tensor([-1, 0, 1]), torch.tensor([0.5, 0.5]).double(), torch.zeros(3).double(), flat)


@pytest.mark.parametrize("untried", ["masked", "floor"])
@pytest.mark.parametrize("name", ["detailed_balance", "subtrajectory_balance", "trajectory_balance"])
def test_masked_and_floor_contradict_the_exact_flow(name: str, untried: Untried) -> None:
    world = two_moves_of_which_one_was_tried()
    seed = next(s for s in range(100) if len(world.observed(s, 0.5)[1]) == 2)
    assert at_the_exact_flow(name, world, seed, 0.5) <= ZERO
    assert at_the_exact_flow(name, world, seed, 0.5, untried) > 0.1
