"""Acting without search: the best few moves by policy and value, and one of them drawn."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Candidate(NamedTuple):
    """A move that may be taken, and log π(a|s), with log V(s, a) added where the value ranks moves."""

    action: int
    score: float


def top_moves(
    log_policy: NDArray[np.float64], top_k: int, log_value: NDArray[np.float64] | None = None
) -> list[Candidate]:
    """The ``top_k`` moves by log π(a|s) + log V(s, a), best first (arXiv 2602.08826); forbidden ones are left out.

    Args:
        log_policy: ``[A]``, -inf at a forbidden move.
        top_k: how many; all where it exceeds the inventory.
        log_value: ``[A]``, of a method that trains V(s, ·) to follow the search's order. In the other methods log V is
            a part of a flow, not a ranking, and log π alone is what samples in proportion to the target: leave it out.

    Raises:
        ValueError: if ``top_k`` is below 1.
    """
    if top_k < 1:
        raise ValueError(f"top_k is {top_k}: give at least 1")
    score = log_policy if log_value is None else log_policy + log_value
    best = [int(action) for action in np.argsort(-score, kind="stable")[:top_k] if score[action] > -np.inf]
    return [Candidate(action, float(score[action])) for action in best]


def draw(candidates: list[Candidate], stream: np.random.Generator) -> int:
    """One of the candidates' actions, in proportion to exp(score)."""
    scores = np.array([candidate.score for candidate in candidates])
    weight = np.exp(scores - scores.max())
    return candidates[stream.choice(len(candidates), p=weight / weight.sum())].action
