"""Any environment, with an action more that ends it in any state."""

from collections.abc import Callable

import torch

from gflowdial.envs.environment import Environment
from gflowdial.shapes import Bool, Float, Int, Tensor


class StopAnywhere:
    """The objects under way become ends too: every state of ``environment`` may stop, and its last ones must.

    A state is that of ``environment`` and a flag that is 1 once stopped; the last action stops. So the losses for
    states that may all end (modified detailed balance, arXiv 2202.13903) apply to any environment.

    Args:
        environment: what is built.
        log_reward: log R of each of its states, ``[states, width] -> [states]``; without it ``environment.log_reward``,
            which must then know unfinished ones (that of `SetBuilding` does).
    """

    def __init__(self, environment: Environment, log_reward: Callable[[Tensor], Tensor] | None = None) -> None:
        self.environment = environment
        self._log_reward = log_reward or environment.log_reward
        self.stop_action = environment.num_actions
        self.num_actions = environment.num_actions + 1
        self.num_features = environment.num_features + 1
        self.initial_states = torch.nn.functional.pad(environment.initial_states, (0, 1))

    def features(self, states: Int[Tensor, "states width"]) -> Float[Tensor, "states features"]:
        """Those of ``environment``, and the flag."""
        return torch.cat([self.environment.features(states[:, :-1]), states[:, -1:]], 1)

    def forward_mask(self, states: Int[Tensor, "states width"]) -> Bool[Tensor, "states actions"]:
        going = states[:, -1:] == 0
        return torch.cat([self.environment.forward_mask(states[:, :-1]) & going, going], 1)

    def backward_mask(self, states: Int[Tensor, "states width"]) -> Bool[Tensor, "states actions"]:
        stopped = states[:, -1:] == 1
        return torch.cat([self.environment.backward_mask(states[:, :-1]) & ~stopped, stopped], 1)

    def step(self, states: Int[Tensor, "states width"], actions: Int[Tensor, " states"]) -> Int[Tensor, "states width"]:
        return self._move(self.environment.step, states, actions, 1)

    def step_back(
        self, states: Int[Tensor, "states width"], actions: Int[Tensor, " states"]
    ) -> Int[Tensor, "states width"]:
        return self._move(self.environment.step_back, states, actions, 0)

    def log_reward(self, states: Int[Tensor, "states width"]) -> Float[Tensor, " states"]:
        """log R of any state, stopped or not."""
        return self._log_reward(states[:, :-1])

    def _move(self, move: Callable[[Tensor, Tensor], Tensor], states: Tensor, actions: Tensor, flag: int) -> Tensor:
        moved = states.clone()
        stops = actions == self.stop_action
        moved[stops, -1] = flag
        moved[~stops, :-1] = move(states[~stops, :-1], actions[~stops])
        return moved
