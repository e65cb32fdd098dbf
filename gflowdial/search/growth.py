"""Rollouts of a policy, merged into the trees that they start from."""

import math
import reprlib
from collections.abc import Callable, Sequence
from typing import Any, Generic

import numpy as np
import torch

from gflowdial.forest import Forest
from gflowdial.search.answers import Floats, Ints, ask_outcomes, check_finite, check_prior, draw, sample
from gflowdial.search.environment import AnyEnvironment, ChanceEnvironment, State, Transition
from gflowdial.search.tree import SearchTree
from gflowdial.search.watching import watched

RolloutPolicy = Callable[[Sequence[State]], Floats]
"""Log-probabilities of the actions, ``[B, A]``, at states that have not ended; -inf at forbidden ones."""


def grow(
    environment: AnyEnvironment[State],
    tree: SearchTree[State],
    policy: RolloutPolicy[State],
    rollouts: int,
    seeds: Sequence[int],
    *,
    epsilon: float = 0.0,
    temperature: float = 1.0,
    max_depth: int = 1_000,
) -> SearchTree[State]:
    """``tree`` with ``rollouts`` trajectories of ``policy`` from each root, all in lockstep.

    Every step asks the policy once at the distinct nodes that trajectories are at, and the environment once for the
    distinct actions that the tree does not hold yet; what it holds is followed without a call. New nodes are not
    expanded, and stand behind those of their tree in the order of their making. Visit counts and mean returns take the
    new trajectories in. Where the prior was not asked, ``log_prior`` becomes what the policy answers; what a prior
    forbids is not taken, whatever the policy says of it.

    Actions are drawn from ``(1 - ε)·π^(1/T)/Z + ε/|A|`` over the allowed ones. Each tree draws from a random stream of
    its own seed.

    Args:
        environment: the world; see `search`.
        tree: one tree or several, as from `SearchTree.begin` or `search`; no root has ended.
        policy: who acts.
        rollouts: trajectories per root, at least 1.
        seeds: one per root, not negative.
        epsilon: ε, the share of uniform exploration, in [0, 1].
        temperature: T > 0; above 1 the policy is flatter than it is.
        max_depth: actions after which a trajectory is broken off, its last node a frontier.

    Raises:
        ValueError: an option is out of range, there is not one seed per root, or the environment answers as `search`
            refuses too.
    """
    if rollouts < 1 or not 0 <= epsilon <= 1 or not 0 < temperature < np.inf:
        raise ValueError(
            f"rollouts is {rollouts}, epsilon {epsilon} and temperature {temperature}: give at least 1, a share in "
            "[0, 1] and a finite number above 0"
        )
    if len(seeds) != tree.forest.num_trees:
        raise ValueError(f"there are {tree.forest.num_trees} roots and {len(seeds)} seeds: give one seed per root")
    with watched(environment, tree.states) as world:
        return _grown(_Growth(world, tree), policy, rollouts, seeds, epsilon, temperature, max_depth)


def _grown(
    growth: "_Growth[State]",
    policy: RolloutPolicy[State],
    rollouts: int,
    seeds: Sequence[int],
    epsilon: float,
    temperature: float,
    max_depth: int,
) -> SearchTree[State]:
    streams = [np.random.default_rng(seed) for seed in seeds]
    at = np.repeat(growth.before.forest.roots.numpy(), rollouts)
    going = np.ones(len(at), bool)
    for _ in range(max_depth):
        # A tree draws for all its trajectories, those that have ended too: its stream depends on no other tree.
        uniforms = np.concatenate([stream.random((rollouts, 2)) for stream in streams])
        nodes, which = np.unique(at[going], return_inverse=True)
        log_policy = growth.ask(policy, nodes)
        mixed = _explore(log_policy, epsilon, temperature)[which]
        at[going] = growth.follow(at[going], sample(mixed, uniforms[going, 0]), uniforms[going, 1])
        going &= ~np.array(growth.ended)[at]
        if not going.any():
            break
    return growth.finish(at)


def _explore(log_policy: Floats, epsilon: float, temperature: float) -> Floats:
    allowed = log_policy > -np.inf
    score = np.where(allowed, log_policy, 0.0) / temperature
    weight = np.where(allowed, np.exp(score - score.max(axis=1, keepdims=True)), 0.0)
    uniform = allowed / allowed.sum(axis=1, keepdims=True)
    mixed: Floats = (1 - epsilon) * weight / weight.sum(axis=1, keepdims=True) + epsilon * uniform
    return mixed


