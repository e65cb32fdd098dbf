"""The perfect tree: every node above the leaves has the same number of children."""

import torch

from gflowdial.numerics import check_finite
from gflowdial.shapes import Bool, Float, Int, Tensor


class PerfectTree:
    """Choose one of ``branching`` ways, until the tree ends.

    A state is the number of a node, counted from 0 at the root level by level, so that the children of n are
    ``n·b + 1`` to ``n·b + b``; action a leads to child a. A policy on it is free at every node, which makes it the
    plainest test of a loss.

    Args:
        branching: children of a node, b, 2 or more.
        log_reward: log R of each leaf, from left to right; their number is ``b^depth``. `torch.randn` will do.
        device: where states live.

    Raises:
        ValueError: if the number of rewards is no power of ``branching``, or a reward is not finite.
    """

    def __init__(
        self, branching: int, log_reward: Float[Tensor, " leaves"], *, device: torch.device | str = "cpu"
    ) -> None:
        if branching < 2:
            raise ValueError(f"branching must be 2 or more; got {branching}.")
        leaves = 1
        while leaves < len(log_reward):
            leaves *= branching
        if leaves != len(log_reward):
            raise ValueError(f"log_reward must have {branching}^depth entries, one a leaf; got {len(log_reward)}.")
        check_finite("log_reward", log_reward)
        self.num_actions = branching
        self._first_leaf = (leaves - 1) // (branching - 1)
        self.num_features = self._first_leaf + leaves
        self.initial_states = torch.zeros(1, 1, dtype=torch.int64, device=device)
        under_way = torch.full((self._first_leaf,), torch.nan, dtype=torch.float64, device=device)
        self._log_reward = torch.cat([under_way, log_reward.to(under_way)])
        self._nodes = torch.arange(self.num_features, device=device)

    def features(self, states: Int[Tensor, "states width"]) -> Float[Tensor, "states features"]:
        """The node, one-hot."""
        return (states == self._nodes).float()

    def forward_mask(self, states: Int[Tensor, "states width"]) -> Bool[Tensor, "states actions"]:
        return (states < self._first_leaf).expand(-1, self.num_actions)

    def backward_mask(self, states: Int[Tensor, "states width"]) -> Bool[Tensor, "states actions"]:
        return ((states - 1) % self.num_actions == self._nodes[: self.num_actions]) & (states > 0)

    def step(self, states: Int[Tensor, "states width"], actions: Int[Tensor, " states"]) -> Int[Tensor, "states width"]:
        return states * self.num_actions + 1 + actions[:, None]

    def step_back(
        self,
        states: Int[Tensor, "states width"],
        actions: Int[Tensor, " states"],  # noqa: ARG002 (what there is to take back, the state says)
    ) -> Int[Tensor, "states width"]:
        return (states - 1) // self.num_actions

    def log_reward(self, states: Int[Tensor, "states width"]) -> Float[Tensor, " states"]:
        return self._log_reward[states[:, 0]]
