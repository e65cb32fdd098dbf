"""Trajectories of the policy in training, as parts of the trees that it learns from."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Generic

import numpy as np
import torch

from gflowdial.search.environment import AnyEnvironment, State
from gflowdial.search.growth import RolloutPolicy, grow
from gflowdial.search.tree import SearchTree
from gflowdial.shapes import Bool, Tensor


@dataclass(frozen=True)
class Rollouts(Generic[State]):
    """How a trainer lets its trees grow, step by step.

    Attributes:
        environment: the world.
        policy: who acts: the policy in training, read at its present weights.
        number: trajectories per tree and step; with 0 trees do not grow, and are replayed alone.
        seed: of all draws.
        epsilon: the share of uniform exploration; see `gflowdial.search.grow`.
        temperature: of sampling; see `gflowdial.search.grow`.
        replay: how many of the older trajectories of a tree a step looks at again; None: the whole tree.
        priority: β of the replay: half of the probability is even among the leaves of a tree, half in proportion to
            exp(β·G); in units of 1/return. With 0 all is even.
    """

    environment: AnyEnvironment[State]
    policy: RolloutPolicy[State]
    number: int
    seed: int = 0
    epsilon: float = 0.1
    temperature: float = 1.0
    replay: int | None = None
    priority: float = 0.0

    def fresh(self, trees: Sequence[SearchTree[State]], step: int, before: int = 0) -> list[SearchTree[State]]:
        """Trees of the policy's own trajectories alone, from the roots of ``trees``.

        Actions are drawn from the policy as it is, and every node counts as expanded: its visit count is the number of
        trajectories through it.

        Args:
            trees: from whose roots.
            step: the number of the step, which the draws depend on.
            before: how many trees the step has ahead of these, in other batches and processes.
        """
        roots = SearchTree.begin([tree.states[0] for tree in trees], trees[0].num_actions)
        grown = grow(self.environment, roots, self.policy, self.number, self._seeds(len(trees), step, before))
        return [replace(tree, expanded=torch.ones_like(tree.expanded)) for tree in grown.split()]

    def grown(self, trees: Sequence[SearchTree[State]], step: int, before: int = 0) -> list[SearchTree[State]]:
        """``trees`` with further trajectories of the policy; the arguments are those of `fresh`."""
        return grow(
            self.environment,
            SearchTree.merge(trees),
            self.policy,
            self.number,
            self._seeds(len(trees), step, before),
            epsilon=self.epsilon,
            temperature=self.temperature,
        ).split()

    def drawn(self, before: SearchTree[State], after: SearchTree[State], step: int) -> Bool[Tensor, " nodes"]:
        """Which nodes a step looks at of a tree that grew from ``before``: paths to what is new, and to what is
        replayed."""
        if self.replay is None:
            return torch.ones(len(after.states), dtype=torch.bool)
        looked_at = torch.zeros(len(after.states), dtype=torch.float64)
        looked_at[len(before.states) :] = 1
        leaves = after.forest.leaves.numpy()
        old = leaves[leaves < len(before.states)]
        if len(old):
            returns = after.value.numpy()[old]
            preferred = np.exp(self.priority * (returns - returns.max()))
            share = (preferred / preferred.sum() + 1 / len(old)) / 2
            stream = np.random.default_rng([self.seed, step, len(after.states)])
            looked_at[stream.choice(old, min(self.replay, len(old)), replace=False, p=share)] = 1
        return after.forest.subtree_sum(looked_at) > 0

    def _seeds(self, trees: int, step: int, before: int) -> list[int]:
        drawn = np.random.default_rng([self.seed, step]).integers(2**63, size=before + trees)
        return [int(seed) for seed in drawn[before:]]
