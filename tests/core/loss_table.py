"""Every loss as one function of ``(log_flow, log_pf, log_pb, log_reward, forest)``, for laws that all must keep."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from gflowdial import Forest, losses

Loss = Callable[[Tensor, Tensor, Tensor, Tensor, Forest], Tensor]


@dataclass(frozen=True)
class Entry:
    """A loss, and which laws hold for it.

    Attributes:
        vanishes: it is zero at every balanced flow.
        sees: any one action out of balance makes it positive.
        surrogate: its gradient is an estimate, and not the derivative of its value.
    """

    loss: Loss
    vanishes: bool = True
    sees: bool = True
    surrogate: bool = False


def anchored(log_flow: Tensor, log_reward: Tensor, forest: Forest) -> Tensor:
    return log_flow.index_copy(0, forest.leaves, log_reward)


def trajectory_balance(log_flow: Tensor, *rest: object, **options: object) -> Tensor:
    """TB in the shape of the others: log Z is log F at the roots."""
    forest = rest[-1]
    assert isinstance(forest, Forest)
    return losses.trajectory_balance(log_flow[forest.roots], *rest, **options)  # type: ignore[arg-type]


def relative_tb(log_flow: Tensor, log_pf: Tensor, log_pb: Tensor, log_reward: Tensor, forest: Forest) -> Tensor:
    root = log_flow[forest.roots]
    return losses.relative_trajectory_balance(root, log_pf, log_pb, 2 * log_reward, forest, temperature=2.0)


def relative_subtb(log_flow: Tensor, log_pf: Tensor, log_pb: Tensor, log_reward: Tensor, forest: Forest) -> Tensor:
    return losses.relative_subtrajectory_balance(log_flow, log_pf, log_pb, 2 * log_reward, forest, temperature=2.0)


def modified(loss: Callable[..., Tensor], **options: object) -> Loss:
    """Any stop probability goes with a flow F if R = F · P(stop)."""

    def call(log_flow: Tensor, log_pf: Tensor, log_pb: Tensor, log_reward: Tensor, forest: Forest) -> Tensor:
        flow = anchored(log_flow, log_reward, forest)
        log_stop = -flow.square() / 10
        return loss(log_stop, log_pf, log_pb, flow + log_stop, forest, **options)

    return call


def forward_looking(loss: Callable[..., Tensor], **options: object) -> Loss:
    """Turns may pay anything; F̃ is the flow less what was paid."""

    def call(log_flow: Tensor, log_pf: Tensor, log_pb: Tensor, log_reward: Tensor, forest: Forest) -> Tensor:
        paid = log_pb.sin()
        ahead = log_flow - forest.root_sum(paid).to(log_flow.dtype)
        return loss(ahead, log_pf, log_pb, log_reward, forest, log_turn_reward=paid, **options)

    return call


def each_tree(forest: Forest) -> Tensor:
    """Every tree a group of its own, on the forest's device."""
    return torch.arange(forest.num_trees, device=forest.device)


def variance(log_flow: Tensor, log_pf: Tensor, log_pb: Tensor, log_reward: Tensor, forest: Forest) -> Tensor:
    del log_flow
    return losses.log_partition_variance(log_pf, log_pb, log_reward, forest, group=each_tree(forest))


def expected(log_flow: Tensor, log_pf: Tensor, log_pb: Tensor, log_reward: Tensor, forest: Forest) -> Tensor:
    chance = forest.depth % 2 == 1
    return losses.expected_detailed_balance(log_flow, log_pf - log_pb, log_reward, forest, chance=chance)


def stochastic(log_flow: Tensor, log_pf: Tensor, log_pb: Tensor, log_reward: Tensor, forest: Forest) -> Tensor:
    answer = torch.full_like(log_pf, -0.5)
    return losses.stochastic_detailed_balance(log_flow, log_pf + 0.5, log_pb, log_reward, forest, log_dynamics=answer)


def flow_matching(log_flow: Tensor, log_pf: Tensor, log_pb: Tensor, log_reward: Tensor, forest: Forest) -> Tensor:
    """A forest as a graph: edge flows by P_F, rewards at leaves."""
    edge_flow = log_flow[forest.edge_parent] + log_pf - log_pb
    reward = log_reward.new_full((forest.num_nodes,), -torch.inf).index_copy(0, forest.leaves, log_reward)
    return losses.flow_matching(edge_flow, edge_flow, reward, forest.edge_child, forest.edge_parent)


def length_normalised(log_flow: Tensor, log_pf: Tensor, log_pb: Tensor, log_reward: Tensor, forest: Forest) -> Tensor:
    """The reward whose target the flow is: log Z plus the mean step instead of the sum."""
    root = log_flow[forest.roots]
    start = root[forest.leaf_tree]
    mean_step = (log_reward - start) / forest.depth[forest.leaves].clamp(min=1)
    return losses.length_normalised_trajectory_balance(root, log_pf, log_pb, start + mean_step, forest)


def clipped(log_flow: Tensor, log_pf: Tensor, log_pb: Tensor, log_reward: Tensor, forest: Forest) -> Tensor:
    behaviour = log_pf.detach() - 0.05
    root = log_flow[forest.roots]
    return losses.clipped_trajectory_balance(root, log_pf, log_pb, log_reward, forest, log_behaviour=behaviour)


def likelihood(log_flow: Tensor, log_pf: Tensor, log_pb: Tensor, log_reward: Tensor, forest: Forest) -> Tensor:
    del log_flow, log_pb
    return losses.maximum_likelihood(log_pf, log_reward, forest) + losses.maximum_likelihood(log_pf, None, forest)


