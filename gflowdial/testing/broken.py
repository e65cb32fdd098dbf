"""What a checker raises, and which of its laws hold it to account."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

Law = TypeVar("Law")


class BrokenLawError(AssertionError):
    """A law that the checked part does not keep; an assertion of the part's own is passed on as it is."""


def kept_laws(laws: Mapping[str, Law], leave_out: Sequence[str]) -> dict[str, Law]:
    """The laws whose names are not in ``leave_out``, in their order.

    Raises:
        ValueError: a name in ``leave_out`` is no law's.
    """
    if unknown := [name for name in leave_out if name not in laws]:
        raise ValueError(f"leave_out names {unknown[0]!r}, which is no law here: choose from {', '.join(laws)}")
    return {name: law for name, law in laws.items() if name not in leave_out}
