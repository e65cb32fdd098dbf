"""Outcomes of several distributions, in any order, and what a plain function says of each by itself."""

from collections.abc import Callable

import torch
from hypothesis import strategies as st
from torch import Tensor

from gflowdial import segments
from gflowdial.segments import Segments
from gflowdial.testing import vectors


@st.composite
def groupings(draw: st.DrawFn, least: int = 1, most: int = 6) -> Segments:
    """One to four groups of ``least`` to ``most`` items each, interleaved."""
    sizes = draw(st.lists(st.integers(least, most), min_size=1, max_size=4))
    ids = draw(st.permutations([group for group, size in enumerate(sizes) for _ in range(size)]))
    return Segments.from_ids(torch.tensor(ids), len(sizes))


@st.composite
def distributions(draw: st.DrawFn, groups: Segments, spread: float = 30.0) -> Tensor:
    """Log-probabilities that sum to 1 within each group, over up to e^(2·spread); some of probability 0."""
    size = len(groups.ids)
    logits = draw(vectors(size, -spread, spread))
    keep = torch.tensor(draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    for group in range(groups.count):
        # One outcome at least can happen.
        keep[torch.nonzero(groups.ids == group)[0]] = True
    logits = torch.where(keep, logits, -torch.inf)
    return logits - segments.logsumexp(logits, groups)[groups.ids]


def each(groups: Segments, plain: Callable[..., float], *values: Tensor) -> Tensor:
    """What ``plain`` says of each group's values, as numpy arrays."""
    rows = [[v[groups.ids == group].numpy() for v in values] for group in range(groups.count)]
    return torch.tensor([float(plain(*row)) for row in rows], dtype=torch.float64)
