"""A small estimator with one planted fault each, and unusual estimators without a fault."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from benchmarks.mutants.environments import Grid
from gflowdial.estimators import FlowEstimates

GRID = Grid()


def masked(scores: Tensor, mask: Tensor) -> Tensor:
    filled = torch.where(mask, scores, torch.finfo(scores.dtype).min)
    return torch.where(mask, filled.log_softmax(1), -torch.inf)


class Linear(nn.Module):
    """P_F, P_B and log F from one linear layer; what faults are planted in."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 7)
        self.z = nn.Parameter(torch.zeros(2))

    def forward(self, states: Tensor) -> FlowEstimates:
        out = self.scores(states)
        return FlowEstimates(
            masked(out[:, :3], GRID.forward_mask(states)), masked(out[:, 3:6], GRID.backward_mask(states)), out[:, 6]
        )

    def scores(self, states: Tensor) -> Tensor:
        out: Tensor = self.layer(GRID.features(states))
        return out

    def forward_policy(self, states: Tensor) -> Tensor:
        estimates: FlowEstimates = self(states)
        return estimates.log_pf

    def backward_policy(self, states: Tensor) -> Tensor:
        estimates: FlowEstimates = self(states)
        return estimates.log_pb

    def log_z(self, condition: Tensor) -> Tensor:
        return self.z[condition]


class SoftmaxBeforeMasking(Linear):
    def forward(self, states: Tensor) -> FlowEstimates:
        log_pf = torch.where(GRID.forward_mask(states), self.scores(states)[:, :3].log_softmax(1), -torch.inf)
        return replace(super().forward(states), log_pf=log_pf)


class MaskForgotten(Linear):
    def forward(self, states: Tensor) -> FlowEstimates:
        return replace(super().forward(states), log_pf=self.scores(states)[:, :3].log_softmax(1))


class MaskOfTheOtherDirection(Linear):
    def forward(self, states: Tensor) -> FlowEstimates:
        return replace(super().forward(states), log_pb=masked(self.scores(states)[:, 3:6], GRID.forward_mask(states)))


class SoftmaxOverTheBatch(Linear):
    def forward(self, states: Tensor) -> FlowEstimates:
        mask = GRID.forward_mask(states)
        filled = torch.where(mask, self.scores(states)[:, :3], -1e9)
        return replace(super().forward(states), log_pf=torch.where(mask, filled.log_softmax(0), -torch.inf))


class NaNInTerminalStates(Linear):
    def forward(self, states: Tensor) -> FlowEstimates:
        scores = self.scores(states)[:, :3].masked_fill(~GRID.forward_mask(states), -torch.inf)
        return replace(super().forward(states), log_pf=scores.log_softmax(1))


class NaNInTheGradient(Linear):
    """-inf added to the scores, and the NaN of terminal states repaired in its value only."""

    def forward(self, states: Tensor) -> FlowEstimates:
        mask = GRID.forward_mask(states)
        scores = self.scores(states)[:, :3] + mask.float().log()
        return replace(super().forward(states), log_pf=torch.where(mask, scores.log_softmax(1), -torch.inf))


class CentredOverTheBatch(Linear):
    def forward(self, states: Tensor) -> FlowEstimates:
        whole = super().forward(states)
        return replace(whole, log_flow=whole.log_flow - whole.log_flow.mean())


class Padded(Linear):
    """Attention over all rows, as when padding is not masked."""

    def scores(self, states: Tensor) -> Tensor:
        features = GRID.features(states)
        out: Tensor = self.layer((features @ features.T).softmax(1) @ features)
        return out


class Detached(Linear):
    def forward(self, states: Tensor) -> FlowEstimates:
        whole = super().forward(states)
        return replace(whole, log_pf=whole.log_pf.detach())


class FlowDetached(Linear):
    def forward(self, states: Tensor) -> FlowEstimates:
        whole = super().forward(states)
        return replace(whole, log_flow=whole.log_flow.detach())


class RandomInEvaluation(Linear):
    def scores(self, states: Tensor) -> Tensor:
        return nn.functional.dropout(super().scores(states), 0.5, training=True)


class FlowIsInfinite(Linear):
    def forward(self, states: Tensor) -> FlowEstimates:
        whole = super().forward(states)
        return replace(whole, log_flow=torch.where(states[:, 3] == 1, -torch.inf, whole.log_flow))


class OneLogZForAll(Linear):
    def log_z(self, condition: Tensor) -> Tensor:  # noqa: ARG002
        return self.z[:1]


