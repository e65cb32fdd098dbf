"""Losses with one planted fault each: `check_loss` finds it, and reports it on a flow of a few nodes."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from gflowdial import Forest, losses, segments
from gflowdial.layouts import Chains
from gflowdial.losses.subtrajectory import pair_mean
from gflowdial.segments import Segments
from gflowdial.testing import chains, check_loss, forests, from_log_z, from_padded

Loss = Callable[..., Tensor]


def residual(log_flow: Tensor, log_pf: Tensor, log_pb: Tensor, log_reward: Tensor, forest: Forest) -> Tensor:
    """δ of each edge, by hand; what most faults below are planted in."""
    flow = log_flow.index_copy(0, forest.leaves, log_reward)
    return flow[forest.edge_parent] + log_pf - flow[forest.edge_child] - log_pb


def mean_over_trees(squares: Tensor, forest: Forest) -> Tensor:
    return segments.mean(squares, Segments.from_ids(forest.edge_tree, forest.num_trees)).mean()


def sound(*flow: Any) -> Tensor:
    return mean_over_trees(residual(*flow).square(), flow[-1])


def flipped_sign(log_flow: Tensor, log_pf: Tensor, log_pb: Tensor, log_reward: Tensor, forest: Forest) -> Tensor:
    return sound(log_flow, log_pf, -log_pb, log_reward, forest)


def backward_forgotten(log_flow: Tensor, log_pf: Tensor, log_pb: Tensor, log_reward: Tensor, forest: Forest) -> Tensor:
    return sound(log_flow, log_pf, torch.zeros_like(log_pb), log_reward, forest)


def reward_not_at_leaf(log_flow: Tensor, log_pf: Tensor, log_pb: Tensor, log_reward: Tensor, forest: Forest) -> Tensor:
    return sound(log_flow, log_pf, log_pb, log_flow[forest.leaves] + 0 * log_reward, forest)


def reward_without_log(log_flow: Tensor, log_pf: Tensor, log_pb: Tensor, log_reward: Tensor, forest: Forest) -> Tensor:
    return sound(log_flow, log_pf, log_pb, log_reward.exp(), forest)


def last_step_left_out(log_flow: Tensor, log_pf: Tensor, log_pb: Tensor, log_reward: Tensor, forest: Forest) -> Tensor:
    inner = forest.num_children[forest.edge_child] > 0
    squares = residual(log_flow, log_pf, log_pb, log_reward, forest).square()
    return mean_over_trees(torch.where(inner, squares, 0.0), forest)


def one_step_too_far(log_flow: Tensor, log_pf: Tensor, log_pb: Tensor, log_reward: Tensor, forest: Forest) -> Tensor:
    """Trajectory balance that adds the last action's log P_F twice."""
    ratio = log_pf - log_pb
    last = forest.edges_to_nodes(ratio)[forest.leaves]
    off = log_flow[forest.roots][forest.leaf_tree] + forest.root_sum(ratio)[forest.leaves] + last - log_reward
    return segments.mean(off.square(), Segments.from_ids(forest.leaf_tree, forest.num_trees)).mean()


def one_step_short(log_flow: Tensor, log_pf: Tensor, log_pb: Tensor, log_reward: Tensor, forest: Forest) -> Tensor:
    """Trajectory balance whose sum stops before the last action."""
    ratio = log_pf - log_pb
    last = forest.edges_to_nodes(ratio)[forest.leaves]
    off = log_flow[forest.roots][forest.leaf_tree] + forest.root_sum(ratio)[forest.leaves] - last - log_reward
    return segments.mean(off.square(), Segments.from_ids(forest.leaf_tree, forest.num_trees)).mean()


def mean_over_all_edges(*flow: Any) -> Tensor:
    """Long trees outweigh short ones."""
    squares = residual(*flow).square()
    return squares.sum() / max(1, len(squares))


def squared_mean(*flow: Any) -> Tensor:
    """Residuals of opposite sign cancel."""
    forest = flow[-1]
    return segments.mean(residual(*flow), Segments.from_ids(forest.edge_tree, forest.num_trees)).square().mean()


def centred_over_trees(log_flow: Tensor, log_pf: Tensor, log_pb: Tensor, log_reward: Tensor, forest: Forest) -> Tensor:
    """TB with the batch's mean log Z in the place of each tree's own."""
    return losses.trajectory_balance(log_flow[forest.roots].mean(), log_pf, log_pb, log_reward, forest)


