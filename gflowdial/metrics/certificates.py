"""Upper bounds on how far a policy is from its target, from log R - log P_F alone: no log Z, no sample of the target.

Let ``ζ(x) = log R(x) - log P_F(x)`` be the log-weight of a leaf and P_F(x) the policy's probability of ending there. ζ
is constant exactly where the policy samples in proportion to R. The target is ``π = R / Z`` over the leaves of a tree.

**Worst case.** ``TV(P_F, π) ≤ tanh(L / 4)`` with ``L = max ζ - min ζ``; two leaves attain it.
**Average case.** With ``J = KL(P_F ‖ π) + KL(π ‖ P_F) = E_π ζ - E_{P_F} ζ``, the gap between `metrics.eubo` and
`metrics.elbo`, TV is at most the t with ``4 t artanh t = J``.

Proof. Of all pairs of distributions at total variation t, the smallest J has two outcomes with probabilities
``(1 ± t) / 2`` and the reverse (merging outcomes lowers J; of two outcomes, ``J = t · (logit p - logit q)`` is least
where p and q are symmetric); its J is ``4 t artanh t``. And ``J = Σ (π - P_F) ζ ≤ TV · L``. So ``artanh TV ≤ L / 4``,
and the average case is never above the worst case.

The weaker ``TV ≤ 1 - exp(-L)`` is that of arXiv 2605.01729.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from gflowdial import oracle, segments
from gflowdial.forest import Forest
from gflowdial.losses.inputs import edge_residual, lift
from gflowdial.metrics.groups import grouped
from gflowdial.numerics import check_finite, check_vector, first_true, precise_dtype, rounding
from gflowdial.segments import Segments
from gflowdial.shapes import Float, Int, Tensor

__all__ = ["Certificate", "SampledCertificate", "StoppingRule", "certificate", "sampled_certificate"]


@dataclass(frozen=True, eq=False)
class Certificate:
    """Bounds on the total variation between a policy and its target on whole trees; float64.

    Attributes:
        spread: ``L``, the range of ζ over the leaves of each tree, in nats; infinite where the policy excludes a leaf.
        worst_case: ``tanh(L / 4)``, which depends on L alone.
        average_case: the smallest of the bounds that follow from the two divergences: the t with ``4 t artanh t = J``,
            and of either divergence alone ``√(KL / 2)`` (Pinsker) and ``√(1 - exp(-KL))`` (Bretagnolle-Huber).
        kl_policy: ``KL(P_F ‖ π) = log Z - ELBO`` of each tree, in nats.
        kl_target: ``KL(π ‖ P_F) = EUBO - log Z`` of each tree, in nats; the one that sees what the policy misses.
        highest: the leaf with the largest ζ of each tree, an index into ``forest.leaves``: the most under-sampled one.
        lowest: the leaf with the smallest ζ of each tree, the most over-sampled one.
        spending: the part of L that is due to each edge: its residual ``log F(c) - log F(n) - log P_F(c|n)`` on the
            path to ``highest``, minus its residual on the path to ``lowest``, 0 elsewhere and where both paths run.
            The sum over a tree is L.
        outside: the probability that the policy ends at no leaf of the tree, 0 for a policy over the actions of the
            tree alone; all else is about the policy on condition that it ends at one.
    """

    spread: Float[Tensor, " trees"]
    worst_case: Float[Tensor, " trees"]
    average_case: Float[Tensor, " trees"]
    kl_policy: Float[Tensor, " trees"]
    kl_target: Float[Tensor, " trees"]
    highest: Int[Tensor, " trees"]
    lowest: Int[Tensor, " trees"]
    spending: Float[Tensor, " edges"]
    outside: Float[Tensor, " trees"]

    @property
    def bound(self) -> Float[Tensor, " trees"]:
        """The smaller of ``worst_case`` and ``average_case``."""
        return torch.minimum(self.worst_case, self.average_case)


def certificate(
    log_pf: Float[Tensor, " edges"],
    log_reward: Float[Tensor, " leaves"],
    forest: Forest,
    *,
    log_flow: Float[Tensor, " nodes"] | None = None,
) -> Certificate:
    """How far a policy can be from sampling the leaves of each tree in proportion to R.

    The residuals of any flow with log R at the leaves add up to ``ζ(x) - log F(root)`` along the path to x, so that
    the parts in `Certificate.spending` always sum to L; the flow decides how L is divided. With the exact flow, the
    default, a residual is ``log P*(c|n) - log P_F(c|n)``, P* the policy that samples in proportion to R: a state whose
    probabilities are right has no part in L. With the learned flow it is the residual of `losses.detailed_balance`.

    Args:
        log_pf: log P_F of each edge; -inf is an action that the policy excludes.
        log_reward: log R of each leaf, finite.
        forest: whole trees, on which P_B is 1.
        log_flow: the flow whose residuals divide L; entries at leaves are not read. None means the exact flow.

    Raises:
        ValueError: if a shape does not fit the forest, a reward is not finite, ``log_pf`` is NaN or sums to more than 1
            over the leaves of a tree, or the policy reaches no leaf of a tree.

    Source: arXiv 2605.01729 for a bound by the largest residual; the constant is proved at the head of this module.
    """
    # A path adds the rounding of its edges.
    slack = 1e-3 if log_pf.dtype.itemsize > 2 else rounding(log_pf.dtype, 1e-3) * max(1, int(forest.depth.max()))
    log_pf = lift("log_pf", log_pf.detach(), forest, "edge")
    log_reward = lift("log_reward", log_reward.detach(), forest, "leaf")
    check_finite("log_reward", log_reward)
    trees = Segments.from_ids(forest.leaf_tree, forest.num_trees)
    log_p = oracle.terminating_distribution(forest, log_pf)
    inside = segments.logsumexp(log_p, trees)
    if (tree := first_true(~((inside > -torch.inf) & (inside < slack)))) is not None:
        raise ValueError(
            f"the policy's probabilities of the leaves of tree {tree} sum to {float(inside[tree].exp()):.6g}: give the "
            "log-probabilities of a policy, which sum to 1 or less and reach at least one leaf."
        )
    zeta = log_reward - log_p
    highest, top = _extreme(zeta, trees)
    lowest, bottom = _extreme(-zeta, trees)
    spread = top + bottom
    log_p = log_p - inside[trees.ids]
    log_target = log_reward - segments.logsumexp(log_reward, trees)[trees.ids]
    kl_policy, kl_target = _divergence(log_p, log_target, trees), _divergence(log_target, log_p, trees)
    each = torch.stack([kl_policy, kl_target])
    bounds = [_symmetric(kl_policy + kl_target)[None], (each / 2).sqrt(), (-torch.expm1(-each)).sqrt()]
    if log_flow is None:
        log_flow = oracle.exact_flows(forest, log_reward)[0]
    flow = lift("log_flow", log_flow.detach(), forest, "node").index_copy(0, forest.leaves, log_reward)
    below = torch.zeros(forest.num_nodes, dtype=flow.dtype, device=forest.device)
    sign = below.index_fill(0, forest.leaves[highest], 1.0) - below.index_fill(0, forest.leaves[lowest], 1.0)
    sign = forest.subtree_sum(sign)[forest.edge_child]
    spending = torch.where(sign == 0, 0.0, sign * edge_residual(flow, log_pf, forest))
    return Certificate(
        spread=spread,
        worst_case=torch.tanh(spread / 4),
        average_case=torch.cat(bounds).amin(0),
        kl_policy=kl_policy,
        kl_target=kl_target,
        highest=highest,
        lowest=lowest,
        spending=spending,
        outside=(1 - inside.exp()).clamp(min=0.0),
    )


@dataclass(frozen=True, eq=False)
class SampledCertificate:
    """A bound on total variation from sampled trajectories; float64, one entry per condition.

    Attributes:
        bound: what TV is at most, with probability ``confidence``.
        spread: the observed range of ζ, in nats.
        outside: with the same confidence, the probability that a further trajectory falls outside that range.
        confidence: of the statement about one condition; for all of n at once ask each for
            ``1 - (1 - confidence) / n``.
        complete: whether ``bound`` is about the whole target (a bound of log Z was given) or about the target without
            the outcomes whose ζ is above all that was observed.
    """

    bound: Float[Tensor, " conditions"]
    spread: Float[Tensor, " conditions"]
    outside: Float[Tensor, " conditions"]
    confidence: float
    complete: bool


def sampled_certificate(
    log_weights: Float[Tensor, " trajectories"],
    conditions: Segments | None = None,
    *,
    confidence: float = 0.95,
    log_z: Float[Tensor, " conditions"] | None = None,
) -> SampledCertificate:
    """How far a policy is from its target, from trajectories that it sampled; holds for any number of them.

    With an upper bound ``log_z ≥ log Z``, ``TV = E_{P_F}[(1 - exp(ζ) / Z)⁺]`` is at most the expectation with ``log_z``
    in the place of log Z. This is a mean of numbers in [0, 1], which exceeds m with probability ``1 - confidence`` at
    most, where ``n · kl(observed mean ‖ m) = -log(1 - confidence)`` (Chernoff, Hoeffding).

    Without it the samples of a policy cannot exclude that the target has mass where the policy almost never goes. The
    bound is then on the TV to the target restricted to ``A = {x: ζ(x) ≤ the largest observed ζ}``. The mass that the
    whole target has outside of A must be added, and has to be known from elsewhere. It is the smaller of two bounds,
    each of which fails with probability ``α / 2``, ``α = 1 - confidence``:

    - ``ε + (1 - ε) · tanh(L / 4)``, L the observed range; the policy leaves the range with a probability above ε in
      fewer than α / 2 of all samples, where ``(1 - ε)^n + n ε (1 - ε)^(n-1) = α / 2`` (Wilks 1941);
    - ``ε + η + mean of (1 - u / m)⁺`` with ``u = exp(ζ - max ζ)``, ``m = min(1, mean of u + η)`` and
      ``η = √(log(4 / α) / 2n)``, by which the distribution of ζ differs from the observed one at most (Dvoretzky,
      Kiefer, Wolfowitz; Massart 1990). Means of monotone functions into [0, 1] then differ by at most η.

    Where states have several parents, the bound holds for trajectories and therefore for the terminal states.

    Args:
        log_weights: ``ζ = log R + log P_B - log P_F`` of each trajectory, as `metrics.log_weights` returns them. The
            trajectories are **independent samples of P_F itself**: without exploration, and none that the policy was
            trained on or chosen by.
        conditions: the condition of each trajectory; None means that all share one.
        confidence: in (0, 1).
        log_z: for each condition a number that log Z is known not to exceed. A learned log Z is no such number.

    Raises:
        ValueError: if a log-weight is not finite, a condition has no trajectory, ``log_z`` has another shape, or
            ``confidence`` is outside (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}: give a probability between 0 and 1.")
    check_vector("log_weights", log_weights, len(log_weights), "trajectory")
    check_finite("log_weights", log_weights)
    zeta = log_weights.detach().to(precise_dtype(log_weights.device))
    conditions = grouped(zeta, conditions)
    count = conditions.sizes.to(zeta.dtype)
    error = 1 - confidence
    top = segments.max(zeta, conditions)
    spread = top + segments.max(-zeta, conditions)
    # Without log Z the two events of the docstring share the error.
    share = error if log_z is not None else error / 2
    outside = _root(lambda p: ((count - 1) * torch.log1p(-p) + torch.log1p((count - 1) * p)) < math.log(share), count)
    if log_z is not None:
        check_vector("log_z", log_z, conditions.count, "condition")
        check_finite("log_z", log_z)
        loss = -torch.expm1((zeta - log_z.to(zeta.dtype)[conditions.ids]).clamp(max=0.0))
        bound = _chernoff(segments.mean(loss, conditions), -math.log(error) / count)
    else:
        band = (math.log(4 / error) / (2 * count)).sqrt()
        weight = (zeta - top[conditions.ids]).exp()
        mean = (segments.mean(weight, conditions) + band).clamp(max=1.0)
        loss = (1 - weight / mean[conditions.ids]).clamp(min=0.0)
        by_range = outside + (1 - outside) * torch.tanh(spread / 4)
        bound = torch.minimum(by_range, outside + band + segments.mean(loss, conditions)).clamp(max=1.0)
    return SampledCertificate(bound, spread, outside, confidence, complete=log_z is not None)