def _children(tree: SearchTree[Any]) -> dict[tuple[int, Any], int]:
    """Nodes by parent and action; below a chance node by the state of the outcome."""
    action, chance = tree.action.tolist(), tree.chance.tolist()
    return {
        (above, tree.states[node] if chance[above] else action[node]): node
        for node, above in enumerate(tree.forest.parent.tolist())
        if above >= 0
    }


class _Growth(Generic[State]):
    """A tree as lists with one entry per node, to which nodes are added.

    Attributes:
        child: see `_children`.
        log_prior: the priors of new nodes, and of old ones where the prior had not been asked.
    """

    def __init__(self, environment: AnyEnvironment[State], tree: SearchTree[State]) -> None:
        self.environment, self.before = environment, tree
        self.stochastic = isinstance(environment, ChanceEnvironment)
        self.states = list(tree.states)
        self.parent, self.action = tree.forest.parent.tolist(), tree.action.tolist()
        self.reward, self.log_chance = tree.reward.tolist(), tree.log_chance.tolist()
        self.ended, self.chance = tree.ended.tolist(), tree.chance.tolist()
        self.log_prior: dict[int, Floats] = {}
        self.child = _children(tree)

    def ask(self, policy: RolloutPolicy[State], nodes: Ints) -> Floats:
        """What the policy answers at nodes, without what their priors forbid; it is the prior where there is none."""
        states = [self.states[node] for node in nodes]
        log_policy = check_prior("policy", policy(states), states, self.before.num_actions)
        known = len(self.before.states)
        for node, row in zip(nodes.tolist(), log_policy, strict=True):
            if node >= known or bool(self.before.log_prior[node, 0].isnan()):
                self.log_prior.setdefault(node, row)
        forbidden = self.before.log_prior.numpy()[np.minimum(nodes, known - 1)] == -np.inf
        forbidden &= (nodes < known)[:, None]
        if forbidden.any():
            log_policy = np.where(forbidden, -np.inf, log_policy)
            nothing = np.flatnonzero((log_policy == -np.inf).all(axis=1))
            if len(nothing):
                raise ValueError(
                    f"the policy takes nothing but what the prior forbids in {reprlib.repr(states[nothing[0]])}: "
                    "restrict it to the allowed actions"
                )
        return log_policy

    def follow(self, nodes: Ints, actions: Ints, uniforms: Floats) -> Ints:
        """The nodes that actions lead to; what is not in the tree is asked for, all at once."""
        steps = list(zip(nodes.tolist(), actions.tolist(), strict=True))
        # In a stochastic world the tree does not hold all outcomes of an action: they are asked for anew.
        asked = list(dict.fromkeys(step for step in steps if self.stochastic or step not in self.child))
        before, taken = [self.states[node] for node, _ in asked], np.array([action for _, action in asked], np.int64)
        answers = dict(zip(asked, ask_outcomes(self.environment, before, taken) if asked else [], strict=True))
        reached = []
        for step, uniform in zip(steps, uniforms.tolist(), strict=True):
            if not self.stochastic:
                reached.append(self._child(step, answers[step][0] if step in answers else None))
                continue
            by_chance = self._child(step, Transition(self.states[step[0]], 0.0, False))
            outcome = answers[step][draw(answers[step], uniform)]
            reached.append(self._child((by_chance, outcome.state), outcome))
        return np.array(reached, np.int64)

    def _child(self, step: tuple[int, Any], transition: Transition[State] | None) -> int:
        """The node that a step leads to, made of ``transition`` where there is none yet."""
        if step in self.child:
            return self.child[step]
        assert transition is not None
        above, by_chance = step[0], self.chance[step[0]]
        node = self.child[step] = len(self.states)
        self.states.append(transition.state)
        self.parent.append(above)
        self.action.append(-1 if by_chance else step[1])
        self.reward.append(transition.reward)
        self.ended.append(transition.ended)
        self.chance.append(self.stochastic and not by_chance)
        self.log_chance.append(math.log(transition.probability) if by_chance else 0.0)
        return node

    def finish(self, ends: Ints) -> SearchTree[State]:
        """The tree that holds the trajectories that end in ``ends``."""
        tree, known, nodes = self.before, len(self.before.states), len(self.states)
        visits, total = np.zeros((2, nodes))
        visits[:known] = tree.visits.numpy()
        total[:known] = (tree.value * tree.visits).numpy()
        paths = [self._path(end) for end in ends.tolist()]
        returns = np.array(
            [
                self.environment.trajectory_return(
                    [self.reward[node] for node in path[1:] if not self.chance[node]],
                    self.states[path[-1]],
                )
                for path in paths
            ]
        )
        check_finite("return", returns)
        for path, value in zip(paths, returns, strict=True):
            visits[path] += 1
            total[path] += value
        log_prior = np.full((nodes, tree.num_actions), np.nan)
        log_prior[:known] = tree.log_prior.numpy()
        for node, row in self.log_prior.items():
            log_prior[node] = row
        added = nodes - known
        whole = SearchTree(
            forest=Forest.from_parents(torch.tensor(self.parent)),
            states=tuple(self.states),
            action=torch.tensor(self.action),
            reward=torch.tensor(self.reward, dtype=torch.float64),
            visits=torch.from_numpy(visits).long(),
            value=torch.from_numpy(total / np.maximum(visits, 1)),
            log_prior=torch.from_numpy(log_prior),
            ended=torch.tensor(self.ended),
            expanded=torch.cat([tree.expanded, torch.zeros(added, dtype=torch.bool)]),
            chance=torch.tensor(self.chance),
            log_chance=torch.tensor(self.log_chance, dtype=torch.float64),
        )
        # The new nodes of all trees stand behind the old ones: each tree by itself is contiguous again.
        return SearchTree.merge(whole.split())

    def _path(self, end: int) -> list[int]:
        path = [end]
        while self.parent[path[-1]] >= 0:
            path.append(self.parent[path[-1]])
        return path[::-1]


