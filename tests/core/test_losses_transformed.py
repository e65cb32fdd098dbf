"""Losses under `torch.func`, in forward mode, after inference mode, and beside caches that stay small."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from loss_inputs import all_inputs, call_of
from loss_table import forest_of_each_kind
from torch import Tensor
from torch.autograd import forward_ad

from gflowdial import Forest, losses
from gflowdial.numerics import MOST_REMEMBERED

FORESTS = (*forest_of_each_kind(), Forest.from_lengths([3, 3]))
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
each_loss = pytest.mark.parametrize("name", losses.LOSSES)
Call = Callable[..., Tensor]


def gradients(call: Call, values: list[Tensor], **options: bool) -> tuple[Tensor, ...]:
    inputs = [x.detach().clone().requires_grad_() for x in values]
    return torch.autograd.grad(call(*inputs), inputs, allow_unused=True, materialize_grads=True, **options)


def with_one(call: Call, values: list[Tensor], at: int, x: Tensor) -> Tensor:
    return call(*values[:at], x, *values[at + 1 :])


def directions(values: list[Tensor]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in values]


@each_loss
def test_transforms_agree_with_autograd(name: str) -> None:
    for forest in FORESTS:
        call, _, values = call_of(name, all_inputs(forest))
        every = tuple(range(len(values)))
        exact = gradients(call, values)
        torch.testing.assert_close(torch.func.grad(call, every)(*values), exact)
        torch.testing.assert_close(torch.func.jacrev(call, every)(*values), exact)
        several = [torch.stack([x, x + 0.1]) for x in values]
        rows = [[x[i] for x in several] for i in range(2)]
        torch.testing.assert_close(torch.func.vmap(call)(*several), torch.stack([call(*row) for row in rows]))
        by_row = torch.func.vmap(torch.func.grad(call, every))(*several)
        torch.testing.assert_close(
            by_row, tuple(map(torch.stack, zip(*(gradients(call, r) for r in rows), strict=True)))
        )


@each_loss
def test_vmap_over_any_one_input(name: str) -> None:
    for forest in FORESTS:
        call, _, values = call_of(name, all_inputs(forest))
        for i, x in enumerate(values):
            in_dims = tuple(0 if j == i else None for j in range(len(values)))
            several = [torch.stack([x, x + 0.1]) if j == i else other for j, other in enumerate(values)]
            rows = [[x + shift if j == i else other for j, other in enumerate(values)] for shift in (0, 0.1)]
            found = torch.func.vmap(call, in_dims=in_dims)(*several)
            torch.testing.assert_close(found, torch.stack([call(*row) for row in rows]))


@each_loss
def test_forward_mode_agrees_with_reverse_mode(name: str) -> None:
    for forest in FORESTS:
        call, _, values = call_of(name, all_inputs(forest))
        along = directions(values)
        slope = sum((g * d).sum() for g, d in zip(gradients(call, values), along, strict=True))
        _, found = torch.func.jvp(call, tuple(values), tuple(along))
        torch.testing.assert_close(found, slope)
        with forward_ad.dual_level():
            loss = call(*(forward_ad.make_dual(x, d) for x, d in zip(values, along, strict=True)))
            tangent = forward_ad.unpack_dual(loss).tangent
        torch.testing.assert_close(torch.zeros_like(slope) if tangent is None else tangent, slope)


@pytest.mark.parametrize("name", ["trajectory_balance", "detailed_balance", "subtrajectory_balance"])
def test_second_derivatives_agree_in_all_orders_of_modes(name: str) -> None:
    for forest in FORESTS:
        call, names, values = call_of(name, all_inputs(forest))
        at = names.index("log_pf")
        alone = partial(with_one, call, values, at)
        exact = torch.autograd.functional.hessian(alone, values[at])
        torch.testing.assert_close(torch.func.hessian(call, at)(*values), exact)
        torch.testing.assert_close(torch.func.jacrev(torch.func.jacrev(call, at), at)(*values), exact)
        torch.testing.assert_close(torch.func.jacfwd(torch.func.jacfwd(call, at), at)(*values), exact)


def test_many_pairs_under_transforms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where eager code goes through pairs in chunks."""
    monkeypatch.setattr("gflowdial.losses.pairs.PAIRS_AT_ONCE", 3)
    for forest in FORESTS:
        inputs = all_inputs(forest)
        call, _, values = call_of("subtrajectory_balance", {**inputs, "penalty": losses.log_cosh})

        def loss(*x: Tensor, call: Call = call) -> Tensor:
            return call(*x, penalty=losses.log_cosh)

        every = tuple(range(len(values)))
        torch.testing.assert_close(torch.func.grad(loss, every)(*values), gradients(loss, values))


@each_loss
@pytest.mark.parametrize("where", ["the loss alone", "the forest too"])
def test_training_works_after_inference_mode(name: str, where: str) -> None:
    for kind in FORESTS:
        forest = Forest.from_parents(kind.parent.clone())
        with torch.inference_mode():
            if where != "the loss alone":
                chains = Forest.from_lengths([3, 0, 2])
                forest = chains if torch.equal(kind.parent, chains.parent) else Forest.from_parents(kind.parent.clone())
            inputs = all_inputs(forest)
            call, _, values = call_of(name, inputs)
            call(*values)
        again = all_inputs(forest)
        exact = call_of(name, all_inputs(kind))
        torch.testing.assert_close(
            gradients(*(call_of(name, again)[i] for i in (0, 2))),
            gradients(exact[0], exact[2]),  # type: ignore[arg-type]
        )


def test_caches_stay_small_under_a_schedule_of_decays() -> None:
    for forest in (Forest.from_lengths([3, 2]), Forest.from_lengths([3, 3]), Forest.from_parents(FORESTS[1].parent)):
        inputs = all_inputs(forest)
        for step in range(3 * MOST_REMEMBERED):
            decay = 0.9 - step / 1000
            for name in ("subtrajectory_balance", "afpo"):
                call, _, values = call_of(name, inputs)
                call(*values, decay=decay)
                call(*values, decay=decay, **({"variant": "paper"} if name == "afpo" else {}))
        assert len(forest.memo) <= MOST_REMEMBERED
        assert len(getattr(forest._paths, "scans", ())) <= MOST_REMEMBERED
        torch.testing.assert_close(
            losses.subtrajectory_balance(*(inputs[k] for k in ("log_flow", "log_pf", "log_pb", "log_reward")), forest),
            losses.subtrajectory_balance(
                *(inputs[k] for k in ("log_flow", "log_pf", "log_pb", "log_reward")), Forest.from_parents(forest.parent)
            ),
        )
