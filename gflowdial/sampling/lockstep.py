"""Sampling a batch of trajectories step by step, all at once: forward from initial states, backward from terminal ones.

A trajectory that has ended leaves the batch, so that nothing is computed for it; what was visited is laid end to end
once, at the end.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from gflowdial.envs.distinct import distinct
from gflowdial.envs.environment import Environment
from gflowdial.forest import Forest
from gflowdial.sampling.trajectories import Trajectories
from gflowdial.shapes import Float, Int, Tensor

Policy = Callable[[Tensor], Tensor]
"""Log-probabilities of actions, ``[states, width] -> [states, actions]``, -inf at invalid ones: an estimator's
``forward_policy`` or ``backward_policy``, or any function."""


BLOCK = 4
"""Steps whose random numbers are drawn at once."""
FEW = 64
"""Below so many states, looking for equal ones costs as much as a small network saves by it."""


@torch.no_grad()
def sample_forward(
    environment: Environment,
    policy: Policy,
    condition: Int[Tensor, " trees"],
    *,
    generator: torch.Generator,
    epsilon: float = 0.0,
    temperature: float = 1.0,
) -> Trajectories:
    """Trajectories from initial states, each action drawn from ``policy``, perhaps flattened for exploration.

    The action is drawn from ``(1 - ε) · softmax(log P / T) + ε · uniform`` over the valid ones. Log-probabilities are
    not kept: `evaluate` computes them with gradients for trajectories from anywhere.

    Args:
        environment: where to act.
        policy: log-probabilities of actions; see `Policy`.
        condition: which of ``environment.initial_states`` each trajectory starts from, one entry a trajectory.
        generator: the source of randomness, on the states' device.
        epsilon: ε in [0, 1]; at 1 all valid actions are alike.
        temperature: T > 0; above 1 flattens the policy.

    Raises:
        ValueError: if ``condition`` is empty, an option is out of range, or the policy chooses an invalid action.
    """
    if len(condition) == 0:
        raise ValueError("condition is empty: give one entry for each trajectory.")
    if not 0 <= epsilon <= 1:
        raise ValueError(f"epsilon must lie in [0, 1]; got {epsilon}.")
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0; got {temperature}.")

    def explore(log_p: Tensor, mask: Tensor) -> Tensor:
        flattened = log_p if temperature == 1 else log_p / temperature
        if epsilon == 0:
            return flattened
        return ((1 - epsilon) * flattened.softmax(1) + epsilon * mask / mask.sum(1, keepdim=True)).log()

    start = environment.initial_states.index_select(0, condition)
    walk = _walk(start, environment.forward_mask, environment.step, policy, explore, generator)
    forest, first = _chains(walk.lengths)
    node = first[walk.visitor] + walk.time
    # A tree has one edge fewer than nodes: the edge into node n of tree i is n - i - 1.
    edge = (node - walk.visitor)[len(first) :] - 1
    states = torch.empty_like(walk.states).index_copy_(0, node, walk.states)
    actions = torch.empty_like(walk.actions).index_copy_(0, edge, walk.actions)
    return Trajectories(forest, states, actions, environment.log_reward(states[first + walk.lengths]), condition)


@torch.no_grad()
def sample_backward(
    environment: Environment,
    policy: Policy,
    states: Int[Tensor, "trees width"],
    *,
    generator: torch.Generator,
    log_reward: Float[Tensor, " trees"] | None = None,
) -> Trajectories:
    """Trajectories that end in given terminal states, drawn backward from ``policy`` (P_B) to an initial state.

    Args:
        environment: where to act.
        policy: log P_B; see `Policy`.
        states: the terminal states, one a trajectory.
        generator: the source of randomness, on the states' device.
        log_reward: log R of ``states`` where it is known; else the environment is asked.

    Raises:
        ValueError: if a state is not terminal, the policy chooses an invalid action, or a trajectory leads back to a
            state that is not among ``environment.initial_states``.
    """
    unfinished = environment.forward_mask(states).any(1)
    if bool(unfinished.any()):
        row = int(unfinished.nonzero()[0])
        raise ValueError(f"states[{row}] is not terminal: {states[row].tolist()}.")
    walk = _walk(states, environment.backward_mask, environment.step_back, policy, lambda log_p, _: log_p, generator)
    forest, first = _chains(walk.lengths)
    last = first + walk.lengths
    node = last[walk.visitor] - walk.time
    # What was stepped to is a parent: its edge leads into the node after it.
    edge = (node - walk.visitor)[len(last) :]
    flat = torch.empty_like(walk.states).index_copy_(0, node, walk.states)
    actions = torch.empty_like(walk.actions).index_copy_(0, edge, walk.actions)
    if log_reward is None:
        log_reward = environment.log_reward(states)
    return Trajectories(forest, flat, actions, log_reward, _condition(environment, flat[first]))


@dataclass(frozen=True, eq=False)
class _Walk:
    """What was visited, in the order of time: the start of every row, then at each step the rows that still walked."""

    states: Int[Tensor, "nodes width"]
    visitor: Int[Tensor, " nodes"]
    time: Int[Tensor, " nodes"]
    actions: Int[Tensor, " edges"]
    lengths: Int[Tensor, " trees"]


def _walk(
    states: Tensor,
    valid: Callable[[Tensor], Tensor],
    step: Callable[[Tensor, Tensor], Tensor],
    policy: Policy,
    explore: Callable[[Tensor, Tensor], Tensor],
    generator: torch.Generator,
) -> _Walk:
    """Step every row until it has no valid action."""
    row = torch.arange(len(states), device=states.device)
    visited, visitors, actions, answers = [states], [row], [row[:0]], []
    noise: list[Tensor] = []
    # Ordinary tensors are made of what was recorded, since those of inference mode take no part in training.
    with torch.inference_mode():
        while True:
            mask = valid(states)
            going = mask.any(1).nonzero().squeeze(1)
            if len(going) == 0:
                break
            if len(going) < len(row):
                row, states, mask = (x.index_select(0, going) for x in (row, states, mask))
            log_p = _ask(policy, states)
            noise = noise or _gumbel(log_p, generator)
            weight = explore(log_p, mask).add(noise.pop()[: len(log_p)])
            # Where a policy gives no valid action any weight, one is taken: every walk ends, and then is refused.
            weight.clamp_(min=torch.finfo(weight.dtype).min)
            action = torch.where(mask, weight, -torch.inf).argmax(1)
            answers.append((states, log_p, mask))
            states = step(states, action)
            actions.append(action)
            visited.append(states)
            visitors.append(row)
    if answers:
        _check(*map(torch.cat, zip(*answers, strict=True)))
    visitor = torch.cat(visitors)
    sizes = torch.tensor([len(rows) for rows in visitors], device=visitor.device)
    return _Walk(
        states=torch.cat(visited),
        visitor=visitor,
        time=torch.arange(len(sizes), device=visitor.device).repeat_interleave(sizes),
        actions=torch.cat(actions),
        lengths=torch.bincount(visitor) - 1,
    )


def _ask(policy: Policy, states: Tensor) -> Tensor:
    """``policy(states)``; of many states, equal ones are asked about once."""
    if len(states) < FEW:
        return policy(states)
    rows, place = distinct(states)
    return policy(rows).index_select(0, place)


def _gumbel(log_p: Float[Tensor, "states actions"], generator: torch.Generator) -> list[Tensor]:
    """Noise for the next steps, drawn at once: the action whose log-weight plus Gumbel noise is the largest is drawn in
    proportion to its weight."""
    uniform = torch.rand(BLOCK, *log_p.shape, dtype=log_p.dtype, device=log_p.device, generator=generator)
    return list(uniform.log_().neg_().log_().neg_())


def _check(states: Tensor, log_p: Tensor, mask: Tensor) -> None:
    """Refuse what is no policy, for a whole walk at once."""
    fine = (mask | (log_p == -torch.inf)).all(1) & (log_p.amax(1) > -torch.inf)
    if not bool(fine.all()):
        at = int((~fine).nonzero()[0])
        raise ValueError(
            f"the policy gives no distribution over the valid actions of state {states[at].tolist()}: it must give "
            f"log-probabilities, not NaN, and -inf at invalid actions; it gives {log_p[at].tolist()}, "
            f"valid is {mask[at].tolist()}."
        )


def _chains(lengths: Tensor) -> tuple[Forest, Int[Tensor, " trees"]]:
    """`Forest.from_lengths` without its checks, and the first node of each chain."""
    after = (lengths + 1).cumsum(0)
    first = after - lengths - 1
    parent = torch.arange(-1, int(after[-1]) - 1, device=lengths.device)
    parent[first] = -1
    forest = Forest(parent)
    trees = torch.arange(len(lengths), device=lengths.device)
    edge_tree = trees.repeat_interleave(lengths)
    # A tree has one edge fewer than nodes.
    edge_parent = torch.arange(len(edge_tree), device=lengths.device) + edge_tree
    # What is known here, the forest need not derive.
    vars(forest).update(
        is_chains=True,
        roots=first,
        leaves=after - 1,
        leaf_tree=trees,
        edge_tree=edge_tree,
        edge_parent=edge_parent,
        edge_child=edge_parent + 1,
    )
    return forest, first


def _condition(environment: Environment, roots: Tensor) -> Int[Tensor, " trees"]:
    """Which initial state each root is."""
    same = (roots[:, None] == environment.initial_states).all(2)
    known, condition = same.max(1)
    if not bool(known.all()):
        row = int((~known).nonzero()[0])
        raise ValueError(f"no action leads back from {roots[row].tolist()}, yet it is no initial state.")
    return condition
