"""Whether a policy ranks outcomes as their reward does: correlation of log-probability with log-reward.

On all outcomes or on a test set of them. ``groups`` names the condition or tree of each outcome, so that each is
judged by itself: ``Segments.from_ids(forest.leaf_tree, forest.num_trees)`` for the leaves of a forest. A perfect
sampler has correlation 1 within a condition, but not across conditions of different Z.

What comes back has one entry per group, in float64; it is NaN where one side is constant,
for which no correlation is defined.

Source: as a measure of GFlowNets, Nica et al., 2022, "Evaluating Generalization in GFlowNets for Molecule Design".
"""

import torch

from gflowdial import segments
from gflowdial.metrics.groups import grouped, precise
from gflowdial.numerics import check_finite, first_true
from gflowdial.segments import Segments
from gflowdial.shapes import Float, Tensor

__all__ = ["pearson", "spearman"]


def pearson(
    log_p: Float[Tensor, " outcomes"], log_reward: Float[Tensor, " outcomes"], groups: Segments | None = None
) -> Float[Tensor, " groups"]:
    """Linear correlation in [-1, 1].

    Args:
        log_p: log-probability that the policy ends in each outcome, finite.
        log_reward: log R of each, finite.
        groups: which group each outcome belongs to; None puts all into one.

    Raises:
        ValueError: if shapes disagree, a value is not finite, or a group is empty.
    """
    log_p = precise("log_p", log_p, len(log_p))
    log_reward = precise("log_reward", log_reward, len(log_p))
    for name, values in (("log_p", log_p), ("log_reward", log_reward)):
        check_finite(name, values, " Leave out outcomes that cannot be reached, or use spearman.")
    return _correlation(log_p, log_reward, grouped(log_p, groups))


def spearman(
    log_p: Float[Tensor, " outcomes"], log_reward: Float[Tensor, " outcomes"], groups: Segments | None = None
) -> Float[Tensor, " groups"]:
    """Correlation of ranks in [-1, 1]; equal values share the mean of their ranks.

    Args:
        log_p: log-probability that the policy ends in each outcome; -inf where it never does.
        log_reward: log R of each.
        groups: which group each outcome belongs to; None puts all into one.

    Raises:
        ValueError: if shapes disagree, a value is NaN, or a group is empty.
    """
    log_p = precise("log_p", log_p, len(log_p))
    log_reward = precise("log_reward", log_reward, len(log_p))
    for name, values in (("log_p", log_p), ("log_reward", log_reward)):
        if (outcome := first_true(values.isnan())) is not None:
            raise ValueError(f"{name}[{outcome}] is NaN, which has no rank.")
    groups = grouped(log_p, groups)
    return _correlation(_ranks(log_p, groups), _ranks(log_reward, groups), groups)


def _correlation(x: Tensor, y: Tensor, groups: Segments) -> Tensor:
    x, y = _standardised(x, groups), _standardised(y, groups)
    return segments.sum(x * y, groups).clamp(-1.0, 1.0)


def _standardised(x: Tensor, groups: Segments) -> Tensor:
    """Centred and of length 1 within each group; NaN in a group whose values are all the same."""
    # A mean of equal numbers can miss them by a rounding error, so the constant is looked for by itself.
    constant = segments.max(x, groups) == -segments.max(-x, groups)
    centred = x - segments.mean(x, groups)[groups.ids]
    # Scaled first: squares of values beyond 1e±154 would leave float64.
    centred = centred / segments.max(centred.abs(), groups)[groups.ids]
    length = segments.sum(centred.square(), groups).sqrt()
    return torch.where(constant[groups.ids], torch.nan, centred / length[groups.ids])


def _ranks(x: Tensor, groups: Segments) -> Tensor:
    """Position of each value in the sorted order of all groups laid end to end; ties share their mean position."""
    by_value = torch.argsort(x, stable=True)
    order = by_value[torch.argsort(groups.ids[by_value], stable=True)]
    value, group = x[order], groups.ids[order]
    starts = torch.ones_like(group, dtype=torch.bool)
    starts[1:] = (value[1:] != value[:-1]) | (group[1:] != group[:-1])
    ties = Segments.from_ids(starts.cumsum(0) - 1, int(starts.sum()))
    position = torch.arange(len(x), dtype=x.dtype, device=x.device)
    return torch.empty_like(x).index_copy(0, order, segments.mean(position, ties)[ties.ids])
