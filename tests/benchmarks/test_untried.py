"""The study of untried actions: what its parts hold, and the statements of its page that are exact."""

import pytest
import torch
from torch import Tensor

from benchmarks import untried
from gflowdial import Forest, oracle

OBJECTIVES = ("subtrajectory_balance", "detailed_balance", "trajectory_balance")


@pytest.fixture(scope="module")
def world() -> tuple[Forest, Tensor]:
    generator = torch.Generator().manual_seed(0)
    forest = Forest.concatenate([untried.random_tree(generator, actions=3, depth=3) for _ in range(2)])
    return forest, 10 * torch.rand(forest.num_leaves, generator=generator).double()


def exact(world: tuple[Forest, Tensor]) -> tuple[Tensor, Tensor]:
    """log F and, at the node that an edge enters, log P_F."""
    log_flow, log_pf = oracle.exact_flows(*world)
    return log_flow, torch.zeros_like(log_flow).index_copy(0, world[0].edge_child, log_pf)


@pytest.mark.parametrize("collection", untried.COLLECTIONS)
def test_parts_hold_their_share_and_are_the_same_under_every_setting(
    world: tuple[Forest, Tensor], collection: untried.Collection
) -> None:
    forest, log_reward = world
    free = untried.observe(forest, log_reward, collection, "free", 0.5, 0)
    masked = untried.observe(forest, log_reward, collection, "masked", 0.5, 0)
    assert torch.equal(free.node, masked.node)
    assert torch.equal(forest.parent[free.node[free.forest.edge_child]], free.node[free.forest.edge_parent])
    for tree in range(forest.num_trees):
        held = free.node[forest.tree[free.node] == tree].unique()
        ends = int((forest.num_children[held] == 0).sum())
        total = int((forest.leaf_tree == tree).sum())
        assert len(held) == round(0.5 * int((forest.tree == tree).sum())) or ends == round(0.5 * total)
    if collection == "recorded":
        assert int(free.forest.num_children.max()) == 1


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("collection", untried.COLLECTIONS)
def test_free_alone_agrees_with_the_exact_flow(
    world: tuple[Forest, Tensor], collection: untried.Collection, objective: str
) -> None:
    forest, log_reward = world
    log_flow, logits = exact(world)

    def at(setting: untried.Setting) -> float:
        part = untried.observe(forest, log_reward, collection, setting, 0.4, 1)
        return float(untried.loss(part, log_flow, logits, forest, setting, objective))

    assert at("free") <= 1e-12
    assert at("masked") > 0.01
    assert at("floor") > 0.01
    assert at("truncated") > 0.01


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_masked_says_nothing_of_the_policy_on_recorded_dialogues(world: tuple[Forest, Tensor], objective: str) -> None:
    forest, log_reward = world
    part = untried.observe(forest, log_reward, "recorded", "masked", 0.5, 0)
    flow = torch.zeros(forest.num_nodes).double()
    logits = torch.randn(forest.num_nodes, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    untried.loss(part, flow.requires_grad_(), logits, forest, "masked", objective).backward()
    assert logits.grad is not None
    assert not logits.grad.any()


def test_a_part_that_is_the_whole_determines_every_flow(world: tuple[Forest, Tensor]) -> None:
    forest, log_reward = world
    assert untried.determined(untried.observe(forest, log_reward, "rollouts", "free", 1.0, 0), forest) == 1.0
    assert untried.determined(untried.observe(forest, log_reward, "rollouts", "free", 0.1, 0), forest) < 0.5
