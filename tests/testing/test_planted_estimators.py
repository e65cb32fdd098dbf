"""A small estimator with one planted fault each, and samplers that are off: both are found."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from benchmarks.mutants.estimators import FAULTS, GRID, FlowDetached, Linear
from gflowdial.testing import check_estimator, check_policy_matches


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
