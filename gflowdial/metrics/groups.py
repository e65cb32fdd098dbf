"""What is measured, in float64, and which outcomes are measured together."""

import torch

from gflowdial.numerics import first_true, lift_vector
from gflowdial.segments import Segments
from gflowdial.shapes import Float, Tensor


def grouped(values: Float[Tensor, " items"], groups: Segments | None) -> Segments:
    """``groups``, or one group of everything where there is none.

    Raises:
        ValueError: if ``groups`` has another number of items, or a group without any.
    """
    if groups is None:
        groups = Segments.from_ids(torch.zeros(len(values), dtype=torch.int64, device=values.device), 1)
    if len(groups.ids) != len(values):
        raise ValueError(f"groups must say of each of {len(values)} items where it belongs; got {len(groups.ids)}.")
    if (group := first_true(groups.sizes == 0)) is not None:
        raise ValueError(f"group {group} is empty: there is nothing to measure.")
    return groups


def precise(name: str, values: Tensor, count: int) -> Float[Tensor, " outcomes"]:
    """``values``, one for each of ``count`` outcomes, in `precise_dtype`.

    Raises:
        ValueError: if there is another number of them, or they are not floating point.
    """
    return lift_vector(name, values, count, "outcome")
