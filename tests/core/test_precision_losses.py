"""Every public loss of bfloat16 and float16 is that of the same numbers in float64, rounded once, to float32."""

import pytest
import torch
from loss_inputs import all_inputs, call_of
from loss_table import forest_of_each_kind

from gflowdial import Forest, losses

FORESTS = (*forest_of_each_kind(), Forest.from_lengths([3, 3]))
NARROW = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", NARROW, ids=str)
@pytest.mark.parametrize("name", losses.LOSSES)
def test_a_narrow_loss_is_the_wide_one_rounded_once(name: str, dtype: torch.dtype) -> None:
    for forest in FORESTS:
        inputs = all_inputs(forest, dtype)
        narrow, _, values = call_of(name, inputs)
        low = [x.clone().requires_grad_() for x in values]
        wide = [x.double().requires_grad_() for x in values]
        loss, exact = narrow(*low), narrow(*wide)
        assert loss.dtype == torch.float32
        assert exact.dtype == torch.float64
        torch.testing.assert_close(loss.double(), exact, rtol=1e-6, atol=1e-6)
        options = {"allow_unused": True, "materialize_grads": True}
        gradients, others = torch.autograd.grad(loss, low, **options), torch.autograd.grad(exact, wide, **options)
        for x, found, other in zip(low, gradients, others, strict=True):
            assert found.dtype == x.dtype
            # One rounding of the gradient; float16 has no numbers below 6e-8.
            torch.testing.assert_close(found.double(), other, rtol=torch.finfo(dtype).eps, atol=1e-6)


@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_parts_of_losses_are_rounded_once(dtype: torch.dtype) -> None:
    for forest in FORESTS:
        low = all_inputs(forest, dtype)
        wide = {
            key: x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for key, x in low.items()
        }

        def parts(x: dict) -> list[torch.Tensor]:
            logs, forest = (x["log_pf"], x["log_pb"], x["log_reward"]), x["forest"]
            return [
                losses.path_residual(x["log_z"], *logs, forest),
                losses.group_log_z(*logs, forest, group=x["group"], length_normalised=True),
                losses.importance_weight(x["log_pf"], x["log_behaviour"], forest, high=2.0),
                losses.absorbed_reward(x["log_flow"], 0 * x["log_flow"], forest),
                losses.turn_credit(x["log_flow"], *logs, forest, decay=0.9),
            ]

        for found, exact in zip(parts(low), parts(wide), strict=True):
            assert found.dtype == torch.float32
            torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=1e-6)
