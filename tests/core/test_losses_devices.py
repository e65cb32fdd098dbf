"""All inputs of a loss are on one device, or an error names what is where. The "meta" device stands for another one."""

import inspect

import pytest
import torch
from loss_inputs import all_inputs, call_of
from torch import Tensor

from gflowdial import Forest, losses

FOREST = Forest.from_lengths([2, 2, 1])


def pairs() -> list[tuple[str, str]]:
    inputs = all_inputs(FOREST)
    return [
        (name, key)
        for name, loss in losses.LOSSES.items()
        for key in inspect.signature(loss).parameters
        if isinstance(inputs.get(key), Tensor) and not (name == "flow_matching" and key == "log_reward")
    ]


@pytest.mark.parametrize(("name", "key"), pairs())
def test_an_input_on_another_device_is_named_with_both_devices(name: str, key: str) -> None:
    inputs = all_inputs(FOREST)
    value = inputs["log_flow" if key == "log_reward" and name.startswith("modified") else key]
    assert isinstance(value, Tensor)
    call, _, values = call_of(name, inputs, weighted=True)
    beside = {"flow_matching": "log_reward", "reference_kl": "log_policy|log_reference_policy"}.get(name, "the forest")
    with pytest.raises(ValueError, match=rf"{key}|{beside}") as error:
        call(*values, **{key: value.to("meta")})
    assert "meta" in str(error.value)
    assert "cpu" in str(error.value)
    assert key in str(error.value)


def test_the_groups_of_a_variance_are_named() -> None:
    pf, reward, group = torch.zeros(5), torch.zeros(3), torch.zeros(3, dtype=torch.int64, device="meta")
    with pytest.raises(ValueError, match=r"group is on meta and the forest on cpu: move one of them, for instance"):
        losses.log_partition_variance(pf, None, reward, FOREST, group=group)
