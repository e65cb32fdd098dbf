"""MCTS in lockstep: one simulation in all trees at once, with one batched call per environment method and step.

The selection rule is that of AFlow (arXiv 2602.08826); the arrays are laid out as in mctx.
"""

from collections.abc import Callable, Sequence
from typing import Generic

import numpy as np
import torch
from numpy.typing import NDArray

from gflowdial.forest import Forest
from gflowdial.search.answers import Floats, Ints, ask_outcomes, ask_prior, check_finite, draw, sample, take_step
from gflowdial.search.environment import UNIT, AnyEnvironment, ChanceEnvironment, State, Transition, return_range
from gflowdial.search.selection import SearchConfig, selection_policy
from gflowdial.search.tree import SearchTree
from gflowdial.search.watching import watched


def search(
    environment: AnyEnvironment[State],
    roots: Sequence[State],
    seeds: Sequence[int],
    config: SearchConfig | None = None,
    on_simulation: Callable[[int], None] | None = None,
) -> SearchTree[State]:
    """The trees that are searched from all roots at once.

    A simulation samples actions from `selection_policy` down the tree until it takes an untried one, which
    makes a node, or reaches an ended node or one at the greatest depth. From a node that has not ended it
    follows the prior for ``rollout_length`` actions or to the end. Its return G, over all rewards from the
    root on, enters the mean of every edge it passed. An ended node is visited again without a call to the
    environment.

    In a `ChanceEnvironment` an action leads to a chance node, whose state is the state before. Its children are
    the outcomes that simulations drew, and an outcome drawn for the first time is a new node. The outcomes of an
    action at a node are asked for once. The reward of a turn is that of the edge into the outcome.

    With ``keep_rollouts`` the nodes that rollouts made stand behind the expanded ones. A node that the search
    expands later counts its visits from then on, so ``tree.select(tree.expanded)`` is the tree without rollouts. An
    action at such a node is asked for once.

    Selection weighs Q against the prior, and reads it on the scale of the environment's ``return_range``: the search is
    the same whatever the unit and the offset of returns. Values in the tree keep the environment's unit.

    Every tree draws from a random stream of its own seed: where the environment answers a state and an action always
    alike, a tree depends on its root, its seed and the config alone, whatever else is searched beside it.

    Args:
        environment: the world; see `SearchEnvironment` and `ChanceEnvironment`.
        roots: the states to search from; none has ended.
        seeds: one seed per root, not negative.
        config: how to search; the paper's settings where not given.
        on_simulation: called after each simulation with how many are done.

    Raises:
        ValueError: no roots, not one seed per root, or an environment that answers with a reward or return
            that is no finite number, a prior or outcomes that are not normalised, a state that allows no action, or
            the wrong number of rows, or that changes states in place.
    """
    config = config or SearchConfig()
    if not roots:
        raise ValueError("there are no roots: give at least one state to search from")
    if len(seeds) != len(roots):
        raise ValueError(f"there are {len(roots)} roots and {len(seeds)} seeds: give one seed per root")
    streams = [np.random.default_rng(seed) for seed in seeds]
    shape = (config.simulations, config.max_depth + config.rollout_length)
    actions = np.stack([stream.random(shape) for stream in streams])
    with watched(environment, roots) as world:
        trees = _Trees(world, roots, config)
        # Chance draws after all actions: the actions of a tree are those of the same environment without chance.
        chance = np.stack([stream.random(shape) for stream in streams]) if trees.stochastic else actions
        for simulation in range(config.simulations):
            trees.simulate(actions[:, simulation], chance[:, simulation])
            if on_simulation is not None:
                on_simulation(simulation + 1)
        return trees.flatten()


