"""MCTS in lockstep: a simulation in all trees at once, a batched call per environment method.

The selection rule is that of AFlow (arXiv 2602.08826); the batched arrays follow the manner of mctx.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic

import numpy as np
import torch
from numpy.typing import NDArray

from gflowdial.forest import Forest
from gflowdial.search.environment import SearchEnvironment, State, Transition
from gflowdial.search.search_forest import SearchForest

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class SearchConfig:
    """How to search; the defaults are the paper's.

    Attributes:
        simulations: simulations a tree, at least 1.
        max_depth: the greatest depth of a node, in actions below the root, at least 1.
        rollout_length: how many actions a simulation follows the prior from its last node.
        kappa: κ of the exploration rate ρ; 0 switches uniform exploration off.
        prior_weight: λ, how much the prior weighs against Q.
    """

    simulations: int = 10
    max_depth: int = 10
    rollout_length: int = 3
    kappa: float = 0.1
    prior_weight: float = 1.0

    def __post_init__(self) -> None:
        for name, least in (("simulations", 1), ("max_depth", 1), ("rollout_length", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}: give at least {least}")
        for name in ("kappa", "prior_weight"):
            if not 0 <= getattr(self, name) < np.inf:
                raise ValueError(f"{name} is {getattr(self, name)}: give a finite number, 0 or more")


def selection_policy(
    value: Floats, visits: Ints, log_prior: Floats, *, kappa: float = 0.1, prior_weight: float = 1.0
) -> Floats:
    """The policy μ that selection samples from (arXiv 2602.08826).

    μ(a|s) = (1 − ρ)·softmax(u)_a + ρ/|A|, with u(a) = Q(s,a) + λ·π(a|s)·√(N(s)/(1 + N(s,a))) and
    ρ = κ/(κ + log(N(s) + 1)). N(s) = 1 + Σ_a N(s,a): the visit that made the node counts, so that the prior
    already speaks when nothing below the node was tried.

    Args:
        value: Q(s,a), ``[..., A]``; 0 for an action never tried.
        visits: N(s,a), ``[..., A]``.
        log_prior: log π(a|s), normalised, ``[..., A]``.
        kappa: κ.
        prior_weight: λ.

    Returns:
        Probabilities, ``[..., A]``.
    """
    total = 1 + visits.sum(axis=-1, keepdims=True)
    score = value + prior_weight * np.exp(log_prior) * np.sqrt(total / (1 + visits))
    weight = np.exp(score - score.max(axis=-1, keepdims=True))
    explore = kappa / (kappa + np.log(total + 1))
    policy: Floats = (1 - explore) * weight / weight.sum(axis=-1, keepdims=True) + explore / value.shape[-1]
    return policy


def search(
    environment: SearchEnvironment[State],
    roots: Sequence[State],
    seeds: Sequence[int],
    config: SearchConfig | None = None,
    on_simulation: Callable[[int], None] | None = None,
) -> SearchForest[State]:
    """Search from every root at once.

    A simulation samples actions from `selection_policy` down the tree until it takes an untried one, which
    makes a node, or reaches an ended node or one at the greatest depth. From a node that has not ended it
    follows the prior for ``rollout_length`` actions or to the end. Its return G, over all rewards from the
    root on, enters the mean of every edge it passed. An ended node is visited again without a call to the
    environment.

    Every tree draws from a random stream of its own seed: where the environment is deterministic, a tree
    depends on its root, its seed and the config alone, whatever else is searched beside it.

    Args:
        environment: what answers; see `SearchEnvironment`.
        roots: the states to search from; none has ended.
        seeds: one seed per root, not negative.
        config: how to search; the paper's settings where not given.
        on_simulation: called after each simulation with how many are done.

    Raises:
        ValueError: no roots, not one seed per root, or an environment that answers with a reward or return
            that is no finite number, a prior that is not normalised, or the wrong number of rows.
    """
    config = config or SearchConfig()
    if not roots:
        raise ValueError("there are no roots: give at least one state to search from")
    if len(seeds) != len(roots):
        raise ValueError(f"there are {len(roots)} roots and {len(seeds)} seeds: give one seed per root")
    draws = config.max_depth + config.rollout_length
    uniforms = np.stack([np.random.default_rng(seed).random((config.simulations, draws)) for seed in seeds])
    trees = _Trees(environment, roots, config)
    for simulation in range(config.simulations):
        trees.simulate(uniforms[:, simulation])
        if on_simulation is not None:
            on_simulation(simulation + 1)
    return trees.flatten()


class _Trees(Generic[State]):
    """All trees as arrays ``[trees, slots, ...]``, one row a tree, its nodes in creation order.

    A simulation makes one node at most. The last slot is never filled: a missing child is −1, so whatever is
    gathered at a missing child is the 0 of that slot.
    """

    def __init__(self, environment: SearchEnvironment[State], roots: Sequence[State], config: SearchConfig) -> None:
        self.environment, self.config = environment, config
        trees, slots, actions = len(roots), config.simulations + 2, environment.num_actions
        self.rows = np.arange(trees)
        self.states = [[root] for root in roots]
        self.size = np.ones(trees, np.int64)
        self.parent = np.full((trees, slots), -1)
        self.action = np.full((trees, slots), -1)
        self.child = np.full((trees, slots, actions), -1)
        self.visits = np.zeros((trees, slots), np.int64)
        self.total_return = np.zeros((trees, slots))
        self.reward = np.zeros((trees, slots))
        self.ended = np.zeros((trees, slots), bool)
        self.log_prior = np.full((trees, slots, actions), np.nan)
        self.log_prior[:, 0] = _ask_prior(environment, list(roots))

    def simulate(self, uniforms: Floats) -> None:
        """One simulation in every tree, on the random numbers ``[trees, max_depth + rollout_length]``."""
        path, untried = self._select(uniforms[:, : self.config.max_depth])
        self._expand(path, untried)
        returns = self._roll_out(path, uniforms[:, self.config.max_depth :])
        tree, depth = np.nonzero(path >= 0)
        self.visits[tree, path[tree, depth]] += 1
        self.total_return[tree, path[tree, depth]] += returns[tree]

    def _select(self, uniforms: Floats) -> tuple[Ints, Ints]:
        """Walk down every tree.

        Returns the nodes passed ``[trees, max_depth + 1]``, −1 behind the last, and the untried action that
        the walk ended with ``[trees]``, −1 where it ended at a node that is not to be expanded.
        """
        path = np.full((len(self.rows), self.config.max_depth + 1), -1)
        path[:, 0] = 0
        untried = np.full(len(self.rows), -1)
        walking = self.rows
        for depth in range(self.config.max_depth):
            node = path[walking, depth]
            children = self.child[walking, node]
            visits = self.visits[walking[:, None], children]
            value = self.total_return[walking[:, None], children] / np.maximum(visits, 1)
            policy = selection_policy(
                value,
                visits,
                self.log_prior[walking, node],
                kappa=self.config.kappa,
                prior_weight=self.config.prior_weight,
            )
            action = _sample(policy, uniforms[walking, depth])
            chosen = children[np.arange(len(walking)), action]
            untried[walking[chosen < 0]] = action[chosen < 0]
            path[walking, depth + 1] = chosen
            walking = walking[(chosen >= 0) & ~self.ended[walking, chosen]]
            if not len(walking):
                break
        return path, untried

    def _expand(self, path: Ints, untried: Ints) -> None:
        """Take the untried actions, and put the nodes they make at the end of their paths."""
        growing = np.flatnonzero(untried >= 0)
        if not len(growing):
            return
        length = (path[growing] >= 0).sum(axis=1)
        parent, node = path[growing, length - 1], self.size[growing]
        before = [self.states[row][at] for row, at in zip(growing, parent, strict=True)]
        transitions = _take_step(self.environment, before, untried[growing])
        for row, transition in zip(growing, transitions, strict=True):
            self.states[row].append(transition.state)
        path[growing, length] = node
        self.size[growing] += 1
        self.parent[growing, node] = parent
        self.action[growing, node] = untried[growing]
        self.child[growing, parent, untried[growing]] = node
        self.reward[growing, node] = [transition.reward for transition in transitions]
        self.ended[growing, node] = [transition.ended for transition in transitions]
        going_on = ~self.ended[growing, node]
        if going_on.any():
            states = [t.state for t, goes_on in zip(transitions, going_on, strict=True) if goes_on]
            self.log_prior[growing[going_on], node[going_on]] = _ask_prior(self.environment, states)

    def _roll_out(self, path: Ints, uniforms: Floats) -> Floats:
        """Follow the prior from the last nodes that have not ended; the return of every tree's simulation."""
        last = path[self.rows, (path >= 0).sum(axis=1) - 1]
        states = [self.states[row][node] for row, node in zip(self.rows, last, strict=True)]
        rewards = [self.reward[row, nodes[nodes > 0]].tolist() for row, nodes in zip(self.rows, path, strict=True)]
        running = self.rows[~self.ended[self.rows, last]]
        log_prior = self.log_prior[running, last[running]]
        for step in range(self.config.rollout_length):
            if not len(running):
                break
            if step:
                log_prior = _ask_prior(self.environment, [states[row] for row in running])
            action = _sample(np.exp(log_prior), uniforms[running, step])
            transitions = _take_step(self.environment, [states[row] for row in running], action)
            for row, transition in zip(running, transitions, strict=True):
                states[row] = transition.state
                rewards[row].append(transition.reward)
            running = running[[not transition.ended for transition in transitions]]
        returns = np.array(
            [self.environment.trajectory_return(r, state) for r, state in zip(rewards, states, strict=True)],
            float,
        )
        _check_finite("return", returns)
        return returns

    def flatten(self) -> SearchForest[State]:
        """The trees one behind the other, without the empty slots."""
        filled = np.arange(self.visits.shape[1]) < self.size[:, None]
        start = (np.cumsum(self.size) - self.size)[:, None]
        parent = np.where(self.parent < 0, -1, self.parent + start)
        forest = Forest.from_parents(torch.from_numpy(parent[filled]))
        value = torch.from_numpy(self.total_return[filled] / self.visits[filled])
        return SearchForest(
            forest=forest,
            action=torch.from_numpy(self.action[filled]),
            visits=torch.from_numpy(self.visits[filled]),
            value=value,
            log_prior=torch.from_numpy(self.log_prior[filled]),
            reward=torch.from_numpy(self.reward[filled]),
            ended=torch.from_numpy(self.ended[filled]),
            leaf_return=value[forest.leaves],
            states=tuple(state for states in self.states for state in states),
        )


