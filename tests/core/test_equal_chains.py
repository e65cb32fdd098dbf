"""Chains of one length go a way of their own, which gives what the way through indices gives, derivatives too."""

from functools import partial

import pytest
import torch
from torch import Tensor

from gflowdial import Forest, losses
from gflowdial.layouts import Chains, Table

# With 0.1 a block holds 32 nodes, with 0.5 it holds 104: several blocks, and too many of them.
CASES = [(1, 1, 0.9), (3, 1, 1.0), (1, 7, 0.5), (5, 16, 1.0), (4, 16, 0.9), (2, 700, 0.9), (2, 250, 0.1), (1, 900, 0.1)]


def inputs(forest: Forest, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = (forest.num_nodes, forest.num_edges, forest.num_edges, forest.num_leaves)
    return [torch.randn(n, generator=generator, dtype=dtype).requires_grad_() for n in sizes]


def through_indices(values: list[Tensor], forest: Forest, decay: float) -> Tensor:
    """The same chains beside a tree without pairs, which counts 0 and makes lengths differ."""
    ragged = Forest.concatenate([forest, Forest.from_lengths([0])])
    assert ragged.layout == Chains()
    zero = torch.zeros(1, dtype=values[0].dtype)
    flow, pf, pb, reward = values
    loss = losses.subtrajectory_balance(torch.cat([flow, zero]), pf, pb, torch.cat([reward, zero]), ragged, decay=decay)
    return loss * ragged.num_trees / forest.num_trees


@pytest.mark.parametrize(("trees", "length", "decay"), CASES)
def test_value_and_gradient(trees: int, length: int, decay: float) -> None:
    forest = Forest.from_lengths([length] * trees)
    assert forest.layout == Table(length + 1)
    values = inputs(forest)
    ours = losses.subtrajectory_balance(*values, forest, decay=decay)
    expected = through_indices(values, forest, decay)
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=0)
    for found, other in zip(torch.autograd.grad(ours, values), torch.autograd.grad(expected, values), strict=True):
        torch.testing.assert_close(found, other, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("decay", [1.0, 0.9, 0.1])
@pytest.mark.parametrize("length", [1, 5, 40])
def test_second_derivative(length: int, decay: float) -> None:
    forest = Forest.from_lengths([length, length])
    values = inputs(forest)

    def curvature(loss: Tensor) -> tuple[Tensor, ...]:
        gradients = torch.autograd.grad(loss, values, create_graph=True)
        return torch.autograd.grad(sum((g**2).sum() for g in gradients), values)

    ours = curvature(losses.subtrajectory_balance(*values, forest, decay=decay))
    expected = curvature(through_indices(values, forest, decay))
    for found, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(found, other, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("decay", [1.0, 0.9])
def test_lifts_before_it_subtracts_and_takes_any_stride(decay: float) -> None:
    forest = Forest.from_lengths([30] * 3)
    values = inputs(forest, torch.float32)
    shifted = [(values[0] + 1e4).detach(), values[1].detach(), values[2].detach(), (values[3] + 1e4).detach()]
    lifted = [x.double() for x in shifted]
    strided = [torch.stack([x, x], 1)[:, 0] for x in shifted]
    expected = through_indices(lifted, forest, decay)
    ours = partial(losses.subtrajectory_balance, forest=forest, decay=decay)
    torch.testing.assert_close(ours(*lifted), expected, rtol=1e-10, atol=0)
    torch.testing.assert_close(ours(*shifted).double(), expected, rtol=1e-6, atol=0)
    assert torch.equal(ours(*strided), ours(*shifted))


def test_a_chain_that_is_not_finite_leaves_the_others_alone() -> None:
    forest = Forest.from_lengths([4] * 3)
    values = inputs(forest)
    spoilt = values[1].detach().clone()
    spoilt[5] = torch.inf
    spoilt.requires_grad_()
    for decay in (1.0, 0.9):
        clean = torch.autograd.grad(losses.subtrajectory_balance(*values, forest, decay=decay), values)
        wrong = [values[0], spoilt, *values[2:]]
        found = torch.autograd.grad(losses.subtrajectory_balance(*wrong, forest, decay=decay), wrong)
        for x, y in zip(clean, found, strict=True):
            first, _, last = x.view(3, -1)
            assert torch.equal(y.view(3, -1)[0], first)
            assert torch.equal(y.view(3, -1)[2], last)