@dataclass
class StoppingRule:
    """Whether training may stop, since the certificate is at or below a bar; right with one confidence for a whole run.

    A certificate that is asked for again and again is wrong at some time. Check number k is therefore asked for
    confidence ``1 - (1 - confidence) / (k (k + 1))``, whose errors add up to ``1 - confidence``::

        rule = StoppingRule(bar=0.1)
        while training:
            ...
            found = sampled_certificate(fresh_log_weights, confidence=rule.next_confidence)
            if rule.stops(found.bound):
                break

    The bound of an exact `certificate` needs no confidence and is passed to `stops` in the same way.

    Attributes:
        bar: the total variation that is good enough.
        confidence: with which the policy is below the bar when the rule stops.
        checks: how often `stops` was asked.
    """

    bar: float
    confidence: float = 0.95
    checks: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.bar <= 1:
            raise ValueError(f"bar is {self.bar}: give a total variation above 0 and at most 1.")
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence is {self.confidence}: give a probability between 0 and 1.")

    @property
    def next_confidence(self) -> float:
        """The confidence that the certificate of the next check needs, for one condition."""
        return 1 - (1 - self.confidence) / ((self.checks + 1) * (self.checks + 2))

    def stops(self, bound: Float[Tensor, " conditions"]) -> bool:
        """Whether every entry of ``bound`` is at or below the bar; counts as a check."""
        self.checks += 1
        return bool((bound <= self.bar).all())


