"""Unusual environments without a fault."""

from typing import ClassVar

import torch
from torch import Tensor

from benchmarks.mutants.environments import SIDE, Grid


class SymmetricFeatures(Grid):
    """Both counters are alike to the reward, and a network reads which is how far by sorting; the actions are not told
    apart by it, which asks for a policy that is alike on both."""

    conditions: ClassVar[int] = 1

    def features(self, states: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(states[:, 1] * SIDE + states[:, 2], SIDE * SIDE)[:, :4].float() + (
            10.0 * states.float()
        )


class KeepsAnswers(Grid):
    """Features are remembered and given again."""

    def __init__(self) -> None:
        self.known: dict[tuple[tuple[int, ...], ...], Tensor] = {}

    def features(self, states: Tensor) -> Tensor:
        key = tuple(tuple(row) for row in states.tolist())
        if key not in self.known:
            self.known[key] = states.float()
        return self.known[key]


class EndsAlike(Grid):
    """Stopped states look like those they stopped in: their actions are known without features."""

    def features(self, states: Tensor) -> Tensor:
        return states.float() * torch.tensor([1.0, 1.0, 1.0, 0.0])


class RewardInFloat32(Grid):
    def log_reward(self, states: Tensor) -> Tensor:
        return -states.float().sum(1) / 3


class VerySmallRewards(Grid):
    def log_reward(self, states: Tensor) -> Tensor:
        return -1e4 - states.double().sum(1)


class InferenceTensors(Grid):
    @torch.inference_mode()
    def log_reward(self, states: Tensor) -> Tensor:
        return super().log_reward(states)


class Bits:
    """64 bits of one integer, set from the lowest up, or left as they are; the last is the sign."""

    num_actions, num_features, length = 2, 8, 6
    initial_states = torch.zeros(1, 2, dtype=torch.int64)
    places: ClassVar[list[int]] = [0, 1, 31, 32, 62, 63]

    def bit(self, at: Tensor) -> Tensor:
        return torch.ones_like(at) << torch.tensor([*self.places, 0])[at]

    def features(self, states: Tensor) -> Tensor:
        at = torch.arange(self.length).expand(len(states), -1)
        bits = (states[:, :1] & self.bit(at)) != 0
        return torch.cat([bits.float(), states[:, 1:].float(), 0 * states[:, 1:].float()], 1)

    def forward_mask(self, states: Tensor) -> Tensor:
        return (states[:, 1:] < self.length).expand(-1, 2).clone()

    def backward_mask(self, states: Tensor) -> Tensor:
        last = self.bit((states[:, 1] - 1).clamp(min=0))
        was_set = (states[:, 0] & last) != 0
        return torch.stack([~was_set, was_set], 1) & (states[:, 1:] > 0)

    def step(self, states: Tensor, actions: Tensor) -> Tensor:
        return torch.stack([states[:, 0] | torch.where(actions == 1, self.bit(states[:, 1]), 0), states[:, 1] + 1], 1)

    def step_back(self, states: Tensor, actions: Tensor) -> Tensor:
        last = self.bit((states[:, 1] - 1).clamp(min=0))
        return torch.stack([states[:, 0] & ~torch.where(actions == 1, last, 0), states[:, 1] - 1], 1)

    def log_reward(self, states: Tensor) -> Tensor:
        return ((states[:, :1] & self.bit(torch.arange(6).expand(len(states), -1))) != 0).double().sum(1)


SOUND = (SymmetricFeatures, KeepsAnswers, EndsAlike, RewardInFloat32, VerySmallRewards, InferenceTensors, Bits)
