"""Sampling a batch of trajectories step by step, all at once: forward from initial states, backward from terminal ones.

A trajectory that has ended leaves the batch, so that nothing is computed for it; what was visited is laid end to end
once, at the end.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from gflowdial.envs.environment import Environment
from gflowdial.forest import Forest
from gflowdial.numerics import check_indices, check_length, distinct, first_true, lifted
from gflowdial.sampling.trajectories import Trajectories
from gflowdial.shapes import Float, Int, Tensor

Policy = Callable[[Tensor], Tensor]
"""Log-probabilities of actions, ``[states, width] -> [states, actions]``, -inf at invalid ones: an estimator's
``forward_policy`` or ``backward_policy``, or any function of states. It is called in `torch.inference_mode`; where many
states are alike, it is asked about one of them."""

BLOCK = 4
"""Steps whose random numbers are drawn at once."""
FEW = 64
"""Below so many states, looking for equal ones costs as much as a small network saves by it."""


@torch.inference_mode(False)
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
    not kept: `read_trajectories` computes them with gradients for trajectories from anywhere.

    Args:
        environment: where to act.
        policy: log-probabilities of actions; see `Policy`.
        condition: which of ``environment.initial_states`` each trajectory starts from, one entry a trajectory.
        generator: the source of randomness, on the states' device.
        epsilon: ε in [0, 1]; at 1 all valid actions are alike.
        temperature: T > 0; above 1 flattens the policy.

    Raises:
        ValueError: if ``condition`` is empty or names no initial state, an option is out of range, the policy gives no
            distribution over the valid actions of a state that was visited, or log R of an end is not finite.
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

    start = _initial(environment, condition)
    walk = _walk(start, environment.forward_mask, environment.step, policy, explore, generator)
    forest, states, actions = _laid_out(walk, backward=False)
    log_reward = _rewards(environment, states.index_select(0, forest.leaves))
    return Trajectories(forest, states, actions, log_reward, condition)


@torch.inference_mode(False)
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
        ValueError: if a state is not terminal, ``log_reward`` has another length, log R of a state is not finite, the
            policy gives no distribution over the valid actions of a state that was visited, or a trajectory leads back
            to a state that is not among ``environment.initial_states``.
    """
    if (row := first_true(environment.forward_mask(states).any(1))) is not None:
        raise ValueError(f"states[{row}] is not terminal: {states[row].tolist()}.")
    walk = _walk(states, environment.backward_mask, environment.step_back, policy, lambda log_p, _: log_p, generator)
    forest, flat, actions = _laid_out(walk, backward=True)
    if log_reward is None:
        log_reward = _rewards(environment, states)
    check_length("log_reward", log_reward, len(states), "trajectory")
    condition = _condition(environment, flat.index_select(0, forest.roots))
    return Trajectories(forest, flat, actions, log_reward, condition)


def _initial(environment: Environment, condition: Tensor) -> Int[Tensor, "trees width"]:
    starts = environment.initial_states
    try:
        return starts.index_select(0, condition)
    except (IndexError, RuntimeError):
        # Looked at only now: it takes a step's time.
        check_indices("condition", condition, len(starts), "initial states")
        raise


def _rewards(environment: Environment, states: Tensor) -> Float[Tensor, " trees"]:
    log_reward = environment.log_reward(states)
    check_length("log_reward", log_reward, len(states), "end")
    # One number says of all whether one is not finite.
    if not math.isfinite(float(log_reward.sum())) and (at := first_true(~log_reward.isfinite())) is not None:
        raise ValueError(
            f"log R must be finite; that of the state {states[at].tolist()} is {float(log_reward[at])}. Floor the "
            "reward in the environment's log_reward."
        )
    return log_reward


@dataclass(frozen=True, eq=False)
class _Walk:
    """What was visited, step by step: the rows that still walked, where they were, what they did there.

    A row stands in the last entry of ``rows`` that it reached; ``actions[t]`` leads from ``states[t]`` to
    ``states[t + 1]``.
    """

    rows: list[Int[Tensor, " walking"]]
    states: list[Int[Tensor, "walking width"]]
    actions: list[Int[Tensor, " walking"]]


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
    walk, asked, answers, masks = _Walk([row], [states], []), [], [], []
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
            log_p = lifted(_ask(policy, states))
            noise = noise or _gumbel(log_p, generator)
            weight = explore(log_p, mask).add(noise.pop()[: len(log_p)])
            # Where a policy gives no valid action any weight, one is taken: every walk ends, and then is refused.
            weight.clamp_(min=torch.finfo(weight.dtype).min)
            action = torch.where(mask, weight, -torch.inf).argmax(1)
            asked.append(states)
            answers.append(log_p)
            masks.append(mask)
            states = step(states, action)
            walk.rows.append(row)
            walk.states.append(states)
            walk.actions.append(action)
    if answers:
        _check(asked, torch.cat(answers), torch.cat(masks))
    return walk


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


def _check(asked: list[Tensor], log_p: Tensor, mask: Tensor) -> None:
    """Refuse what is no policy, for a whole walk at once."""
    fine = (mask | (log_p == -torch.inf)).all(1) & log_p.amax(1).isfinite()
    if (at := first_true(~fine)) is not None:
        raise ValueError(
            "the policy gives no distribution over the valid actions of state "
            f"{torch.cat(asked)[at].tolist()}: it must give log-probabilities, not NaN or inf, and -inf at invalid "
            "actions; "
            f"it gives {log_p[at].tolist()}, valid is {mask[at].tolist()}."
        )


def _laid_out(walk: _Walk, *, backward: bool) -> tuple[Forest, Int[Tensor, "nodes width"], Int[Tensor, " edges"]]:
    """What was walked, trajectory after trajectory: the forest, the states of its nodes, the actions of its edges."""
    steps, trees = len(walk.actions), len(walk.rows[0])
    if steps and len(walk.rows[-1]) == trees:
        order = slice(None, None, -1 if backward else 1)
        forest = Forest.of_chains(walk.rows[0].new_full((trees,), steps), steps + 1)
        return forest, torch.stack(walk.states[order], 1).flatten(0, 1), torch.stack(walk.actions[order], 1).flatten()
    row, states = torch.cat(walk.rows), torch.cat(walk.states)
    actions = torch.cat(walk.actions) if steps else row[:0]
    time = torch.arange(steps + 1, device=row.device).repeat_interleave(row.new_tensor([len(x) for x in walk.rows]))
    forest = Forest.of_chains(row.bincount() - 1)
    if backward:
        # What was stepped to is a parent: its edge leads into the node after it.
        node = forest.leaves.index_select(0, row) - time
        edge = (node - row)[trees:]
    else:
        # A tree has one edge fewer than nodes: the edge into node n of tree i is n - i - 1.
        node = forest.roots.index_select(0, row) + time
        edge = (node - row)[trees:] - 1
    return (
        forest,
        torch.empty_like(states).index_copy_(0, node, states),
        torch.empty_like(actions).index_copy_(0, edge, actions),
    )


def _condition(environment: Environment, roots: Tensor) -> Int[Tensor, " trees"]:
    """Which initial state each root is."""
    same = (roots[:, None] == environment.initial_states).all(2)
    known, condition = same.max(1)
    if (row := first_true(~known)) is not None:
        raise ValueError(f"no action leads back from {roots[row].tolist()}, yet it is no initial state.")
    return condition
