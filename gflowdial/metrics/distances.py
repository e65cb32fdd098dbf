"""How far apart two distributions over the same outcomes are, from their log-probabilities.

Both are exact, over all outcomes in the same order: the terminal states of an enumerated environment, or the leaves of
a tree. ``groups`` names the distribution that each outcome belongs to, so that many conditions or trees are compared at
once: ``Segments.from_ids(forest.leaf_tree, forest.num_trees)`` for the leaves of a forest. Without it all outcomes are
those of one distribution. What comes back has one entry for each, in float64.

An outcome of probability 0 has log-probability -inf. All functions raise a ValueError if the shapes disagree or if a
distribution does not sum to 1, which log-rewards in the place of log-probabilities do not.
"""

import torch

from gflowdial import segments
from gflowdial.metrics.groups import grouped, precise
from gflowdial.numerics import first_true, rounding
from gflowdial.segments import Segments
from gflowdial.shapes import Float, Tensor

__all__ = ["jensen_shannon_divergence", "kl_divergence", "l1_distance", "total_variation"]

_TOLERANCE = 1e-3
"""How far from 1 a sum of float32 probabilities over many outcomes may lie."""


def total_variation(
    log_p: Float[Tensor, " outcomes"], log_q: Float[Tensor, " outcomes"], groups: Segments | None = None
) -> Float[Tensor, " groups"]:
    """``½ Σ |p - q|``, in [0, 1]: the most by which the two disagree on the probability of any event."""
    return l1_distance(log_p, log_q, groups) / 2


def l1_distance(
    log_p: Float[Tensor, " outcomes"], log_q: Float[Tensor, " outcomes"], groups: Segments | None = None
) -> Float[Tensor, " groups"]:
    """``Σ |p - q|``, in [0, 2].

    The "empirical L1 error" of hypergrid papers is its mean over outcomes: this sum divided by their number.
    """
    log_p, log_q, groups = _distributions(log_p, log_q, groups)
    return segments.sum((log_p.exp() - log_q.exp()).abs(), groups)


def kl_divergence(
    log_p: Float[Tensor, " outcomes"], log_q: Float[Tensor, " outcomes"], groups: Segments | None = None
) -> Float[Tensor, " groups"]:
    """``KL(p ‖ q) = Σ p (log p - log q)`` in nats; infinite where q excludes what p allows."""
    log_p, log_q, groups = _distributions(log_p, log_q, groups)
    return segments.sum(_information(log_p, log_q), groups)


def jensen_shannon_divergence(
    log_p: Float[Tensor, " outcomes"], log_q: Float[Tensor, " outcomes"], groups: Segments | None = None
) -> Float[Tensor, " groups"]:
    """``½ KL(p ‖ m) + ½ KL(q ‖ m)`` with ``m = (p + q) / 2``, in nats, in [0, log 2].

    It is the square of what scipy calls the Jensen–Shannon distance.
    """
    log_p, log_q, groups = _distributions(log_p, log_q, groups)
    mixture = torch.logaddexp(log_p, log_q) - torch.log(log_p.new_tensor(2.0))
    halves = _information(log_p, mixture) + _information(log_q, mixture)
    return segments.sum(halves, groups) / 2


def _information(log_p: Tensor, log_q: Tensor) -> Tensor:
    """``p (log p - log q)`` with ``0 log 0 = 0``."""
    return torch.where(log_p == -torch.inf, 0.0, log_p.exp() * (log_p - log_q))


def _distributions(log_p: Tensor, log_q: Tensor, groups: Segments | None) -> tuple[Tensor, Tensor, Segments]:
    dtypes = log_p.dtype, log_q.dtype
    log_p = precise("log_p", log_p, len(log_p))
    log_q = precise("log_q", log_q, len(log_p))
    groups = grouped(log_p, groups)
    for name, log, dtype in zip(("log_p", "log_q"), (log_p, log_q), dtypes, strict=True):
        total = segments.sum(log.exp(), groups)
        if (group := first_true(~((total - 1).abs() <= rounding(dtype, _TOLERANCE)))) is not None:
            raise ValueError(
                f"{name} must be log-probabilities; those of group {group} sum to {float(total[group]):.6g}. "
                "Normalise them over all outcomes: log R - log Z, for a reward."
            )
    return log_p, log_q, groups
