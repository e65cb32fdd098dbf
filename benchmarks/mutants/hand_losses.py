"""Losses by hand with one planted fault each, and the law that each breaks."""

from collections.abc import Callable
from itertools import count
from typing import Any

import torch
from torch import Tensor

from gflowdial import Forest, losses, segments
from gflowdial.losses.reduction import Over
from gflowdial.losses.subtrajectory import pair_mean
from gflowdial.segments import Segments

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
        x: Tensor = ctx.saved_tensors[0]
        return grad * x


def wrong_derivative(*flow: Any) -> Tensor:
    return mean_over_trees(Halved.apply(residual(*flow)), flow[-1])  # type: ignore[no-untyped-call]


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
    forest: Forest = flow[-1]
    return sound(*flow) * forest.num_trees


def absolute(*flow: Any) -> Tensor:
    """|δ| instead of δ²: its gradient does not fade at balance. Off by a constant, to make 0 unattainable."""
    return mean_over_trees((residual(*flow).square() + 1e-4).sqrt(), flow[-1])


CALLS = count()


def unreported_noise(*flow: Any) -> Tensor:
    return sound(*flow) + 1e-3 * next(CALLS)


def wrong_decay(log_flow: Tensor, log_pf: Tensor, log_pb: Tensor, log_reward: Tensor, forest: Forest) -> Tensor:
    """SubTB whose ratio is discounted too."""
    flow = log_flow.index_copy(0, forest.leaves, log_reward)
    delta = flow[forest.edge_child] - flow[forest.edge_parent] - 0.9 * (log_pf - log_pb)
    return pair_mean(delta, forest, 0.9, "unique", torch.square, Over(forest))


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
