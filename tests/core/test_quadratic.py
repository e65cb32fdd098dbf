"""Squared losses give the gradients of their formulas, in each log's own dtype, whatever kind of forest."""

from functools import partial

import pytest
import torch
from loss_table import forest_of_each_kind
from torch import Tensor

from gflowdial import Forest, losses
from gflowdial.losses.penalties import squared

FORESTS = (*forest_of_each_kind(), Forest.from_lengths([4, 4]), Forest.from_lengths([0, 0]))
LOSSES = {
    "trajectory balance": losses.trajectory_balance,
    "detailed balance": losses.detailed_balance,
    "subtrajectory balance": partial(losses.subtrajectory_balance, decay=0.7),
}


def by_formula(t: Tensor) -> Tensor:
    """The square under another name: what a loss does with any penalty."""
    return squared(t)


def inputs(name: str, forest: Forest, shared: bool, dtypes: tuple[torch.dtype, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    first = forest.num_nodes if name != "trajectory balance" else forest.num_trees
    sizes = [(first,), (forest.num_edges,), (forest.num_edges,), (forest.num_leaves,)]
    if shared:
        sizes[0] = ()
    values = [torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes]
    return [value.to(dtype).requires_grad_() for value, dtype in zip(values, dtypes, strict=True)]


@pytest.mark.parametrize("dtypes", [(torch.float64,) * 4, (torch.float64, torch.float32, torch.float64, torch.float32)])
@pytest.mark.parametrize("name", [*LOSSES, "trajectory balance, one log Z"])
def test_gradients_of_the_formula(name: str, dtypes: tuple[torch.dtype, ...]) -> None:
    loss = LOSSES[name.removesuffix(", one log Z")]
    for forest in FORESTS:
        values = inputs(name.removesuffix(", one log Z"), forest, "one" in name, dtypes)
        for logs in (values, [values[0], values[1], None, values[3]]):
            wrt = [log for log in logs if log is not None]
            ours, expected = loss(*logs, forest), loss(*logs, forest, penalty=by_formula)
            torch.testing.assert_close(ours, expected)
            gradients = [torch.autograd.grad(x, wrt, allow_unused=True) for x in (ours, expected)]
            for log, found, other in zip(wrt, *gradients, strict=True):
                assert found is not None
                assert found.dtype == log.dtype
                # A log that is not used counts nothing.
                other = torch.zeros_like(log) if other is None else other
                torch.testing.assert_close(found, other, rtol=1e-12 if log.dtype == torch.float64 else 1e-6, atol=1e-12)
