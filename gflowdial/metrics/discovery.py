"""What a set of sampled outcomes has found: modes, high rewards, and how different the best ones are.

Outcomes are rows of integers, as an environment's states are, and two of them differ by the number of entries that are
not equal (the Hamming distance). Give the rows of one condition at a time.
"""

import torch

from gflowdial.numerics import check_finite, check_vector, lifted
from gflowdial.shapes import Bool, Float, Int, Tensor

__all__ = ["modes_found", "top_k", "top_k_diversity", "top_k_log_reward"]


def modes_found(
    samples: Int[Tensor, "samples width"], modes: Int[Tensor, "modes width"], radius: int = 0
) -> Bool[Tensor, " modes"]:
    """Which of the known modes have a sample no more than ``radius`` entries away; count them with ``.sum()``.

    Args:
        samples: what was sampled, repetitions and all.
        modes: where the reward is known to be high.
        radius: how many entries may differ.

    Raises:
        ValueError: if samples and modes are of different widths.

    Source: Malkin et al., arXiv 2201.13259, appendix on bit sequences.
    """
    if samples.shape[1:] != modes.shape[1:]:
        raise ValueError(f"modes must be as wide as samples, {samples.shape[1]} entries; got {modes.shape[1]}.")
    found = [bool(((samples != mode).sum(1) <= radius).any()) for mode in modes]
    return torch.tensor(found, dtype=torch.bool, device=samples.device)


def top_k(samples: Int[Tensor, "samples width"], log_reward: Float[Tensor, " samples"], k: int) -> Int[Tensor, " k"]:
    """The ``k`` distinct samples of the highest reward, the best first, as indices into ``samples``.

    Args:
        samples: what was sampled; of equal rows only the first counts.
        log_reward: log R of each.
        k: how many.

    Raises:
        ValueError: if there are fewer than ``k`` distinct samples, k is below 1, or there is not one finite log R per
            sample.
    """
    check_vector("log_reward", log_reward, len(samples), "sample")
    check_finite("log_reward", log_reward)
    distinct, inverse = torch.unique(samples, dim=0, return_inverse=True)
    if not 1 <= k <= len(distinct):
        raise ValueError(f"k must lie between 1 and the {len(distinct)} distinct samples; got {k}.")
    index = torch.arange(len(samples), device=samples.device)
    first = index.new_full((len(distinct),), len(samples)).scatter_reduce(0, inverse, index, "amin").sort().values
    return first[torch.argsort(log_reward[first], descending=True, stable=True)[:k]]


def top_k_log_reward(
    samples: Int[Tensor, "samples width"], log_reward: Float[Tensor, " samples"], k: int
) -> Float[Tensor, ""]:
    """Log of the mean reward of the ``k`` best distinct samples: ``log (1/k Σ R)``, which no reward overflows.

    Raises:
        ValueError: as `top_k`.
    """
    best = lifted(log_reward)[top_k(samples, log_reward, k)]
    return torch.logsumexp(best, 0) - torch.log(best.new_tensor(float(k)))


def top_k_diversity(
    samples: Int[Tensor, "samples width"], log_reward: Float[Tensor, " samples"], k: int
) -> Float[Tensor, ""]:
    """Mean number of entries in which two of the ``k`` best distinct samples differ, over all pairs of them.

    Raises:
        ValueError: as `top_k`, or if k is 1, for which there is no pair.
    """
    if k < 2:
        raise ValueError(f"diversity is that of pairs: k must be at least 2; got {k}.")
    best = samples[top_k(samples, log_reward, k)].double()
    return torch.nn.functional.pdist(best, p=0.0).mean()
