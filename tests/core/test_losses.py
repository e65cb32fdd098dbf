"""Every loss: brute force over listed pairs, zero exactly at balance, blind to node numbers, true derivatives."""

from collections.abc import Callable
from functools import partial

import brute_force
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gflowdial import Forest, losses
from gflowdial.losses.inputs import lift
from gflowdial.testing import Flow, balanced_flows, forests, perturbed_flows, vectors

LOSSES: dict[str, Callable[..., Tensor]] = {
    "detailed balance": losses.detailed_balance,
    "subtrajectory balance": losses.subtrajectory_balance,
    "subtrajectory balance, no decay, by path": partial(losses.subtrajectory_balance, decay=1.0, pair_weight="path"),
    "afpo, anchored": losses.afpo,
}


def trajectory_balance(log_flow: Tensor, *rest: object) -> Tensor:
    """TB in the shape of the others: log Z is log F at the roots."""
    forest = rest[-1]
    assert isinstance(forest, Forest)
    return losses.trajectory_balance(log_flow[forest.roots], *rest)  # type: ignore[arg-type]


LOSSES["trajectory balance"] = trajectory_balance
each_loss = pytest.mark.parametrize("name", LOSSES)


def loss_and_gradients(name: str, flow: Flow) -> tuple[Tensor, tuple[Tensor, ...]]:
    inputs = [x.clone().requires_grad_() for x in (flow.log_flow, flow.log_pf, flow.log_pb, flow.log_reward)]
    loss = LOSSES[name](*inputs, flow.forest)
    return loss, torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)


@each_loss
@given(flow=balanced_flows(forests()))
def test_balance_is_zero_with_zero_gradient(name: str, flow: Flow) -> None:
    loss, gradients = loss_and_gradients(name, flow)
    assert loss < 1e-20
    assert all((gradient.abs() < 1e-9).all() for gradient in gradients)


@each_loss
@given(flow=perturbed_flows(forests()))
def test_imbalance_is_positive(name: str, flow: Flow) -> None:
    loss, gradients = loss_and_gradients(name, flow)
    assert loss > 1e-6
    assert any((gradient.abs() > 1e-8).any() for gradient in gradients)


def renumbered(flow: Flow, keys: list[float]) -> Flow:
    """The same flow with other node numbers: children in a random order that keeps parents first."""
    forest = flow.forest
    order: list[int] = []
    waiting = set(forest.roots.tolist())
    children: dict[int, list[int]] = {}
    for child, parent in zip(forest.edge_child.tolist(), forest.edge_parent.tolist(), strict=True):
        children.setdefault(parent, []).append(child)
    while waiting:
        node = min(waiting, key=lambda n: keys[n])
        waiting.remove(node)
        order.append(node)
        waiting.update(children.get(node, []))
    old = torch.tensor(order)
    new = torch.argsort(old)
    parent = torch.where(forest.parent[old] < 0, -1, new[forest.parent[old]])
    other = Forest.from_parents(parent)

    def moved(values: Tensor, at: Tensor, other_at: Tensor) -> Tensor:
        return values.new_zeros(forest.num_nodes).index_copy(0, new[at], values)[other_at]

    return Flow(
        other,
        moved(flow.log_z, forest.roots, other.roots),
        flow.log_flow[old],
        moved(flow.log_pf, forest.edge_child, other.edge_child),
        moved(flow.log_pb, forest.edge_child, other.edge_child),
        moved(flow.log_reward, forest.leaves, other.leaves),
    )


@each_loss
@given(data=st.data())
def test_node_numbers_do_not_matter(name: str, data: st.DataObject) -> None:
    flow = data.draw(perturbed_flows(forests(max_nodes=20)))
    keys = data.draw(st.permutations(list(range(flow.forest.num_nodes))))
    again = renumbered(flow, [float(key) for key in keys])
    torch.testing.assert_close(loss_and_gradients(name, again)[0], loss_and_gradients(name, flow)[0])


