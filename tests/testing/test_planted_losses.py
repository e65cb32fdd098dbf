"""Losses with one planted fault each: `check_loss` finds it, and reports it on a flow of a few nodes."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.mutants.hand_losses import FAULTS, Loss, backward_forgotten, sound, summed_over_trees
from gflowdial import Forest, losses
from gflowdial.layouts import Chains
from gflowdial.testing import chains, check_loss, forests, from_log_z, from_padded


def finding(loss: Loss, **options: Any) -> str:
    with pytest.raises(AssertionError) as caught:
        check_loss(loss, **options)
    return str(caught.value)


def nodes(message: str) -> int:
    """How many nodes the reported flow has; the last, where two are shown."""
    return int(re.findall(r"(\d+) nodes?:", message)[-1])


@pytest.mark.parametrize("loss", FAULTS, ids=lambda loss: loss.__name__)
def test_faults_are_found_on_a_few_nodes(loss: Loss) -> None:
    message = finding(loss)
    assert message.startswith(f"{loss.__name__} breaks the law '{FAULTS[loss]}")
    assert nodes(message) <= 5
    assert len(message.splitlines()) <= 20


def test_the_loss_that_faults_are_planted_in_is_sound() -> None:
    check_loss(sound, max_examples=20)
    check_loss(summed_over_trees, over_trees="sum", max_examples=20)


def test_a_report_reads_well() -> None:
    message = re.sub(r"0\.\d+", "#", finding(backward_forgotten))
    assert message == (
        "backward_forgotten breaks the law 'zero at balance': it is #.\n"
        "Flow on 1 tree, 2 nodes:\n"
        "  node  parent  log Z  log F  log P_F  log P_B  log R\n"
        "     0       -      0      0        -        -      -\n"
        "     1       0      -      0     -#     -#      0"
    )


def test_the_released_afpo_sums_one_step_too_far() -> None:
    def released(log_flow: Tensor, log_pf: Tensor, log_pb: Tensor, log_reward: Tensor, forest: Forest) -> Tensor:
        at_leaves = log_flow.index_copy(0, forest.leaves, log_reward)
        return losses.afpo(at_leaves, log_pf, log_pb, None, forest, variant="released")

    assert nodes(finding(released)) <= 3


def variance(
    log_flow: Tensor,  # noqa: ARG001 (it needs none)
    log_pf: Tensor,
    log_pb: Tensor,
    log_reward: Tensor,
    forest: Forest,
    group: Tensor,
) -> Tensor:
    return losses.log_partition_variance(log_pf, log_pb, log_reward, forest, group=group)


def centred_across_groups(*flow: Any, group: Tensor) -> Tensor:
    return variance(*flow, group=torch.zeros_like(group))


def group_of_the_neighbour(*flow: Any, group: Tensor) -> Tensor:
    return variance(*flow, group=group.roll(1))


@pytest.mark.parametrize("loss", [centred_across_groups, group_of_the_neighbour], ids=lambda loss: loss.__name__)
def test_mixed_groups_are_found(loss: Loss) -> None:
    message = finding(loss, group="group", forests=forests(max_nodes=6))
    assert "group = [" in message
    assert nodes(message) <= 4


def test_variance_without_groups_is_no_loss_of_many_trees() -> None:
    def one_prompt(*flow: Any) -> Tensor:
        return variance(*flow, group=torch.zeros(flow[-1].num_trees, dtype=torch.int64))

    assert "zero at balance" in finding(one_prompt)


def padded(log_flow: Tensor, log_pf: Tensor, log_pb: Tensor, log_reward: Tensor, mask: Tensor, leak: str) -> Tensor:
    """Trajectory balance on padded tensors."""
    ratio = log_pf - log_pb
    if leak != "sum":
        ratio = torch.where(mask, ratio, 0.0)
    along = ratio.sum(1)
    off = log_flow[:, 0] + along - log_reward
    squares = off.square()
    return squares.sum() / (mask.sum() if leak == "mean" else len(squares))


@pytest.mark.parametrize(("leak", "law"), [("sum", "zero at balance"), ("mean", "")])
def test_leaking_padding_is_found(leak: str, law: str) -> None:
    def loss(*batch: Tensor) -> Tensor:
        return padded(*batch, leak=leak)

    message = finding(from_padded(loss), forests=chains(max_trees=3, max_actions=4))
    assert law in message
    assert nodes(message) <= 4


def test_padded_losses_can_be_sound() -> None:
    def loss(*batch: Tensor) -> Tensor:
        return padded(*batch, leak="")

    check_loss(from_padded(loss), forests=chains(max_trees=3, max_actions=4), max_examples=20)


def test_log_z_of_the_wrong_tree_is_found() -> None:
    def reversed_z(log_z: Tensor, *rest: Any) -> Tensor:
        return losses.trajectory_balance(log_z.flip(0), *rest)

    message = finding(from_log_z(reversed_z))
    assert message.startswith("reversed_z breaks the law 'zero at balance'")
    assert nodes(message) == 2


def test_what_a_loss_raises_is_reported_with_the_flow() -> None:
    def chains_only(*flow: Any) -> Tensor:
        if not isinstance(flow[-1].layout, Chains):
            raise TypeError("chains only")
        return sound(*flow)

    with pytest.raises(AssertionError, match="it raised TypeError: chains only") as caught:
        check_loss(chains_only)
    assert isinstance(caught.value.__cause__, TypeError)
    assert nodes(str(caught.value)) == 3
    check_loss(chains_only, forests=chains(), max_examples=10)