def unite(trees: Sequence[SearchTree[State]]) -> SearchTree[State]:
    """One tree of several of the same roots: what any of them holds is in it once.

    Visit counts add up, and the mean returns are those of all simulations together. A node is expanded if it is in one
    of them; its prior is the first that was asked.

    Args:
        trees: with the same roots in the same order; equal actions lead to equal states, as in a world without chance.

    Raises:
        ValueError: there are none, or their roots differ.
    """
    if not trees:
        raise ValueError("there are no trees to unite")
    first, *others = trees
    roots = [first.states[root] for root in first.forest.roots.tolist()]
    if any([tree.states[root] for root in tree.forest.roots.tolist()] != roots for tree in others):
        raise ValueError("the trees have other roots: unite those of the same scenes in the same order")
    columns = {name: getattr(first, name).tolist() for name in _KEPT}
    states, parent = list(first.states), first.forest.parent.tolist()
    total = (first.value * first.visits).tolist()
    known = _children(first)
    for tree in others:
        place: list[int] = []
        rows = {name: getattr(tree, name).tolist() for name in _KEPT}
        started = iter(first.forest.roots.tolist())
        for node, above in enumerate(tree.forest.parent.tolist()):
            if above < 0:
                place.append(next(started))
            else:
                key = place[above], tree.states[node] if rows["chance"][above] else rows["action"][node]
                place.append(known.setdefault(key, len(states)))
            here, value = place[-1], float(tree.value[node]) * rows["visits"][node]
            if here == len(states):
                states.append(tree.states[node])
                parent.append(place[above])
                total.append(value)
                for name in _KEPT:
                    columns[name].append(rows[name][node])
                continue
            total[here] += value
            columns["visits"][here] += rows["visits"][node]
            columns["expanded"][here] |= rows["expanded"][node]
            if math.isnan(columns["log_prior"][here][0]):
                columns["log_prior"][here] = rows["log_prior"][node]
    made = {name: torch.tensor(column, dtype=getattr(first, name).dtype) for name, column in columns.items()}
    value = torch.tensor(total, dtype=torch.float64) / made["visits"].clamp(min=1)
    whole = SearchTree(forest=Forest.from_parents(torch.tensor(parent)), states=tuple(states), value=value, **made)
    return SearchTree.merge(whole.split())


_KEPT = ("action", "reward", "visits", "log_prior", "ended", "expanded", "chance", "log_chance")