class _Trees(Generic[State]):
    """All trees as arrays ``[trees, slots, ...]``, one row per tree, its nodes in creation order.

    The last slot is never filled: a missing child is −1, so whatever is gathered at a missing child is the 0 of that
    slot, and it is not expanded.

    Attributes:
        child: the expanded node that an action leads to, −1 where there is none; a chance node in a stochastic world.
        below: nodes by tree, parent and action, or at a chance node the number of the outcome. Only rollouts that are
            kept and chance need it; otherwise it is empty.
        outcomes: all that can follow each chance node, by tree and node.
        expanded_at: the number of the simulation that expanded a node, −1 at the root; ``simulations`` where none did.
    """

    def __init__(self, environment: AnyEnvironment[State], roots: Sequence[State], config: SearchConfig) -> None:
        self.environment, self.config = environment, config
        self.stochastic = isinstance(environment, ChanceEnvironment)
        self.kept_steps = config.rollout_length if config.keep_rollouts else 0
        # A simulation makes one node per action that it adds, in a stochastic world two.
        shape = (len(roots), 2 + config.simulations * (1 + self.kept_steps) * (1 + self.stochastic))
        self.rows = np.arange(len(roots))
        self.start = self.rows[:, None] * shape[1]
        self.states = [[root] for root in roots]
        self.size = np.ones(len(roots), np.int64)
        self.parent, self.action = np.full((2, *shape), -1)
        self.child = np.full((*shape, environment.num_actions), -1)
        self.below: dict[tuple[int, ...], int] = {}
        self.outcomes: dict[tuple[int, ...], Sequence[Transition[State]]] = {}
        self.visits = np.zeros(shape, np.int64)
        self.total_return, self.reward, self.log_chance = np.zeros((3, *shape))
        self.ended, self.chance = np.zeros((2, *shape), bool)
        self.expanded_at = np.full(shape, config.simulations)
        self.expanded_at[:, 0] = -1
        self.range = return_range(environment)
        self.scaled = self.range != UNIT
        # The least and the greatest return of each tree so far, where the environment knows no bounds.
        self.seen = np.array([[np.inf], [-np.inf]]) * np.ones(len(roots))
        self.log_prior = np.full((*shape, environment.num_actions), np.nan)
        self.log_prior[:, 0] = ask_prior(environment, list(roots))

    def simulate(self, actions: Floats, chance: Floats) -> None:
        """One simulation in every tree, on random numbers ``[trees, max_depth + rollout_length]`` for each of both."""
        depth = self.config.max_depth
        path, untried = self._select(actions[:, :depth], chance[:, :depth])
        self._expand(path, untried, chance[:, :depth])
        self._extend(path, actions[:, depth:], chance[:, depth:])
        returns = self._roll_out(path, actions[:, depth:], chance[:, depth:])
        if self.range is None:
            self.seen = np.stack([np.minimum(self.seen[0], returns), np.maximum(self.seen[1], returns)])
        tree, step = np.nonzero(path >= 0)
        node = path[tree, step]
        if self.stochastic:
            # A path holds the nodes where the policy acts: the chance node before each counts too.
            before = self.parent[tree, node][step > 0]
            tree, node = np.concatenate([tree, tree[step > 0]]), np.concatenate([node, before])
        # A simulation passes a node once: no pair of tree and node comes twice, and += counts each.
        self.visits[tree, node] += 1
        self.total_return[tree, node] += returns[tree]

    def _select(self, actions: Floats, chance: Floats) -> tuple[Ints, Ints]:
        """Walk down every tree.

        Returns the nodes passed ``[trees, max_depth + 1 + kept_steps]``, −1 behind the last, and the action with which
        the walk left the expanded nodes ``[trees]``, −1 where it ended at a node that is not to be expanded.
        """
        path = np.full((len(self.rows), self.config.max_depth + 1 + self.kept_steps), -1)
        path[:, 0] = 0
        untried = np.full(len(self.rows), -1)
        walking = self.rows
        for depth in range(self.config.max_depth):
            node = path[walking, depth]
            children = self.child[walking, node]
            # `take` reads the flattened arrays: a missing child, −1, falls on the empty last slot of the row before.
            place = children + self.start[walking]
            visits = self.visits.take(place)
            value = self.total_return.take(place) / np.maximum(visits, 1)
            if self.scaled:
                low, high = self.seen[:, walking, None] if self.range is None else self.range
                value = np.where((visits > 0) & (high > low), (value - low) / np.where(high > low, high - low, 1), 0.0)
            policy = selection_policy(value, visits, self.log_prior[walking, node], self.config)
            action = sample(policy, actions[walking, depth])
            chosen = children[np.arange(len(walking)), action]
            if self.stochastic:
                at = np.flatnonzero(chosen >= 0)
                numbers = self._draw(walking[at], chosen[at], chance[walking[at], depth])
                chosen[at] = self._known(walking[at], chosen[at], numbers)
                chosen[~self._is_expanded(walking, chosen)] = -1
            # Trees that leave the walk keep the −1 behind their last node: every path is filled without a gap.
            untried[walking[chosen < 0]] = action[chosen < 0]
            path[walking, depth + 1] = chosen
            walking = walking[(chosen >= 0) & ~self.ended[walking, chosen]]
            if not len(walking):
                break
        return path, untried

    def _expand(self, path: Ints, untried: Ints, chance: Floats) -> None:
        """Take the untried actions, and put the nodes they lead to at the end of their paths."""
        growing = np.flatnonzero(untried >= 0)
        if not len(growing):
            return
        length = (path[growing] >= 0).sum(axis=1)
        parent, action = path[growing, length - 1], untried[growing]
        # The random number that `_select` read at this depth draws the same outcome again.
        node = self._act(growing, parent, action, chance[growing, length - 1])
        path[growing, length] = node
        reached = self.parent[growing, node] if self.stochastic else node
        self.child[growing, parent, action] = reached
        for new in (reached, node) if self.stochastic else (node,):
            if self.kept_steps:
                # Selection does not see rollouts: a node that they passed counts anew from its expansion on.
                self.visits[growing, new] *= self._is_expanded(growing, new)
                self.total_return[growing, new] *= self._is_expanded(growing, new)
            # All trees are at the same simulation, whose number the root's visits are.
            self.expanded_at[growing, new] = np.minimum(self.expanded_at[growing, new], self.visits[growing, 0])
        self._ask_prior(growing, node)

    def _extend(self, path: Ints, actions: Floats, chance: Floats) -> None:
        """Follow the prior from the last nodes that have not ended, and keep the nodes passed."""
        running, length = self.rows, (path >= 0).sum(axis=1)
        for step in range(self.kept_steps):
            running = running[~self.ended[running, path[running, length[running] + step - 1]]]
            if not len(running):
                break
            node = path[running, length[running] + step - 1]
            self._ask_prior(running, node)
            action = sample(np.exp(self.log_prior[running, node]), actions[running, step])
            path[running, length[running] + step] = self._act(running, node, action, chance[running, step])

    def _roll_out(self, path: Ints, actions: Floats, chance: Floats) -> Floats:
        """The return of every tree's simulation; rollouts that are not kept follow the prior beside the trees."""
        last = path[self.rows, (path >= 0).sum(axis=1) - 1]
        states = self._states_at(self.rows, last)
        # Node 0 is the root, into which no turn leads.
        rewards = [self.reward[row, nodes[nodes > 0]].tolist() for row, nodes in zip(self.rows, path, strict=True)]
        running = self.rows[~self.ended[self.rows, last]]
        log_prior = self.log_prior[running, last[running]]
        for step in range(self.config.rollout_length - self.kept_steps):
            if not len(running):
                break
            before = [states[row] for row in running]
            if step:
                log_prior = ask_prior(self.environment, before)
            action = sample(np.exp(log_prior), actions[running, step])
            uniforms = chance[running, step] if self.stochastic else None
            transitions = take_step(self.environment, before, action, uniforms)
            for row, transition in zip(running, transitions, strict=True):
                states[row] = transition.state
                rewards[row].append(transition.reward)
            running = running[[not transition.ended for transition in transitions]]
        ends = zip(rewards, states, strict=True)
        returns = np.array([self.environment.trajectory_return(earned, state) for earned, state in ends], float)
        check_finite("return", returns)
        return returns

    def _act(self, rows: Ints, nodes: Ints, actions: Ints, chance: Floats) -> Ints:
        """The nodes that actions lead to, in different trees, by way of chance nodes in a stochastic world."""
        reached = self._follow(rows, nodes, actions)
        return self._follow(rows, reached, self._draw(rows, reached, chance)) if self.stochastic else reached

    def _follow(self, rows: Ints, nodes: Ints, numbers: Ints) -> Ints:
        """The children of nodes in different trees by their numbers; those that are not there yet are made."""
        found = self._known(rows, nodes, numbers)
        new = found < 0
        if not new.any():
            return found
        rows, nodes, numbers = rows[new], nodes[new], numbers[new]
        before = self._states_at(rows, nodes)
        made = self.size[rows]
        # Chance moves at all of these nodes or at none of them.
        outcome = bool(self.chance[rows[0], nodes[0]])
        if outcome:
            transitions = [self.outcomes[row, node][number] for row, node, number in _keys(rows, nodes, numbers)]
            self.log_chance[rows, made] = np.log([transition.probability for transition in transitions])
        elif self.stochastic:
            self.outcomes.update(zip(_keys(rows, made), ask_outcomes(self.environment, before, numbers), strict=True))
            transitions = [Transition(state, 0.0, False) for state in before]
            self.chance[rows, made] = True
        else:
            transitions = take_step(self.environment, before, numbers)
        self.size[rows] += 1
        self.parent[rows, made] = nodes
        self.action[rows, made] = -1 if outcome else numbers
        self.reward[rows, made] = [transition.reward for transition in transitions]
        self.ended[rows, made] = [transition.ended for transition in transitions]
        for row, transition in zip(rows.tolist(), transitions, strict=True):
            self.states[row].append(transition.state)
        if self.stochastic or self.kept_steps:
            self.below.update(zip(_keys(rows, nodes, numbers), made.tolist(), strict=True))
        found[new] = made
        return found

    def _known(self, rows: Ints, nodes: Ints, numbers: Ints) -> Ints:
        """The children of nodes by their numbers, −1 where there is none yet."""
        if not self.below:
            return np.full(len(rows), -1)
        return np.array([self.below.get(key, -1) for key in _keys(rows, nodes, numbers)], np.int64)

    def _draw(self, rows: Ints, nodes: Ints, uniforms: Floats) -> Ints:
        """The numbers of the outcomes drawn at chance nodes."""
        outcomes = [self.outcomes[key] for key in _keys(rows, nodes)]
        return np.array([draw(some, uniform) for some, uniform in zip(outcomes, uniforms, strict=True)], np.int64)

    def _is_expanded(self, rows: Ints, nodes: Ints) -> NDArray[np.bool_]:
        return np.asarray(self.expanded_at[rows, nodes] < self.config.simulations)

    def _states_at(self, rows: Ints, nodes: Ints) -> list[State]:
        return [self.states[row][node] for row, node in _keys(rows, nodes)]

    def _ask_prior(self, rows: Ints, nodes: Ints) -> None:
        """Ask the prior at nodes that go on, where it is not known yet."""
        asked = ~self.ended[rows, nodes] & np.isnan(self.log_prior[rows, nodes, 0])
        if asked.any():
            rows, nodes = rows[asked], nodes[asked]
            self.log_prior[rows, nodes] = ask_prior(self.environment, self._states_at(rows, nodes))

    def flatten(self) -> SearchTree[State]:
        """The trees one behind the other, without the empty slots: the expanded nodes as the search expanded them, then
        those of rollouts as they were made."""
        # Parents stand before children: the sort is stable, and a node is made and expanded after its parent.
        order = np.argsort(self.expanded_at, axis=1, kind="stable")
        place = np.argsort(order, axis=1)
        tree = np.repeat(self.rows, self.size)
        # Empty slots were never expanded and come last in their row.
        node = order[np.arange(order.shape[1]) < self.size[:, None]]
        start = (np.cumsum(self.size) - self.size)[tree]
        parent = self.parent[tree, node]
        names = ("action", "reward", "visits", "log_prior", "ended", "chance", "log_chance")
        return SearchTree(
            forest=Forest.from_parents(torch.from_numpy(np.where(parent < 0, -1, place[tree, parent] + start))),
            states=tuple(self._states_at(tree, node)),
            value=torch.from_numpy(self.total_return[tree, node] / self.visits[tree, node]),
            expanded=torch.from_numpy(self._is_expanded(tree, node)),
            **{name: torch.from_numpy(getattr(self, name)[tree, node]) for name in names},
        )


def _keys(*columns: Ints) -> "zip[tuple[int, ...]]":
    return zip(*(column.tolist() for column in columns), strict=True)
