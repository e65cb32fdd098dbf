"""A small grid with one planted fault each."""

from typing import ClassVar

import torch
from torch import Tensor

SIDE = 3


class Grid:
    """Two counters below `SIDE` and a flag: actions 0 and 1 count up, action 2 stops. Two conditions, in a column."""

    num_actions = 3
    num_features = 4
    conditions: ClassVar[int] = 2

    @property
    def initial_states(self) -> Tensor:
        return torch.tensor([[c, 0, 0, 0] for c in range(self.conditions)])

    def features(self, states: Tensor) -> Tensor:
        return states.float()

    def forward_mask(self, states: Tensor) -> Tensor:
        goes_on = states[:, 3:] == 0
        return torch.cat([(states[:, 1:3] < SIDE - 1) & goes_on, goes_on], 1)

    def backward_mask(self, states: Tensor) -> Tensor:
        stopped = states[:, 3:] == 1
        return torch.cat([(states[:, 1:3] > 0) & ~stopped, stopped], 1)

    def step(self, states: Tensor, actions: Tensor) -> Tensor:
        return states + torch.nn.functional.one_hot(actions + 1, 4)

    def step_back(self, states: Tensor, actions: Tensor) -> Tensor:
        return states - torch.nn.functional.one_hot(actions + 1, 4)

    def log_reward(self, states: Tensor) -> Tensor:
        return -states.double().sum(1)


class ForwardMaskLies(Grid):
    """It allows one step beyond the edge."""

    def forward_mask(self, states: Tensor) -> Tensor:
        mask = super().forward_mask(states)
        mask[:, 1] = (states[:, 2] < SIDE) & (states[:, 3] == 0)
        return mask

    def backward_mask(self, states: Tensor) -> Tensor:
        mask = super().backward_mask(states)
        return mask & (states[:, 1:3] < SIDE).all(1, keepdim=True)


class BackwardMaskLies(Grid):
    """It allows to count down from 0."""

    def backward_mask(self, states: Tensor) -> Tensor:
        mask = super().backward_mask(states)
        mask[:, 1] |= (states[:, 1] == 1) & (states[:, 2] == 0) & (states[:, 3] == 0)
        return mask


class BackwardMaskForgets(Grid):
    """It forgets that the second counter can be taken back."""

    def backward_mask(self, states: Tensor) -> Tensor:
        mask = super().backward_mask(states)
        mask[:, 1] &= states[:, 1] == 0
        return mask


class StepBackIgnoresTheAction(Grid):
    def step_back(self, states: Tensor, actions: Tensor) -> Tensor:
        back = super().step_back(states, torch.where(actions == 2, actions, 0))
        return torch.where((actions == 2)[:, None], back, back.clamp(min=0))


class StepFlipsItsSign(Grid):
    def step_back(self, states: Tensor, actions: Tensor) -> Tensor:
        return self.step(states, actions)


class StepInPlace(Grid):
    def step(self, states: Tensor, actions: Tensor) -> Tensor:
        states[torch.arange(len(states)), actions + 1] += 1
        return states


class RewardInPlace(Grid):
    def log_reward(self, states: Tensor) -> Tensor:
        states[:, 3] = 0
        return super().log_reward(states)


class RewardIsNaNSomewhere(Grid):
    def log_reward(self, states: Tensor) -> Tensor:
        reward = super().log_reward(states)
        return torch.where((states[:, 1] == 1) & (states[:, 2] == 2), torch.nan, reward)


class RewardOfZero(Grid):
    def log_reward(self, states: Tensor) -> Tensor:
        return states[:, 1].double().log()


class RewardNormalisedOverTheBatch(Grid):
    def log_reward(self, states: Tensor) -> Tensor:
        return super().log_reward(states).log_softmax(0)


class RewardInTheWrongShape(Grid):
    def log_reward(self, states: Tensor) -> Tensor:
        return super().log_reward(states)[:, None]


class FeaturesCentredOverTheBatch(Grid):
    def features(self, states: Tensor) -> Tensor:
        return states.float() - states.float().mean(0)


