"""In what precision flows are computed, and what is looked at before."""

import torch


def precise_dtype(device: torch.device) -> torch.dtype:
    """float64, or float32 where the device has no float64.

    Residuals are small differences of large sums: no float32 form is safe everywhere, and a later cast brings nothing
    back.
    """
    return torch.float32 if device.type == "mps" else torch.float64


def check_vector(name: str, values: torch.Tensor, length: int, what: str) -> None:
    """
    Raises:
        ValueError: if ``values`` is no vector of ``length`` floating-point entries, one per ``what``.
    """
    if values.shape != (length,):
        raise ValueError(f"{name} must have one entry per {what}, shape [{length}]; got {list(values.shape)}.")
    if not values.is_floating_point():
        raise ValueError(f"{name} must be floating point; got {values.dtype}.")


def lift_vector(name: str, values: torch.Tensor, length: int, what: str) -> torch.Tensor:
    """``values`` in `precise_dtype`.

    Raises:
        ValueError: as `check_vector`.
    """
    check_vector(name, values, length, what)
    return values.to(precise_dtype(values.device))