class TwoPolicies(Linear):
    """Sampling asks for a tempered policy, training for the other."""

    def forward_policy(self, states: Tensor) -> Tensor:
        return masked(self.scores(states)[:, :3] / 2, GRID.forward_mask(states))


class ChangesStates(Linear):
    def scores(self, states: Tensor) -> Tensor:
        out = super().scores(states)
        states[:, 0] = 0
        return out


FAULTS = {
    SoftmaxBeforeMasking: "log_pf is not normalised",
    MaskForgotten: "log_pf gives something to an action that the forward mask forbids",
    MaskOfTheOtherDirection: "log_pb gives something to an action that the backward mask forbids",
    SoftmaxOverTheBatch: "log_pf is not normalised",
    NaNInTerminalStates: "log_pf is NaN",
    NaNInTheGradient: "the gradient of log_pf by parameter layer.weight is not finite",
    CentredOverTheBatch: "rows are not independent: log_flow",
    Padded: "rows are not independent: log_pf",
    Detached: "no gradient of log_pf",
    FlowDetached: "no gradient of log_flow",
    RandomInEvaluation: "differs when asked again",
    FlowIsInfinite: "log_flow is -inf in state",
    OneLogZForAll: "log_z has shape [1] where [2] is due",
    TwoPolicies: "forward_policy says otherwise than log_pf",
    ChangesStates: "changes the states",
}


class SumsToTwoInBFloat16(Linear):
    def forward(self, states: Tensor) -> FlowEstimates:
        whole = super().forward(states)
        return replace(whole, log_pf=(whole.log_pf + 0.6931).bfloat16())


class SumsToMoreInFloat16(Linear):
    def forward(self, states: Tensor) -> FlowEstimates:
        whole = super().forward(states)
        return replace(whole, log_pf=(1.2 * whole.log_pf).half())


class SlightlyOff(Linear):
    def forward(self, states: Tensor) -> FlowEstimates:
        whole = super().forward(states)
        return replace(whole, log_pf=whole.log_pf + 1e-4)


class LogZOfTheBatch(Linear):
    def log_z(self, condition: Tensor) -> Tensor:
        return self.z[condition] + len(condition)


class PolicyInIntegers(Linear):
    def forward(self, states: Tensor) -> FlowEstimates:
        whole = super().forward(states)
        return replace(whole, log_flow=whole.log_flow[:, None])


class OrderOfRows(Linear):
    """The log-flow leans on how many rows came before."""

    def forward(self, states: Tensor) -> FlowEstimates:
        whole = super().forward(states)
        return replace(whole, log_flow=whole.log_flow + 0.01 * torch.arange(len(states)))


class BackwardSaysOtherwise(Linear):
    def backward_policy(self, states: Tensor) -> Tensor:
        return masked(torch.zeros(len(states), 3), GRID.backward_mask(states))


class GradientOfLogZLost(Linear):
    def log_z(self, condition: Tensor) -> Tensor:
        return self.z.detach()[condition]


MORE_FAULTS = (
    SumsToTwoInBFloat16,
    SumsToMoreInFloat16,
    SlightlyOff,
    LogZOfTheBatch,
    PolicyInIntegers,
    OrderOfRows,
    BackwardSaysOtherwise,
    GradientOfLogZLost,
)


class HalfPrecision(Linear):
    """A network whose policy is in bfloat16."""

    def forward(self, states: Tensor) -> FlowEstimates:
        whole = super().forward(states)
        return replace(whole, log_pf=whole.log_pf.bfloat16())

    def forward_policy(self, states: Tensor) -> Tensor:
        return self(states).log_pf  # type: ignore[no-any-return]


class CastUp(Linear):
    """float32 on the way, float64 at the end."""

    def forward(self, states: Tensor) -> FlowEstimates:
        whole = super().forward(states)
        return FlowEstimates(whole.log_pf.double(), whole.log_pb.double(), whole.log_flow.double())


class LargeScores(Linear):
    def scores(self, states: Tensor) -> Tensor:
        return 50 * super().scores(states)


class WithDropout(Linear):
    """Dropout in training alone."""

    def scores(self, states: Tensor) -> Tensor:
        return nn.functional.dropout(super().scores(states), 0.5, self.training)


class Normalised(Linear):
    def scores(self, states: Tensor) -> Tensor:
        return nn.functional.layer_norm(super().scores(states), (7,))


class OneRowAtATime(Linear):
    def scores(self, states: Tensor) -> Tensor:
        return torch.cat([super(OneRowAtATime, self).scores(row) for row in states[:, None]])


SOUND = (HalfPrecision, CastUp, LargeScores, WithDropout, Normalised, OneRowAtATime)
