"""Samplers, trajectories and certificates with one planted fault each, and sound ones."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from gflowdial import Forest, oracle, segments
from gflowdial.envs import Hypergrid
from gflowdial.numerics import uniform_log_probabilities
from gflowdial.sampling import Trajectories, sample_backward, sample_forward
from gflowdial.segments import Segments
from gflowdial.testing import check_certificate, check_policy_matches, check_trajectories

EXACT = torch.tensor([0.4, 0.25, 0.15, 0.1, 0.06, 0.04]).double().log()
GRID = Hypergrid(2, 4)


def _drawn(probabilities: Tensor) -> Callable[[], object]:
    generator = torch.Generator().manual_seed(0)

    def sample(draws: int) -> Tensor:
        return torch.multinomial(probabilities, draws, replacement=True, generator=generator)

    return lambda: check_policy_matches(sample, EXACT)


def _sampler_faults() -> dict[str, Callable[[], object]]:
    p = EXACT.exp()
    return {
        "exploration left on": _drawn(0.7 * p + 0.3 / 6),
        "temperature 1.5": _drawn((EXACT / 1.5).softmax(0)),
        "reversed": _drawn(p.flip(0)),
        "off by one": _drawn(p.roll(1)),
        "an outcome never drawn": _drawn(p * torch.tensor([1, 1, 1, 1, 0, 1])),
        "greedy": _drawn((20 * EXACT).softmax(0)),
        "uniform": _drawn(torch.ones(6)),
        "square of R": _drawn(p.square()),
        "scores in bfloat16": _drawn((EXACT.bfloat16() * 1.25).double().exp()),
    }


def walks(trees: int = 12) -> Trajectories:
    def policy(states: Tensor) -> Tensor:
        return uniform_log_probabilities(GRID.forward_mask(states), torch.float32)

    condition = torch.zeros(trees, dtype=torch.int64)
    return sample_forward(GRID, policy, condition, generator=torch.Generator().manual_seed(0))


def back() -> Trajectories:
    def policy(states: Tensor) -> Tensor:
        return uniform_log_probabilities(GRID.backward_mask(states), torch.float32)

    ends = walks().terminals.states
    return sample_backward(GRID, policy, ends, generator=torch.Generator().manual_seed(1))


def _one_less(w: Trajectories) -> Trajectories:
    """Without its last state and action: the last trajectory does not end."""
    lengths = torch.bincount(w.forest.edge_tree, minlength=w.forest.num_trees)
    lengths[-1] -= 1
    return replace(w, forest=Forest.from_lengths(lengths), states=w.states[:-1], actions=w.actions[:-1])


def _moved(w: Trajectories) -> Trajectories:
    states = w.states.clone()
    states[w.forest.leaves[3], 0] += 1
    return replace(w, states=states)


TRAJECTORIES: dict[str, Callable[[Trajectories], Trajectories]] = {
    "another action": lambda w: replace(w, actions=w.actions.roll(1)),
    "an action that is none": lambda w: replace(w, actions=torch.where(w.actions == 0, 99, w.actions)),
    "another state": _moved,
    "states of another order": lambda w: replace(w, states=w.states.flip(0)),
    "cut off": _one_less,
    "reward of another": lambda w: replace(w, log_reward=w.log_reward.roll(1) + 0.1),
    "reward, not its log": lambda w: replace(w, log_reward=w.log_reward.exp()),
    "reward that is no number": lambda w: replace(w, log_reward=w.log_reward * torch.nan),
    "a condition that is none": lambda w: replace(w, condition=w.condition + 5),
    "actions in floats": lambda w: replace(w, actions=w.actions.double()),
}


def _walk_check(change: Callable[[Trajectories], Trajectories]) -> Callable[[], object]:
    return lambda: check_trajectories(change(walks()), GRID)


def _spread(log_pf: Tensor, log_reward: Tensor, forest: Forest) -> Tensor:
    zeta = log_reward - oracle.terminating_distribution(forest, log_pf)
    trees = Segments.from_ids(forest.leaf_tree, forest.num_trees)
    return segments.max(zeta, trees) + segments.max(-zeta, trees)


Bound = Callable[[Tensor, Tensor, Forest], Tensor]

CERTIFICATES: dict[str, Bound] = {
    "spread over five": lambda *policy: torch.tanh(_spread(*policy) / 5),
    "no number": lambda *policy: _spread(*policy) * torch.nan,
    "never below a tenth": lambda *policy: 0.1 + _spread(*policy),
    "the reward itself": lambda p, r, t: _spread(p, r, t) * (1 + r.max().clamp(min=0)),
    "of all trees together": lambda *policy: torch.tanh(_spread(*policy) / 4).mean().expand(policy[2].num_trees),
    "a square": lambda *policy: torch.tanh(_spread(*policy) / 4).square(),
}
SOUND_CERTIFICATES: dict[str, Bound] = {
    "worst case": lambda *policy: torch.tanh(_spread(*policy) / 4),
    "published": lambda *policy: 1 - torch.exp(-_spread(*policy)),
    "above 1": lambda *policy: 3 * _spread(*policy),
}


def _bound_check(bound: Bound) -> Callable[[], object]:
    return lambda: check_certificate(bound)


FAULTS: dict[str, dict[str, Callable[[], object]]] = {
    "check_policy_matches": _sampler_faults(),
    "check_trajectories": {name: _walk_check(change) for name, change in TRAJECTORIES.items()},
    "check_certificate": {name: _bound_check(bound) for name, bound in CERTIFICATES.items()},
}
SOUND: dict[str, dict[str, Callable[[], object]]] = {
    "check_policy_matches": {
        "unnormalised weights": _drawn(100 * EXACT.exp()),
        "0.5 % of exploration": _drawn(0.995 * EXACT.exp() + 0.005 / 6),
    },
    "check_trajectories": {
        "sampled backward": lambda: check_trajectories(back(), GRID),
        "rewards in float32": lambda: check_trajectories(replace(walks(), log_reward=walks().log_reward.float()), GRID),
        "one trajectory": lambda: check_trajectories(walks(1), GRID),
    },
    "check_certificate": {name: _bound_check(bound) for name, bound in SOUND_CERTIFICATES.items()},
}