def cloning(log_flow: Tensor, log_pf: Tensor, log_pb: Tensor, log_reward: Tensor, forest: Forest) -> Tensor:
    del log_flow, log_reward
    return losses.behaviour_cloning(log_pf, log_pb.exp(), forest)


def dynamics(log_flow: Tensor, log_pf: Tensor, log_pb: Tensor, log_reward: Tensor, forest: Forest) -> Tensor:
    del log_flow, log_pb, log_reward
    return losses.dynamics_likelihood(log_pf, forest)


def group_relative(loss: Callable[..., Tensor]) -> Loss:
    """All rollouts of a tree are a group."""

    def call(log_flow: Tensor, log_pf: Tensor, log_pb: Tensor, log_reward: Tensor, forest: Forest) -> Tensor:
        del log_flow
        return loss(log_pf, log_pb, log_reward, forest, group=each_tree(forest))

    return call


def preference(log_flow: Tensor, log_pf: Tensor, log_pb: Tensor, log_reward: Tensor, forest: Forest) -> Tensor:
    del log_reward
    return losses.dpo(log_pf, log_pb, log_flow[forest.edge_child], forest)


def released(log_flow: Tensor, log_pf: Tensor, log_pb: Tensor, log_reward: Tensor, forest: Forest) -> Tensor:
    del log_reward
    value, several = log_pb.exp(), torch.stack([log_pf.sin(), log_pb.cos()], 1)
    return (
        losses.released_flow_balance(log_flow.exp(), value, log_pf, forest, release="first")
        + losses.released_flow_balance(log_flow.exp(), value, log_pf, forest)
        + losses.released_kl(log_pf, log_pb, forest)
        + losses.value_margin(value, several, forest)
        + losses.released_preference(log_pf, log_pb, several, several.square(), forest)
    )


LOSSES: dict[str, Entry] = {
    "trajectory balance": Entry(trajectory_balance),
    "trajectory balance, Huber": Entry(partial(trajectory_balance, penalty=losses.huber)),
    "detailed balance": Entry(losses.detailed_balance),
    "detailed balance, Linex": Entry(partial(losses.detailed_balance, penalty=losses.linex)),
    "subtrajectory balance": Entry(losses.subtrajectory_balance),
    "subtrajectory balance, no decay, by path": Entry(
        partial(losses.subtrajectory_balance, decay=1.0, pair_weight="path")
    ),
    "subtrajectory balance, log-cosh": Entry(partial(losses.subtrajectory_balance, penalty=losses.log_cosh)),
    "afpo, anchored": Entry(losses.afpo),
    "modified detailed balance": Entry(modified(losses.modified_detailed_balance)),
    "modified subtrajectory balance": Entry(modified(losses.modified_subtrajectory_balance)),
    "forward-looking detailed balance": Entry(forward_looking(losses.forward_looking_detailed_balance)),
    "forward-looking subtrajectory balance": Entry(forward_looking(losses.forward_looking_subtrajectory_balance)),
    "relative trajectory balance": Entry(relative_tb),
    "relative subtrajectory balance": Entry(relative_subtb),
    "stochastic detailed balance": Entry(stochastic),
    "rooted-prefix balance": Entry(partial(losses.rooted_prefix_balance, decay=0.8)),
    "length-normalised trajectory balance": Entry(length_normalised),
    "clipped trajectory balance": Entry(clipped),
    # A tree with one leaf has no variance.
    "log-partition variance": Entry(variance, sees=False),
    # Balance as these understand it is another one, or their least value is not 0: see test_losses_alone.py.
    "expected detailed balance": Entry(expected, vanishes=False, sees=False),
    "flow matching": Entry(flow_matching, vanishes=False, sees=False),
    "maximum likelihood": Entry(likelihood, vanishes=False, sees=False),
    "behaviour cloning": Entry(cloning, vanishes=False, sees=False),
    "dynamics likelihood": Entry(dynamics, vanishes=False, sees=False),
    "direct preference": Entry(preference, vanishes=False, sees=False),
    "AFlow's releases": Entry(released, vanishes=False, sees=False),
    # Estimates of a gradient: see test_policy_gradients.py.
    "policy gradient": Entry(losses.policy_gradient, vanishes=False, sees=False, surrogate=True),
    "reinforce": Entry(losses.reinforce, vanishes=False, sees=False, surrogate=True),
    "ppo": Entry(losses.ppo, vanishes=False, sees=False, surrogate=True),
    "rloo": Entry(group_relative(losses.rloo), vanishes=False, sees=False, surrogate=True),
    "grpo": Entry(group_relative(losses.grpo), vanishes=False, sees=False, surrogate=True),
}


def some_inputs(forest: Forest, dtype: torch.dtype = torch.float64, seed: int = 1) -> list[Tensor]:
    """An unbalanced flow that asks for gradients."""
    generator = torch.Generator().manual_seed(seed)
    sizes = (forest.num_nodes, forest.num_edges, forest.num_edges, forest.num_leaves)
    return [torch.randn(n, dtype=torch.float64, generator=generator).to(dtype).requires_grad_() for n in sizes]


def forest_of_each_kind() -> tuple[Forest, Forest]:
    """Chains, and interleaved trees; each with a tree of one node."""
    return Forest.from_lengths([3, 0, 2]), Forest.from_parents(torch.tensor([-1, 0, 0, -1, 2, -1, 2, 3, 6]))
