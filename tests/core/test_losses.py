"""Laws of all losses: zero exactly at balance, blind to node numbers, true derivatives, safe in low precision."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_table import LOSSES, forest_of_each_kind, some_inputs
from torch import Tensor

from gflowdial import Forest, losses
from gflowdial.losses.inputs import lift
from gflowdial.testing import Flow, balanced_flows, forests, perturbed_flows, vectors

each_loss = pytest.mark.parametrize("name", LOSSES)
few = settings(max_examples=12)


def loss_and_gradients(name: str, flow: Flow) -> tuple[Tensor, tuple[Tensor, ...]]:
    inputs = [x.clone().requires_grad_() for x in (flow.log_flow, flow.log_pf, flow.log_pb, flow.log_reward)]
    loss = LOSSES[name].loss(*inputs, flow.forest)
    return loss, torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)


@pytest.mark.parametrize("name", [name for name, entry in LOSSES.items() if entry.vanishes])
@few
@given(flow=balanced_flows(forests()))
def test_balance_is_zero_with_zero_gradient(name: str, flow: Flow) -> None:
    loss, gradients = loss_and_gradients(name, flow)
    assert loss < 1e-20
    assert all((gradient.abs() < 1e-9).all() for gradient in gradients)


@pytest.mark.parametrize("name", [name for name, entry in LOSSES.items() if entry.sees])
@few
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
@few
@given(data=st.data())
def test_node_numbers_do_not_matter(name: str, data: st.DataObject) -> None:
    flow = data.draw(perturbed_flows(forests(max_nodes=20)))
    keys = data.draw(st.permutations(list(range(flow.forest.num_nodes))))
    again = renumbered(flow, [float(key) for key in keys])
    torch.testing.assert_close(loss_and_gradients(name, again)[0], loss_and_gradients(name, flow)[0])


@pytest.mark.parametrize("name", [name for name, entry in LOSSES.items() if not entry.surrogate])
def test_derivatives(name: str) -> None:
    for forest in forest_of_each_kind():
        inputs = some_inputs(forest)
        assert torch.autograd.gradcheck(lambda *x, f=forest: LOSSES[name].loss(*x, f), inputs)
        assert torch.autograd.gradgradcheck(lambda *x, f=forest: LOSSES[name].loss(*x, f), inputs, fast_mode=True)


@each_loss
def test_bfloat16_and_autocast(name: str) -> None:
    """What comes in is rounded; nothing is rounded after that but the result."""
    for forest in forest_of_each_kind():
        rounded = [x.detach().bfloat16() for x in some_inputs(forest)]
        exact = LOSSES[name].loss(*(x.double() for x in rounded), forest)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            inputs = [x.clone().requires_grad_() for x in rounded]
            # Some entries of the table compute on their inputs, in float32 so that only the loss is on trial.
            loss = LOSSES[name].loss(*(x.float() for x in inputs), forest)
            assert loss.dtype == torch.float32
            torch.testing.assert_close(loss.double(), exact, rtol=1e-5, atol=1e-6)
            gradients = torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)
        assert all(gradient.dtype == torch.bfloat16 and gradient.isfinite().all() for gradient in gradients)
        low = LOSSES[name].loss(*rounded, forest)
        assert low.dtype == torch.float32


@pytest.mark.gpu
@each_loss
def test_cuda_agrees(name: str) -> None:
    for forest in forest_of_each_kind():
        inputs = some_inputs(forest)
        there = [x.detach().cuda().requires_grad_() for x in inputs]
        loss, again = LOSSES[name].loss(*inputs, forest), LOSSES[name].loss(*there, forest.to("cuda"))
        torch.testing.assert_close(again.cpu(), loss)
        for a, b in zip(
            torch.autograd.grad(again, there, allow_unused=True, materialize_grads=True),
            torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True),
            strict=True,
        ):
            torch.testing.assert_close(a.cpu(), b)


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


def test_what_is_not_finite_is_named_on_request() -> None:
    forest = Forest.from_parents(torch.tensor([-1, -1, 0, 1, 3]))
    flow, pf, reward = torch.zeros(5), torch.zeros(3), torch.zeros(2)

    def spoiled(values: Tensor, index: int, value: float) -> Tensor:
        return values.index_fill(0, torch.tensor([index]), value)

    assert losses.detailed_balance(flow, spoiled(pf, 1, torch.nan), None, reward, forest).isnan()
    with losses.require_finite():
        losses.detailed_balance(flow, pf, None, reward, forest)
        with pytest.raises(ValueError, match=r"log_pf\[1\] is nan: tree 1, the edge into node 3"):
            losses.detailed_balance(flow, spoiled(pf, 1, torch.nan), None, reward, forest)
        with pytest.raises(ValueError, match=r"log_flow\[2\] is inf: tree 0, node 2"):
            losses.subtrajectory_balance(spoiled(flow, 2, torch.inf), pf, None, reward, forest)
        with pytest.raises(ValueError, match=r"log_reward\[0\] is -inf: tree 0, the leaf, node 2"):
            losses.trajectory_balance(flow[:2], pf, None, spoiled(reward, 0, -torch.inf), forest)
        with pytest.raises(ValueError, match=r"log_z\[1\] is nan: tree 1, its root is node 1"):
            losses.trajectory_balance(spoiled(flow[:2], 1, torch.nan), pf, None, reward, forest)
    assert losses.detailed_balance(flow, spoiled(pf, 1, torch.nan), None, reward, forest).isnan()


@each_loss
def test_every_loss_looks_when_asked(name: str) -> None:
    forest = Forest.from_lengths([2, 1])
    inputs = [x.detach() for x in some_inputs(forest)]
    inputs[1][1] = torch.nan
    with losses.require_finite(), pytest.raises(ValueError, match="nan"):
        LOSSES[name].loss(*inputs, forest)


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
