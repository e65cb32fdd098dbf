"""Samples against exact probabilities, by a test that never cries wolf more often than it says."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from gflowdial.shapes import Float, Int, Tensor
from gflowdial.testing.broken import BrokenLawError


@dataclass(frozen=True)
class PolicyMatch:
    """A test that was passed, and what it would have caught.

    Attributes:
        draws: how many samples were compared.
        divergence: KL of the sampled frequencies to the exact probabilities, in nats.
        bound: what it had to stay below.
        detectable: the power: a policy further than this from the exact probabilities in total variation fails with
            probability at least ``1 - error_probability``. 1 or more says that there are too few draws to tell.
    """

    draws: int
    divergence: float
    bound: float
    detectable: float


def check_policy_matches(
    samples: Int[Tensor, " draws"] | Callable[[int], Int[Tensor, " draws"]],
    log_probabilities: Float[Tensor, " outcomes"],
    *,
    error_probability: float = 1e-6,
    distance: float = 0.05,
) -> PolicyMatch:
    """Check that samples come from a known distribution.

    Two tests share the error probability α, and neither relies on large numbers. With n draws over K outcomes:

    - all outcomes together: under the exact distribution, n·KL(frequencies ‖ exact) exceeds t > K-1 with probability
      at most ``exp(-t) · (e·t / (K-1))^(K-1)`` (Agrawal, arXiv 1904.02291); t is chosen to make that α/2;
    - each outcome alone, by Chernoff's bound: n·kl(frequency ‖ probability) exceeds ``log(4K / α)`` for any of them
      with probability at most α/2.

    So a correct sampler fails with probability at most α, whatever n. A wrong one at total variation d fails with
    probability at least 1-α once d reaches ``√(t / 2n) + √(K / 4n) + √(log(1/α) / 2n)``, by the inequalities of Pinsker
    and McDiarmid; `PolicyMatch.detectable` is that distance.

    Args:
        samples: the index of the outcome of each draw, independent of one another; or a sampler, which is asked once
            for as many draws as it takes to tell policies at ``distance``.
        log_probabilities: exact, normalised; -inf where an outcome cannot be.
        error_probability: α, in (0, 1).
        distance: the total variation that a sampler's draws must be able to tell; not read where samples are given.

    Returns:
        The figures of the passed test.

    Raises:
        AssertionError: if the samples do not fit; with the outcomes that are furthest off.
        ValueError: if the probabilities do not sum to 1, a sample is no index of an outcome, or an option is out of
            range.
    """
    if not 0 < error_probability < 1:
        raise ValueError(f"error_probability must lie in (0, 1); got {error_probability}.")
    exact = log_probabilities.detach().double().cpu()
    outcomes = len(exact)
    total = float(exact.exp().sum())
    if not abs(total - 1) < 1e-4:
        raise ValueError(f"log_probabilities must be normalised; their probabilities sum to {total:.6g}.")
    exact = exact - exact.logsumexp(0)
    bound = _divergence_bound(outcomes, error_probability)
    if callable(samples):
        if not 0 < distance < 1:
            raise ValueError(f"distance must lie in (0, 1); got {distance}.")
        samples = samples(math.ceil((_detectable(bound, outcomes, 1, error_probability) / distance) ** 2))
    if samples.ndim != 1 or samples.is_floating_point() or not len(samples):
        raise ValueError(f"samples must be a vector of outcome indices; got {samples.dtype} {list(samples.shape)}.")
    if int(samples.min()) < 0 or int(samples.max()) >= outcomes:
        raise ValueError(
            f"samples must be outcome indices below {outcomes}; got {int(samples.min())} to {int(samples.max())}."
        )
    draws = len(samples)
    count = torch.bincount(samples.cpu(), minlength=outcomes).double()
    frequency = count / draws
    divergence = float(_relative_entropy(frequency, exact).sum())
    alone = _relative_entropy(frequency, exact) + _relative_entropy(
        1 - frequency, torch.log1p(-exact.exp().clamp(max=1.0))
    )
    limit = math.log(4 * outcomes / error_probability)
    detectable = _detectable(bound, outcomes, draws, error_probability)
    if draws * divergence > bound or bool((draws * alone > limit).any()):
        worst = alone.argsort(descending=True)[:3].tolist()
        listed = "; ".join(
            f"outcome {i} came {int(count[i])} times, {draws * math.exp(exact[i]):.4g} expected" for i in worst
        )
        raise BrokenLawError(
            f"samples do not match the exact probabilities (a correct sampler fails with probability at most "
            f"{error_probability:g}): of {draws} draws, {listed}. draws · KL = {draws * divergence:.4g}, bound "
            f"{bound:.4g}."
        )
    return PolicyMatch(draws, divergence, bound / draws, detectable)


def _relative_entropy(p: Tensor, log_q: Tensor) -> Tensor:
    """``p log(p/q)`` of each entry; 0 where p is 0, infinite where q alone is."""
    return torch.where(p > 0, p * (torch.where(p > 0, p, 1.0).log() - log_q), 0.0)


def _divergence_bound(outcomes: int, error_probability: float) -> float:
    """The t > K-1 at which ``exp(-t) · (e·t / (K-1))^(K-1)`` is half the error probability."""
    freedom = max(1, outcomes - 1)
    wanted = math.log(error_probability / 2)

    def log_tail(t: float) -> float:
        return -t + freedom * (1 + math.log(t / freedom))

    low, high = float(freedom), 2.0 * freedom
    while log_tail(high) > wanted:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if log_tail(middle) > wanted else (low, middle)
    return high


def _detectable(bound: float, outcomes: int, draws: int, error_probability: float) -> float:
    return (
        math.sqrt(bound / (2 * draws))
        + math.sqrt(outcomes / (4 * draws))
        + math.sqrt(math.log(1 / error_probability) / (2 * draws))
    )
