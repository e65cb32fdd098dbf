"""What a residual costs: elementwise functions, 0 at 0 and positive elsewhere.

A penalty sees ``t``, the logarithm of backward over forward flow: positive where the policy sends less than the target
asks for. Every loss with the option ``penalty`` takes these or any other such function::

    losses.detailed_balance(log_flow, log_pf, None, log_reward, forest, penalty=losses.log_cosh)
    losses.detailed_balance(log_flow, log_pf, None, log_reward, forest, penalty=partial(losses.huber, threshold=0.5))

With the square, in whatever words (`squared`, `torch.square`, ``lambda t: t**2``), SubTB is linear in nodes; with any
other it goes through the pairs one by one, in bounded memory.
"""

from collections.abc import Callable
from contextlib import suppress
from weakref import WeakKeyDictionary

import torch

from gflowdial.shapes import Float, Tensor

Penalty = Callable[[Tensor], Tensor]
"""A function of each residual alone, which gives the same each time it is called."""

_is_square: WeakKeyDictionary[Penalty, bool] = WeakKeyDictionary()


def squared(t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """``t²``."""
    return t.square()


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def is_square(penalty: Penalty) -> bool:
    """Whether ``penalty`` is ``t²``, tried out once on residuals of every size."""
    try:
        return _is_square[penalty]
    except (KeyError, TypeError):
        known = _equals_square(penalty)
    with suppress(TypeError):
        _is_square[penalty] = known
    return known


def _equals_square(penalty: Penalty) -> bool:
    size = torch.logspace(-150, 150, 301, dtype=torch.float64, device="cpu")
    t = torch.cat([-size, size.new_zeros(1), size])
    try:
        cost = penalty(t)
    except Exception:
        return False
    # A cost that needs a gradient has parameters, and may not stay the square.
    return isinstance(cost, Tensor) and not cost.requires_grad and torch.equal(cost, t * t)


def huber(t: Float[Tensor, "*shape"], threshold: float = 1.0) -> Float[Tensor, "*shape"]:
    """``t²`` up to ``threshold``, beyond it ``threshold · (2|t| - threshold)``: the gradient stops growing.

    Raises:
        ValueError: if ``threshold`` is not positive.
    """
    if threshold <= 0:
        raise ValueError(f"threshold must be positive; got {threshold}.")
    return torch.where(t.abs() <= threshold, t.square(), threshold * (2 * t.abs() - threshold))


def log_cosh(t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """``2 log cosh t``: near 0 like ``t²``, far from it like ``2|t|``, smooth everywhere."""
    near = torch.log1p(t.clamp(-1, 1).sinh().square())
    far = 2 * (t.abs() + torch.log1p(torch.expm1(-2 * t.abs()) / 2))
    # The first overflows far from 0; the second has no second derivative at 0.
    return torch.where(t.abs() < 1, near, far)


def linex(t: Float[Tensor, "*shape"], rate: float = 1.0) -> Float[Tensor, "*shape"]:
    """``2 (exp(rate·t) - rate·t - 1) / rate²``: near 0 like ``t²``, then exponential on one side, linear on the other.

    A positive rate punishes most where the policy sends too little (it seeks to cover the target), a negative one where
    it sends too much. Twice the function of the source, so that all penalties agree near 0.

    Raises:
        ValueError: if ``rate`` is 0.

    Source: Hu et al., arXiv 2410.02596.
    """
    if rate == 0:
        raise ValueError("rate must not be 0; the limit at 0 is the penalty `squared`.")
    return 2 * (torch.expm1(rate * t) - rate * t) / rate**2