class FeaturesAreNoNumbers(Grid):
    def features(self, states: Tensor) -> Tensor:
        return 1 / (states[:, :4].float() - 2)


class TerminalStateHasAnAction(Grid):
    """A stopped state may stop again, and stays as it is."""

    def forward_mask(self, states: Tensor) -> Tensor:
        mask = super().forward_mask(states)
        mask[:, 2] = True
        return mask

    def step(self, states: Tensor, actions: Tensor) -> Tensor:
        return super().step(states, actions).clamp(max=torch.tensor([9, 9, 9, 1]))


class StopCannotBeReached(Grid):
    """Counters that never end, and no stop."""

    def forward_mask(self, states: Tensor) -> Tensor:
        mask = torch.ones(len(states), 3, dtype=torch.bool)
        mask[:, 2] = False
        return mask


class GoesRoundInACircle(Grid):
    """Once the first counter has moved, the second starts again at 0 after its last; both masks agree on that."""

    def forward_mask(self, states: Tensor) -> Tensor:
        mask = super().forward_mask(states)
        mask[:, 1] = (states[:, 1] > 0) & (states[:, 3] == 0)
        return mask

    def backward_mask(self, states: Tensor) -> Tensor:
        mask = super().backward_mask(states)
        mask[:, 0] &= (states[:, 1] > 1) | (states[:, 2] == 0)
        mask[:, 1] = (states[:, 1] > 0) & (states[:, 3] == 0)
        return mask

    def step(self, states: Tensor, actions: Tensor) -> Tensor:
        return super().step(states, actions) % torch.tensor([9, 9, SIDE, 2])

    def step_back(self, states: Tensor, actions: Tensor) -> Tensor:
        return super().step_back(states, actions) % torch.tensor([9, 9, SIDE, 2])


class ConditionsShareStates(Grid):
    """The first step forgets the condition."""

    def step(self, states: Tensor, actions: Tensor) -> Tensor:
        return super().step(states, actions) * torch.tensor([0, 1, 1, 1])


class StartsTwice(Grid):
    @property
    def initial_states(self) -> Tensor:
        return torch.zeros(2, 4, dtype=torch.int64)


class StartsUnderWay(Grid):
    @property
    def initial_states(self) -> Tensor:
        return torch.tensor([[0, 1, 0, 0]])


class StepsAtRandom(Grid):
    def __init__(self) -> None:
        self.calls = 0

    def log_reward(self, states: Tensor) -> Tensor:
        self.calls += 1
        return super().log_reward(states) + self.calls


class LooksAtItsNeighbour(Grid):
    """The mask of a row is that of the row before, where there is one in the same place."""

    def backward_mask(self, states: Tensor) -> Tensor:
        mask = super().backward_mask(states)
        first = states[:1].expand_as(states)
        return torch.where((states[:, 3:] == 1) & (first[:, 3:] == 1), mask.roll(1, 1), mask)


class StatesInFloats(Grid):
    def step(self, states: Tensor, actions: Tensor) -> Tensor:
        return super().step(states, actions).double()


FAULTS = {
    ForwardMaskLies: "masks disagree",
    BackwardMaskLies: "step_back leaves the environment",
    BackwardMaskForgets: "masks disagree",
    StepBackIgnoresTheAction: "step_back does not undo step",
    StepFlipsItsSign: "step_back does not undo step",
    StepInPlace: "step changes its argument in place",
    RewardInPlace: "log_reward changes its argument in place",
    RewardIsNaNSomewhere: "log_reward is nan at the end",
    RewardOfZero: "log_reward is -inf at the end",
    RewardNormalisedOverTheBatch: "rows are not independent: log_reward",
    RewardInTheWrongShape: "log_reward answers shape",
    FeaturesCentredOverTheBatch: "rows are not independent: features",
    FeaturesAreNoNumbers: "features are not finite",
    TerminalStateHasAnAction: "step_back does not undo step",
    StopCannotBeReached: "no end: a walk",
    GoesRoundInACircle: "actions lead round in a circle",
    ConditionsShareStates: "follows two initial states",
    StartsTwice: "twice",
    StartsUnderWay: "the initial state [0, 1, 0, 0] has a backward action",
    StepsAtRandom: "log_reward answers differently when asked again",
    LooksAtItsNeighbour: "rows are not independent: backward_mask",
    StatesInFloats: "step answers torch.float64 where torch.int64 is due",
}


