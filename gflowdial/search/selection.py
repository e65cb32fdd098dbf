"""How a search chooses: its settings, and the policy that it samples actions from."""

from dataclasses import dataclass

import numpy as np

from gflowdial.search.answers import Floats, Ints


@dataclass(frozen=True)
class SearchConfig:
    """How to search; the defaults are the paper's.

    Attributes:
        simulations: simulations per tree, at least 1.
        max_depth: the greatest depth of an expanded node, in actions below the root, at least 1.
        rollout_length: how many actions a simulation follows the prior from its last node.
        kappa: κ of the exploration rate ρ; 0 switches uniform exploration off.
        prior_weight: λ, the weight of the prior against Q.
        keep_rollouts: whether the states that rollouts passed are nodes of the tree, not expanded.
    """

    simulations: int = 10
    max_depth: int = 10
    rollout_length: int = 3
    kappa: float = 0.1
    prior_weight: float = 1.0
    keep_rollouts: bool = False

    def __post_init__(self) -> None:
        for name, least in (("simulations", 1), ("max_depth", 1), ("rollout_length", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}: give at least {least}")
        for name in ("kappa", "prior_weight"):
            if not 0 <= getattr(self, name) < np.inf:
                raise ValueError(f"{name} is {getattr(self, name)}: give a finite number, 0 or more")


_PAPER = SearchConfig()


def selection_policy(value: Floats, visits: Ints, log_prior: Floats, config: SearchConfig = _PAPER) -> Floats:
    """The policy μ that selection samples from (arXiv 2602.08826).

    μ(a|s) = (1 − ρ)·softmax(u)_a + ρ/|A|, with u(a) = Q(s,a) + λ·π(a|s)·√(N(s)/(1 + N(s,a))) and
    ρ = κ/(κ + log(N(s) + 1)). N(s) = 1 + Σ_a N(s,a): the visit that made the node counts, so that the prior
    is not without weight when nothing below the node was tried. The softmax and |A| are over the allowed actions.

    Args:
        value: Q(s,a), ``[..., A]``; 0 for an action never tried.
        visits: N(s,a), ``[..., A]``.
        log_prior: log π(a|s), normalised, ``[..., A]``; -inf at a forbidden action, whose μ is 0.
        config: whose κ and λ count; the paper's where not given.

    Returns:
        Probabilities, ``[..., A]``.
    """
    total = 1 + visits.sum(axis=-1, keepdims=True)
    score = value + config.prior_weight * np.exp(log_prior) * np.sqrt(total / (1 + visits))
    explore = config.kappa / (config.kappa + np.log(total + 1))
    uniform: Floats | float = explore / value.shape[-1]
    if log_prior.min() == -np.inf:
        allowed = log_prior > -np.inf
        score = np.where(allowed, score, -np.inf)
        uniform = explore * allowed / allowed.sum(axis=-1, keepdims=True)
    weight = np.exp(score - score.max(axis=-1, keepdims=True))
    policy: Floats = (1 - explore) * weight / weight.sum(axis=-1, keepdims=True) + uniform
    return policy