@each_loss
def test_derivatives(name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    for forest in (Forest.from_lengths([3, 0, 2]), Forest.from_parents(torch.tensor([-1, 0, 0, -1, 2, 2, 5]))):
        sizes = (forest.num_nodes, forest.num_edges, forest.num_edges, forest.num_leaves)
        inputs = [torch.randn(n, dtype=torch.float64, generator=generator).requires_grad_() for n in sizes]
        assert torch.autograd.gradcheck(lambda *x, f=forest: LOSSES[name](*x, f), inputs)
        assert torch.autograd.gradgradcheck(lambda *x, f=forest: LOSSES[name](*x, f), inputs)


def random_forest(kind: str, nodes: int, generator: torch.Generator) -> Forest:
    if kind == "chains":
        return Forest.from_lengths([0, nodes - 405, 1, 400])
    # Parents close by make deep trees, parents anywhere shallow ones.
    reach = 3 if kind == "deep tree" else nodes
    number = torch.arange(nodes)
    back = 1 + (torch.rand(nodes, generator=generator) * number.clamp(1, reach)).long().clamp(max=reach - 1)
    parent = torch.where(torch.rand(nodes, generator=generator) < 0.002, -1, number - torch.minimum(back, number))
    parent[0] = -1
    return Forest.from_parents(parent)


@pytest.mark.parametrize("pair_weight", ["unique", "path"])
@pytest.mark.parametrize("decay", [0.5, 0.9, 0.99, 1.0])
@pytest.mark.parametrize("kind", ["chains", "deep tree", "shallow tree"])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_subtb_equals_every_pair_listed(kind: str, decay: float, pair_weight: str, offset: float) -> None:
    generator = torch.Generator().manual_seed(2)
    forest = random_forest(kind, 4000, generator)
    flow = torch.randn(forest.num_nodes, generator=generator) + offset
    pf = -torch.rand(forest.num_edges, generator=generator)
    pb = -torch.rand(forest.num_edges, generator=generator)
    reward = torch.randn(forest.num_leaves, generator=generator) + offset
    raw = [x.requires_grad_() for x in (flow, pf, pb, reward)]
    loss = losses.subtrajectory_balance(*raw, forest, decay=decay, pair_weight=pair_weight)  # type: ignore[arg-type]
    wide = [x.detach().double().requires_grad_() for x in raw]
    expected = brute_force.subtb(
        wide[0].index_copy(0, forest.leaves, wide[3]), wide[1] - wide[2], forest, decay, pair_weight
    )
    assert abs(loss.item() / expected.item() - 1) < 1e-6
    for gradient, exact in zip(torch.autograd.grad(loss, raw), torch.autograd.grad(expected, wide), strict=True):
        assert float((gradient - exact).abs().max() / exact.abs().max()) < 1e-6


def test_a_single_node_tree_has_one_pair_in_tb_and_none_elsewhere() -> None:
    forest = Forest.from_lengths([0])
    none, reward = torch.zeros(0), torch.tensor([2.0])
    assert float(losses.trajectory_balance(torch.tensor(5.0), none, None, reward, forest)) == 9.0
    assert float(losses.detailed_balance(torch.zeros(1), none, None, reward, forest)) == 0.0
    assert float(losses.subtrajectory_balance(torch.zeros(1), none, None, reward, forest)) == 0.0


@given(data=st.data())
def test_one_step_subtb_is_detailed_balance(data: st.DataObject) -> None:
    forest = Forest.from_lengths([1] * data.draw(st.integers(1, 5)))
    flow, pf = data.draw(vectors(forest.num_nodes)), data.draw(vectors(forest.num_edges))
    reward = data.draw(vectors(forest.num_leaves))
    torch.testing.assert_close(
        losses.subtrajectory_balance(flow, pf, None, reward, forest),
        losses.detailed_balance(flow, pf, None, reward, forest),
    )


def test_the_result_has_the_dtype_that_came_in() -> None:
    forest = Forest.from_lengths([2])
    loss = losses.subtrajectory_balance(torch.randn(3), torch.randn(2), None, torch.randn(1), forest)
    assert loss.dtype == torch.float32


def test_bad_input_is_named() -> None:
    forest = Forest.from_lengths([2])
    flow, pf, reward = torch.zeros(3), torch.zeros(2), torch.zeros(1)
    with pytest.raises(ValueError, match=r"log_pf must have one entry per edge, shape \[2\]; got \[3\]"):
        lift("log_pf", torch.zeros(3), forest, "edge")
    with pytest.raises(ValueError, match="log_pf must be floating point"):
        lift("log_pf", torch.zeros(2, dtype=torch.int64), forest, "edge")
    # The shape checker of the tests speaks up before the library does.
    with pytest.raises(Exception, match="log_reward"):
        losses.detailed_balance(flow, pf, None, torch.zeros(2), forest)
    with pytest.raises(Exception, match="pair_weight"):
        losses.subtrajectory_balance(flow, pf, None, reward, forest, pair_weight="twice")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="decay"):
        losses.subtrajectory_balance(flow, pf, None, reward, forest, decay=0.0)
