"""Which precision a loss or an answer was computed in, measured, and what rounding may change at that precision."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from gflowdial.shapes import Float, Tensor

DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
"""From the coarsest on; bfloat16 comes before float16, which holds the smaller numbers of both."""

FLOAT64, FLOAT32, HALF = (torch.finfo(dtype).eps for dtype in (torch.float64, torch.float32, torch.bfloat16))


@dataclass(frozen=True)
class Resolution:
    """The least change of an entry that a function notices.

    Attributes:
        epsilon: machine epsilon of the precision that this speaks for.
        argument: the argument read at that precision.
        step: the least power of ten that moved the value.
    """

    epsilon: float = FLOAT64
    argument: str = ""
    step: float = 0.0


def resolution(function: Callable[..., Tensor], arguments: Mapping[str, Float[Tensor, " entries"]]) -> Resolution:
    """How finely ``function`` reads its arguments, whose entries are of size 1.

    A value computed in float64 changes once an entry moves by about 1e-15, one computed in float32 at about 1e-7, one
    in bfloat16 at about 1e-2, wherever on the way it was rounded. An entry that never matters says nothing.
    """
    before = float(function(**arguments))
    worst = Resolution()
    for name, values in arguments.items():
        for entry in range(min(3, len(values))):
            step = next((s for s in _STEPS if _moved(function, arguments, name, entry, s) != before), None)
            # What was rounded to an integer, or does not move at all, is no matter of precision.
            if step is not None and step > worst.step and step < _STEPS[-1]:
                epsilon = FLOAT64 if step < 1e-10 else FLOAT32 if step < 1e-5 else HALF
                worst = Resolution(epsilon, name, step)
    return worst


_STEPS = [10.0**-power for power in range(15, -1, -1)]


def _moved(
    function: Callable[..., Tensor], arguments: Mapping[str, Tensor], name: str, entry: int, step: float
) -> float:
    values = arguments[name].clone()
    values[entry] += step
    return float(function(**{**arguments, name: values}))


def effective_epsilon(values: Tensor) -> float:
    """Machine epsilon of the coarsest dtype that holds all of ``values`` as they are.

    Numbers of float32 that were cast to float64 have the rounding of float32.
    """
    finite = values.detach()[values.detach().isfinite()]
    held = next(dtype for dtype in DTYPES if torch.equal(finite.to(dtype).to(finite.dtype), finite))
    return max(torch.finfo(held).eps, torch.finfo(values.dtype).eps) if len(finite) else torch.finfo(values.dtype).eps