def _divergence(log_p: Tensor, log_q: Tensor, trees: Segments) -> Float[Tensor, " trees"]:
    """KL(p ‖ q) of each tree; rounding would leave that of equal distributions slightly below 0."""
    p = log_p.exp()
    return segments.sum(torch.where(p > 0, p * (log_p - log_q), 0.0), trees).clamp(min=0.0)


def _extreme(values: Tensor, trees: Segments) -> tuple[Int[Tensor, " trees"], Float[Tensor, " trees"]]:
    """The first leaf with the largest value of each tree, and that value."""
    peak = values.new_full((trees.count,), -torch.inf).scatter_reduce(0, trees.ids, values, "amax")
    at_peak = torch.nonzero(values == peak[trees.ids]).squeeze(1)
    first = torch.full_like(peak, len(values), dtype=torch.int64)
    return first.scatter_reduce(0, trees.ids[at_peak], at_peak, "amin"), peak


def _root(above: Callable[[Tensor], Tensor], like: Tensor) -> Tensor:
    """The point in [0, 1] from which on a condition holds, from above, by bisection."""
    low, high = torch.zeros_like(like), torch.ones_like(like)
    for _ in range(60):
        middle = (low + high) / 2
        holds = above(middle)
        low, high = torch.where(holds, low, middle), torch.where(holds, middle, high)
    return high


def _symmetric(divergence: Float[Tensor, " trees"]) -> Float[Tensor, " trees"]:
    """The t with ``4 t artanh t = J``."""
    return _root(lambda t: 4 * t * torch.atanh(t) >= divergence, divergence)


def _chernoff(mean: Float[Tensor, " conditions"], limit: Float[Tensor, " conditions"]) -> Float[Tensor, " conditions"]:
    """The largest m with ``kl(mean ‖ m) ≤ limit``, kl of two events."""

    def too_far(m: Tensor) -> Tensor:
        apart = torch.xlogy(mean, mean / m) + torch.xlogy(1 - mean, (1 - mean) / (1 - m))
        return (m > mean) & (apart > limit)

    return _root(too_far, mean)
