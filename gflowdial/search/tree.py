"""The search tree: what a search returns, what a file holds and what a policy learns from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic

import torch

from gflowdial.forest import Forest
from gflowdial.numerics import precise_dtype
from gflowdial.search.environment import State
from gflowdial.shapes import Bool, Float, Int, Tensor


@dataclass(frozen=True, eq=False)
class SearchTree(Generic[State]):
    """One tree or many: states, what led to them, and what was found out about them.

    Trees are contiguous, one per root and in the roots' order; the expanded nodes of a tree are in the order of their
    expansion, those of rollouts in creation order behind them. Returns, rewards and values are in the environment's own
    unit, float64.

    Attributes:
        forest: the shape of the trees.
        states: the state at each node.
        action: ``[nodes]`` the action that led into the node; −1 at a root and at an outcome of chance.
        reward: ``[nodes]`` what the turn on the edge into the node earned; 0 at a root and at a chance node.
        visits: ``[nodes]`` how many simulations passed through the node, N(s,a) of the edge into it; at an expanded
            node, since its expansion.
        value: ``[nodes]`` Q(s,a) of the edge into the node, the mean return of the simulations through it; at a root
            the mean of all, at a leaf the mean return G of what was simulated from it.
        log_prior: ``[nodes, actions]`` normalised log-probabilities of the prior policy, -inf at a forbidden action;
            NaN in every entry of a node for which it was not asked.
        ended: ``[nodes]`` whether the episode is over at the node.
        expanded: ``[nodes]`` false at a node that a rollout passed and the search did not expand.
        chance: ``[nodes]`` whether the environment moves at the node, not the policy; its state is the state before.
        log_chance: ``[nodes]`` log-probability of the outcome of chance that led into the node; 0 elsewhere.
    """

    forest: Forest
    states: tuple[State, ...]
    action: Int[Tensor, " nodes"]
    reward: Float[Tensor, " nodes"]
    visits: Int[Tensor, " nodes"]
    value: Float[Tensor, " nodes"]
    log_prior: Float[Tensor, "nodes actions"]
    ended: Bool[Tensor, " nodes"]
    expanded: Bool[Tensor, " nodes"]
    chance: Bool[Tensor, " nodes"]
    log_chance: Float[Tensor, " nodes"]

    @property
    def num_actions(self) -> int:
        """How many actions there are, A."""
        return self.log_prior.shape[1]

    @property
    def leaf_return(self) -> Float[Tensor, " leaves"]:
        """The mean return G of what was simulated from each leaf."""
        return self.value[self.forest.leaves]

    @staticmethod
    def begin(states: Sequence[State], num_actions: int) -> "SearchTree[State]":
        """Trees of one node each, from which `grow` goes on; nothing was simulated from them."""
        size = len(states)
        return SearchTree(
            forest=Forest.from_parents(torch.full((size,), -1)),
            states=tuple(states),
            action=torch.full((size,), -1),
            reward=torch.zeros(size, dtype=torch.float64),
            visits=torch.zeros(size, dtype=torch.int64),
            value=torch.zeros(size, dtype=torch.float64),
            log_prior=torch.full((size, num_actions), torch.nan, dtype=torch.float64),
            ended=torch.zeros(size, dtype=torch.bool),
            expanded=torch.ones(size, dtype=torch.bool),
            chance=torch.zeros(size, dtype=torch.bool),
            log_chance=torch.zeros(size, dtype=torch.float64),
        )

    @staticmethod
    def merge(trees: "Sequence[SearchTree[State]]") -> "SearchTree[State]":
        """All trees in one, one behind the other.

        Raises:
            ValueError: there are none, or their numbers of actions differ.
        """
        if not trees:
            raise ValueError("there are no trees to merge")
        if len({tree.num_actions for tree in trees}) > 1:
            raise ValueError(f"the trees have {sorted({tree.num_actions for tree in trees})} actions: merge equal ones")
        if len(trees) == 1:
            # What its forest has derived is kept with it.
            return trees[0]
        return SearchTree(
            forest=Forest.concatenate([tree.forest for tree in trees]),
            states=tuple(state for tree in trees for state in tree.states),
            **{name: torch.cat([getattr(tree, name) for tree in trees]) for name in _PER_NODE},
        )

    def split(self) -> "list[SearchTree[State]]":
        """Each tree by itself, in the order of the roots."""
        return [self._part(part.forest, part.nodes) for part in self.forest.split()]

    def select(self, nodes: Bool[Tensor, " nodes"]) -> "SearchTree[State]":
        """The trees without the nodes that ``nodes`` leaves out, and without what is below them.

        Raises:
            ValueError: nothing is left.
        """
        left_out = (~nodes).to(precise_dtype(self.forest.device))
        kept = self.forest.ancestor_filter(left_out) + left_out == 0
        if not bool(kept.any()):
            raise ValueError("the selection leaves no root: select a root at least, of which a tree is left")
        index = kept.nonzero().squeeze(1)
        position = kept.long().cumsum(0) - 1
        above = self.forest.parent[index]
        return self._part(Forest.from_parents(above.where(above < 0, position[above])), index)

    def root_visits(self) -> Int[Tensor, "trees actions"]:
        """How often each action was taken at each root, N(root, a); 0 for an action never tried."""
        return self._at_roots(self.visits, 0.0)

    def root_policy(self) -> Float[Tensor, "trees actions"]:
        """The visit distribution of each root, N(root, a) / Σ_b N(root, b)."""
        visits = self.root_visits().double()
        return visits / visits.sum(dim=1, keepdim=True)

    def best_actions(self) -> Int[Tensor, " trees"]:
        """The action to take at each root: the most visited, among equals the one of higher value."""
        visits = self.root_visits()
        value = self._at_roots(self.value, -torch.inf)
        most_visited = visits == visits.amax(dim=1, keepdim=True)
        return value.masked_fill(~most_visited, -torch.inf).argmax(dim=1)

    def _at_roots(self, x: Tensor, missing: float) -> Tensor:
        """``x [nodes]`` of the roots' expanded children by tree and action; ``missing`` where there is no child."""
        children = ((self.forest.depth == 1) & self.expanded).nonzero().squeeze(1)
        table = x.new_full((self.forest.num_trees, self.num_actions), missing)
        table[self.forest.tree[children], self.action[children]] = x[children]
        return table

    def _part(self, forest: Forest, nodes: Int[Tensor, " part"]) -> "SearchTree[State]":
        return SearchTree(
            forest=forest,
            states=tuple(self.states[node] for node in nodes.tolist()),
            **{name: getattr(self, name)[nodes] for name in _PER_NODE},
        )


_PER_NODE = ("action", "reward", "visits", "value", "log_prior", "ended", "expanded", "chance", "log_chance")
