"""The search for the smallest flow on which a loss breaks a law: small flows by Hypothesis, then large families."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hypothesis import strategies as st

from gflowdial.forest import Forest
from gflowdial.testing.flows import Flow
from gflowdial.testing.large_forests import Family
from gflowdial.testing.loss_cases import LossCase, Policies, case_on, loss_cases
from gflowdial.testing.smallest import smallest_example


@dataclass(frozen=True)
class Violation:
    """What a law found on a case: a sentence, and the flow it is about."""

    detail: str
    flow: Flow


Check = Callable[[LossCase], Violation | None]
"""A law's check of one case."""


@dataclass(frozen=True)
class Finding:
    """The smallest case found against a law, and what was raised there, if anything was.

    Attributes:
        large: whether only a forest that is large in some way breaks the law.
    """

    law: str
    case: LossCase
    violation: Violation
    raised: Exception | None
    large: bool = False


def smallest_against(
    laws: Mapping[str, Check],
    forests: st.SearchStrategy[Forest],
    families: Mapping[str, Family],
    *,
    grouped: bool,
    policies: Policies,
    max_examples: int,
    shrink: bool = True,
) -> Finding | None:
    """The smallest flow against one of ``laws``, or without ``shrink`` any; None if all that were tried keep them."""
    found = _drawn(laws, loss_cases(forests, grouped, policies), max_examples, shrink)
    if found is not None:
        return found
    for family in families.values():
        for seed in range(1 + max_examples // 40):
            found = _grown(laws, family, seed, grouped, policies, shrink)
            if found is not None:
                return found
    return None


def _drawn(
    laws: Mapping[str, Check], cases: st.SearchStrategy[LossCase], max_examples: int, shrink: bool
) -> Finding | None:
    def breaks(law: Check) -> Callable[[LossCase], bool]:
        return lambda case: _broken(law, case) is not None

    found = smallest_example(cases, {name: breaks(law) for name, law in laws.items()}, max_examples, shrink=shrink)
    if found is None:
        return None
    name, case = found
    broken = _broken(laws[name], case)
    if broken is None:
        detail = "it was broken once, and kept when asked again: the loss is not deterministic."
        broken = (Violation(detail, case.flow), None)
    return Finding(name, case, *broken)


def _grown(
    laws: Mapping[str, Check], family: Family, seed: int, grouped: bool, policies: Policies, shrink: bool
) -> Finding | None:
    def case_of(size: int) -> LossCase:
        spread = int(family.spread)
        return case_on(family.build(size, seed), [spread] * 3, seed, 3 if grouped else None, policies)

    largest = case_of(family.size)
    for name, law in laws.items():
        if _broken(law, largest) is not None:
            for size in range(1 if shrink else family.size, family.size + 1):
                case = case_of(size)
                if (broken := _broken(law, case)) is not None:
                    return Finding(name, case, *broken, large=True)
            detail = "it was broken once, and kept when asked again: the loss is not deterministic."
            return Finding(name, largest, Violation(detail, largest.flow), None)
    return None


def _broken(law: Check, case: LossCase) -> tuple[Violation, Exception | None] | None:
    try:
        violation = law(case)
    except Exception as error:
        # Whatever a loss raises on a valid flow is a finding.
        return Violation(f"it raised {type(error).__name__}: {error}", case.flow), error
    return None if violation is None else (violation, None)
