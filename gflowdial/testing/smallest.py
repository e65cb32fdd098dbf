"""The smallest example against one of several laws, by Hypothesis."""

from collections.abc import Callable, Mapping
from typing import TypeVar

from hypothesis import Phase, find, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

Example = TypeVar("Example")


def smallest_example(
    examples: st.SearchStrategy[Example],
    breaks: Mapping[str, Callable[[Example], bool]],
    max_examples: int,
    *,
    shrink: bool = True,
) -> tuple[str, Example] | None:
    """The name of a law and the smallest example found that breaks it; None if all that were tried keep them.

    The same arguments give the same example.

    Args:
        examples: where to look.
        breaks: by law, whether an example breaks it.
        max_examples: how many are tried.
        shrink: whether a smaller one is looked for.
    """
    suspects = dict(breaks)

    def breaks_one(example: Example) -> bool:
        for name, broken in suspects.items():
            if broken(example):
                # From now on this law alone, so that shrinking stays with it.
                suspects.clear()
                suspects[name] = broken
                return True
        return False

    phases = (Phase.generate, Phase.shrink) if shrink else (Phase.generate,)
    how = settings(max_examples=max_examples, derandomize=True, database=None, deadline=None, phases=phases)
    try:
        example = find(examples, breaks_one, settings=how)
    except NoSuchExample:
        return None
    (name,) = suspects
    return name, example
