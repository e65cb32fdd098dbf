"""Certificates with one planted fault each, which `check_certificate` finds; the library's own keeps the laws."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gflowdial import Forest
from gflowdial.metrics import Certificate, certificate
from gflowdial.testing import check_certificate


def of(read: Callable[[Certificate], Tensor]) -> Callable[[Tensor, Tensor, Forest], Tensor]:
    return lambda log_pf, log_reward, forest: read(certificate(log_pf, log_reward, forest))


def test_the_library_keeps_the_laws() -> None:
    check_certificate(of(lambda found: found.bound))
    check_certificate(of(lambda found: found.worst_case), max_examples=20)


FAULTS = {
    "a spread divided by five": (of(lambda found: torch.tanh(found.spread / 5)), "at least the total variation"),
    "a divergence halved": (of(lambda found: (found.kl_policy / 3).sqrt()), "at least the total variation"),
    "no number": (of(lambda found: found.bound * torch.nan), "at least the total variation"),
    "never below a tenth": (of(lambda found: found.bound.clamp(min=0.1)), "zero for the exact policy"),
    "the reward itself": (
        lambda log_pf, log_reward, forest: (
            certificate(log_pf, log_reward, forest).bound * (1 + log_reward.max().clamp(min=0))
        ),
        "log Z does not matter",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_found(name: str) -> None:
    bound, law = FAULTS[name]
    with pytest.raises(AssertionError, match=f"breaks the law '{law}'"):
        check_certificate(bound)
