"""What `check_loss` draws, and its search for the smallest case against a law."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from hypothesis import find, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

from gflowdial.forest import Forest
from gflowdial.shapes import Int, Tensor
from gflowdial.testing.flows import Flow

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn
else:
    DrawFn = Callable


@dataclass(frozen=True, eq=False)
class LossCase:
    """A balanced flow, which of its trees share a log Z, and a seed for what a law chooses by itself.

    log F is balanced at inner nodes and at roots; at leaves below a root it is anything, for log R stands there.
    """

    flow: Flow
    groups: Int[Tensor, " trees"]
    seed: int

    @cached_property
    def unbalanced(self) -> Flow:
        """The flow with noise on everything, in tenths of a nat so that it reads well."""
        flow, generator = self.flow, self.generator

        def noisy(values: Tensor) -> Tensor:
            return values + torch.randint(-10, 11, values.shape, generator=generator) / 10

        log_flow = noisy(flow.log_flow)
        return Flow(
            flow.forest,
            log_flow[flow.forest.roots],
            log_flow,
            noisy(flow.log_pf),
            noisy(flow.log_pb),
            noisy(flow.log_reward),
        )

    @property
    def generator(self) -> torch.Generator:
        """A fresh stream of random numbers, the same each time."""
        return torch.Generator().manual_seed(self.seed)


@st.composite
def loss_cases(draw: DrawFn, forests: st.SearchStrategy[Forest], grouped: bool) -> LossCase:
    """Cases on ``forests``; where ``grouped``, trees share log Z at random, else every tree has its own.

    Hypothesis draws (and shrinks) the forest and how large the numbers are; the numbers themselves, in tenths of a
    nat, come from a seed, which is faster and reads well.
    """
    forest = draw(forests)
    spread_flow, spread_backward, spread_at_leaves = (draw(st.sampled_from([0, 1, 5])) for _ in range(3))
    seed = draw(st.integers(0, 1000))
    generator = torch.Generator().manual_seed(seed)

    def tenths(size: int, spread: int) -> Tensor:
        return torch.randint(-10 * spread, 10 * spread + 1, (size,), generator=generator).double() / 10

    log_flow = tenths(forest.num_nodes, spread_flow)
    groups = torch.arange(forest.num_trees)
    if grouped:
        drawn = torch.randint(draw(st.integers(1, 3)), (forest.num_trees,), generator=generator)
        # Ids without gaps, which a loss may count on.
        groups = torch.unique(drawn, return_inverse=True)[1]
        log_flow[forest.roots] = log_flow[forest.roots][groups]
    log_pb = -tenths(forest.num_edges, spread_backward).abs()
    log_pf = log_flow[forest.edge_child] - log_flow[forest.edge_parent] + log_pb
    flow = Flow(forest, log_flow[forest.roots], log_flow, log_pf, log_pb, log_flow[forest.leaves])
    below = forest.leaves[forest.parent[forest.leaves] >= 0]
    return LossCase(
        replace(flow, log_flow=flow.log_flow.index_add(0, below, tenths(len(below), spread_at_leaves))), groups, seed
    )


@dataclass(frozen=True)
class Violation:
    """What a law found on a case: a sentence, and the flow it is about."""

    detail: str
    flow: Flow


@dataclass(frozen=True)
class Law:
    """A statement about every case, and its check."""

    name: str
    check: Callable[[LossCase], Violation | None]


@dataclass(frozen=True)
class Finding:
    """The smallest case found against a law, and what was raised there, if anything was."""

    law: Law
    case: LossCase
    violation: Violation
    raised: Exception | None


def smallest_against(laws: Sequence[Law], cases: st.SearchStrategy[LossCase], max_examples: int) -> Finding | None:
    """The smallest of ``cases`` against one of ``laws``; None if ``max_examples`` cases keep them all."""
    suspects = list(laws)

    def breaks_one(case: LossCase) -> bool:
        for law in suspects:
            if _broken(law, case) is not None:
                # From now on this law alone, so that shrinking stays with it.
                suspects[:] = [law]
                return True
        return False

    try:
        case = find(
            cases,
            breaks_one,
            settings=settings(max_examples=max_examples, derandomize=True, database=None, deadline=None),
        )
    except NoSuchExample:
        return None
    law = suspects[0]
    broken = _broken(law, case)
    if broken is None:
        broken = (
            Violation("it was broken once, and kept when asked again: the loss is not deterministic.", case.flow),
            None,
        )
    return Finding(law, case, *broken)


def _broken(law: Law, case: LossCase) -> tuple[Violation, Exception | None] | None:
    try:
        violation = law.check(case)
    except Exception as error:
        # Whatever a loss raises on a valid flow is a finding.
        return Violation(f"it raised {type(error).__name__}: {error}", case.flow), error
    return None if violation is None else (violation, None)