class OwnBuffer(Grid):
    """`step` writes every answer into the same memory."""

    def __init__(self) -> None:
        self.buffer = torch.zeros(4096, 4, dtype=torch.int64)

    def step(self, states: Tensor, actions: Tensor) -> Tensor:
        self.buffer[: len(states)] = super().step(states, actions)
        return self.buffer[: len(states)]


class MaskBuffer(Grid):
    def __init__(self) -> None:
        self.buffer = torch.zeros(4096, 3, dtype=torch.bool)

    def forward_mask(self, states: Tensor) -> Tensor:
        self.buffer[: len(states)] = super().forward_mask(states)
        return self.buffer[: len(states)]


class ForgetsACounter(Grid):
    def features(self, states: Tensor) -> Tensor:
        return states.float() * torch.tensor([1.0, 1.0, 0.0, 1.0])


class ForgetsTheCondition(Grid):
    def features(self, states: Tensor) -> Tensor:
        return states.float() * torch.tensor([0.0, 1.0, 1.0, 1.0])


class FeaturesAreASum(Grid):
    def features(self, states: Tensor) -> Tensor:
        return states.float() @ torch.tensor([[1.0, 0, 0, 1], [0, 1, 0, 0], [0, 2, 0, 0], [0, 0, 1, 0]]) % 4

    def log_reward(self, states: Tensor) -> Tensor:
        return 2.0 * (states[:, 1] == 2) - states[:, 2]


class FeaturesInIntegers(Grid):
    def features(self, states: Tensor) -> Tensor:
        return states


class MaskInIntegers(Grid):
    def forward_mask(self, states: Tensor) -> Tensor:
        return super().forward_mask(states).long()


class MaskOfTheFirstRow(Grid):
    def forward_mask(self, states: Tensor) -> Tensor:
        mask = super().forward_mask(states)
        mask[:, 0] &= mask[0, 0] | (states[:, 1] < SIDE - 1)
        return torch.where((torch.arange(len(states)) % 7 == 6)[:, None] & mask[:, 2:], mask.roll(1, 0) & mask, mask)


class TooManyFeatures(Grid):
    num_features = 5


class RewardIsHuge(Grid):
    def log_reward(self, states: Tensor) -> Tensor:
        return (100.0 * states.double().sum(1)).exp() ** 4


class RewardRanked(Grid):
    """The reward of a state is its rank in the batch."""

    def log_reward(self, states: Tensor) -> Tensor:
        return super().log_reward(states).argsort().argsort().double()


class StepSorts(Grid):
    """States are answered in another order."""

    def step(self, states: Tensor, actions: Tensor) -> Tensor:
        after = super().step(states, actions)
        return after[after.sum(1).argsort(stable=True)]


class NoAnswer(Grid):
    def features(self, states: Tensor) -> Tensor:
        return states.float().numpy()  # type: ignore[return-value]


class TwoWaysUndoAsOne(Grid):
    """The actions that count up are exchanged on the way back."""

    def step_back(self, states: Tensor, actions: Tensor) -> Tensor:
        return super().step_back(states, torch.where(actions == 2, 2, 1 - actions))


MORE_FAULTS = (
    OwnBuffer,
    MaskBuffer,
    ForgetsACounter,
    ForgetsTheCondition,
    FeaturesAreASum,
    FeaturesInIntegers,
    MaskInIntegers,
    TooManyFeatures,
    RewardIsHuge,
    RewardRanked,
    StepSorts,
    NoAnswer,
    TwoWaysUndoAsOne,
)