def leaf_counted_twice(log_flow: Tensor, log_pf: Tensor, log_pb: Tensor, log_reward: Tensor, forest: Forest) -> Tensor:
    """The first tree's weight is doubled, as when a trajectory is stored twice and nobody notices."""
    off = from_log_z_residual(log_flow, log_pf, log_pb, log_reward, forest)
    per_tree = segments.mean(off.square(), Segments.from_ids(forest.leaf_tree, forest.num_trees))
    return torch.cat([per_tree, per_tree[:1]]).mean()


def from_log_z_residual(log_flow: Tensor, log_pf: Tensor, log_pb: Tensor, log_reward: Tensor, forest: Forest) -> Tensor:
    return log_flow[forest.roots][forest.leaf_tree] + forest.root_sum(log_pf - log_pb)[forest.leaves] - log_reward


def weighed_by_position(*flow: Any) -> Tensor:
    """Weights by node number, which means nothing."""
    forest = flow[-1]
    return mean_over_trees(residual(*flow).square() * (1 + forest.edge_child), forest)


def detached_flow(log_flow: Tensor, *rest: Any) -> Tensor:
    return sound(log_flow.detach(), *rest)


class Halved(torch.autograd.Function):
    """A square whose author forgot the 2 of its derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * ctx.saved_tensors[0]


def wrong_derivative(*flow: Any) -> Tensor:
    return mean_over_trees(Halved.apply(residual(*flow)), flow[-1])


def one_pass_variance(log_flow: Tensor, log_pf: Tensor, log_pb: Tensor, log_reward: Tensor, forest: Forest) -> Tensor:
    """SubTB at λ = 1 as N·Σc² - (Σc)², which cancels to noise once log F is large."""
    flow = log_flow.index_copy(0, forest.leaves, log_reward)
    c = flow - forest.root_sum(log_pf - log_pb)
    where = Segments.from_ids(forest.tree, forest.num_trees)
    n = where.sizes
    return ((segments.mean(c.square(), where) - segments.mean(c, where).square()) * n / (n - 1).clamp(min=1)).mean()


def not_finite_for_single_nodes(*flow: Any) -> Tensor:
    return residual(*flow).square().mean()


def in_place(log_flow: Tensor, log_pf: Tensor, log_pb: Tensor, log_reward: Tensor, forest: Forest) -> Tensor:
    with torch.no_grad():
        log_flow[forest.leaves] = log_reward
    return sound(log_flow, log_pf, log_pb, log_reward, forest)


def clamped(*flow: Any) -> Tensor:
    """Too little flow costs nothing."""
    return mean_over_trees(residual(*flow).clamp(min=0).square(), flow[-1])


def summed_over_trees(*flow: Any) -> Tensor:
    return sound(*flow) * flow[-1].num_trees


def absolute(*flow: Any) -> Tensor:
    """|δ| instead of δ²: its gradient does not fade at balance. Off by a constant, to make 0 unattainable."""
    return mean_over_trees((residual(*flow).square() + 1e-4).sqrt(), flow[-1])


def unreported_noise(*flow: Any) -> Tensor:
    unreported_noise.calls += 1
    return sound(*flow) + 1e-3 * unreported_noise.calls


unreported_noise.calls = 0  # type: ignore[attr-defined]


def wrong_decay(log_flow: Tensor, log_pf: Tensor, log_pb: Tensor, log_reward: Tensor, forest: Forest) -> Tensor:
    """SubTB whose ratio is discounted too."""
    flow = log_flow.index_copy(0, forest.leaves, log_reward)
    delta = flow[forest.edge_child] - flow[forest.edge_parent] - 0.9 * (log_pf - log_pb)
    return pair_mean(delta, forest, 0.9, "unique", torch.square)


FAULTS: dict[Loss, str] = {
    flipped_sign: "zero at balance",
    backward_forgotten: "zero at balance",
    reward_not_at_leaf: "zero at balance",
    reward_without_log: "zero at balance",
    last_step_left_out: "positive off balance",
    one_step_too_far: "zero at balance",
    one_step_short: "zero at balance",
    mean_over_all_edges: "the mean over trees",
    squared_mean: "positive off balance",
    centred_over_trees: "zero at balance",
    leaf_counted_twice: "numbering does not matter",
    weighed_by_position: "numbering does not matter",
    detached_flow: "the gradient is that of the value",
    wrong_derivative: "the gradient is that of the value",
    one_pass_variance: "a common shift",
    not_finite_for_single_nodes: "one finite number",
    in_place: "one finite number",
    clamped: "positive off balance",
    summed_over_trees: "the mean over trees",
    absolute: "zero at balance",
    unreported_noise: "one finite number",
    wrong_decay: "zero at balance",
}


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
