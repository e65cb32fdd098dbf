"""A small estimator with one planted fault each, and samplers that are off: both are found."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from test_planted_environments import Grid
from torch import Tensor, nn

from gflowdial.estimators import FlowEstimates
from gflowdial.testing import check_estimator, check_policy_matches

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
        return self.layer(GRID.features(states))

    def forward_policy(self, states: Tensor) -> Tensor:
        return self(states).log_pf

    def backward_policy(self, states: Tensor) -> Tensor:
        return self(states).log_pb

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
        return self.layer((features @ features.T).softmax(1) @ features)


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


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_faults_are_found(fault: type[Linear]) -> None:
    with pytest.raises(AssertionError) as caught:
        check_estimator(fault(), GRID)
    message = str(caught.value)
    assert message.startswith(f"{fault.__name__} breaks a law of estimators (")
    assert FAULTS[fault] in message
    assert len(message) < 400


def test_the_estimator_without_a_fault_is_sound_and_left_in_its_mode() -> None:
    estimator = Linear()
    check_estimator(estimator, GRID, learned=("log_pf", "log_pb", "log_flow", "log_z"))
    assert estimator.training
    assert estimator.layer.training
    check_estimator(FlowDetached(), GRID, learned=("log_pf",))


EXACT = torch.tensor([0.5, 0.25, 0.125, 0.0625, 0.0625]).log()


def sampler(probabilities: Tensor, seed: int = 0) -> Callable[[int], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda draws: torch.multinomial(probabilities, draws, replacement=True, generator=generator)


def test_a_true_sampler_passes_and_says_what_it_would_have_caught() -> None:
    match = check_policy_matches(sampler(EXACT.exp()), EXACT, distance=0.04)
    assert match.detectable <= 0.04
    assert match.divergence <= match.bound
    few = check_policy_matches(sampler(EXACT.exp())(20), EXACT)
    assert few.detectable > 1


def epsilon_left_on(epsilon: float) -> Tensor:
    return (1 - epsilon) * EXACT.exp() + epsilon / 5


@pytest.mark.parametrize(
    "probabilities",
    [
        epsilon_left_on(0.3),
        EXACT.exp().flip(0),
        (0.7 * EXACT).softmax(0),
        torch.tensor([0.5, 0.25, 0.125, 0.125, 0.0]),
    ],
    ids=["ε left on", "reversed", "a temperature", "an outcome never seen"],
)
def test_a_sampler_that_is_off_is_found(probabilities: Tensor) -> None:
    distance = float((probabilities - EXACT.exp()).abs().sum() / 2)
    for seed in range(5):
        with pytest.raises(AssertionError, match="a correct sampler fails with probability at most 1e-06"):
            check_policy_matches(sampler(probabilities, seed), EXACT, distance=distance)


def test_one_draw_of_what_cannot_be_is_enough() -> None:
    impossible = torch.tensor([1.0, 0.0]).log()
    assert check_policy_matches(torch.zeros(10, dtype=torch.int64), impossible).divergence == 0
    with pytest.raises(AssertionError, match="outcome 1 came 1 times, 0 expected"):
        check_policy_matches(torch.tensor([0, 0, 1]), impossible)


@pytest.mark.parametrize("outcomes", [1, 2, 10, 300])
@pytest.mark.parametrize("draws", [3, 50, 2000])
def test_a_true_sampler_fails_no_more_often_than_stated(outcomes: int, draws: int) -> None:
    generator = torch.Generator().manual_seed(outcomes)
    exact = torch.randn(outcomes, generator=generator).double().log_softmax(0)
    failures = 0
    for _ in range(100):
        samples = torch.multinomial(exact.exp(), draws, replacement=True, generator=generator)
        try:
            check_policy_matches(samples, exact, error_probability=0.1)
        except AssertionError:
            failures += 1
    # 22 or more of 100 have a probability below 1e-3 if each fails with probability 0.1.
    assert failures < 22


def test_bad_questions_are_refused() -> None:
    draws = torch.zeros(4, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"probabilities sum to 1\.5"):
        check_policy_matches(draws, torch.tensor([1.0, 0.5]).log())
    with pytest.raises(ValueError, match="below 2; got 0 to 2"):
        check_policy_matches(torch.tensor([0, 2]), torch.tensor([0.5, 0.5]).log())
    with pytest.raises(ValueError, match="error_probability"):
        check_policy_matches(draws, torch.tensor([0.5, 0.5]).log(), error_probability=0.0)
    with pytest.raises(ValueError, match="distance"):
        check_policy_matches(sampler(EXACT.exp()), EXACT, distance=0.0)