def _sample(policy: Floats, uniforms: Floats) -> Ints:
    """One action a row, by inverting the distribution function of ``policy [B, A]`` at ``uniforms [B]``."""
    below = np.cumsum(policy, axis=1)
    actions: Ints = (uniforms[:, None] * below[:, -1:] >= below[:, :-1]).sum(axis=1)
    return actions


def _ask_prior(environment: SearchEnvironment[State], states: list[State]) -> Floats:
    log_prior = environment.log_prior(states)
    expected = (len(states), environment.num_actions)
    if log_prior.shape != expected:
        raise ValueError(f"the prior answered in shape {log_prior.shape}: expected {expected}")
    if not np.allclose(np.exp(log_prior).sum(axis=1), 1, atol=1e-4):
        raise ValueError("the prior's probabilities do not sum to 1: return normalised log-probabilities")
    return log_prior


def _take_step(environment: SearchEnvironment[State], states: list[State], actions: Ints) -> list[Transition[State]]:
    transitions = environment.step(states, actions)
    if len(transitions) != len(states):
        raise ValueError(f"the environment answered {len(states)} steps with {len(transitions)} transitions")
    _check_finite("reward", np.array([transition.reward for transition in transitions]))
    return transitions


def _check_finite(name: str, values: Floats) -> None:
    if not np.isfinite(values).all():
        wrong = values[~np.isfinite(values)][0]
        raise ValueError(f"the environment gave a {name} of {wrong}: it must be a finite number")
