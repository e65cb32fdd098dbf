"""Certificates with one planted fault each, which `check_certificate` finds; the library's own keeps the laws."""

import pytest
import torch
from torch import Tensor

from gflowdial import Forest, oracle, segments
from gflowdial.metrics import certificate
from gflowdial.segments import Segments
from gflowdial.testing import check_certificate


def spread(log_pf: Tensor, log_reward: Tensor, forest: Forest) -> Tensor:
    """The range of log R - log P_F over the leaves of each tree."""
    zeta = log_reward - oracle.terminating_distribution(forest, log_pf)
    trees = Segments.from_ids(forest.leaf_tree, forest.num_trees)
    return segments.max(zeta, trees) + segments.max(-zeta, trees)


def test_the_library_keeps_the_laws() -> None:
    check_certificate(lambda *policy: certificate(*policy).bound)


def test_so_do_the_worst_case_and_the_published_bound() -> None:
    check_certificate(lambda *policy: torch.tanh(spread(*policy) / 4))
    check_certificate(lambda *policy: 1 - torch.exp(-spread(*policy)))


FAULTS = {
    "a spread divided by five": (lambda *policy: torch.tanh(spread(*policy) / 5), "at least the total variation"),
    "no number": (lambda *policy: spread(*policy) * torch.nan, "at least the total variation"),
    "never below a tenth": (lambda *policy: 0.1 + spread(*policy), "zero for the exact policy"),
    "the reward itself": (
        lambda log_pf, log_reward, forest: spread(log_pf, log_reward, forest) * (1 + log_reward.max().clamp(min=0)),
        "log Z does not matter",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_found(name: str) -> None:
    bound, law = FAULTS[name]
    with pytest.raises(AssertionError, match=f"breaks the law '{law}'"):
        check_certificate(bound)
