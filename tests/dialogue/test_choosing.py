"""Acting without search: who is among the best few, and how often each is drawn."""

from typing import get_args

import numpy as np
import pytest
import torch
from examples.aflow_esc.config import Method
from examples.aflow_esc.inference import Candidate, draw, top_strategies

from gflowdial.estimators.language_model import PolicyOutput

OUTPUT = PolicyOutput(
    log_policy=torch.tensor([[0.5, 0.3, 0.2]]).log(),
    log_value=torch.tensor([[0.0, 0.1, 2.0]]),
    log_state_value=torch.zeros(1),
)
BY_VALUE = ("afpo_released", "afpo_paper_edge", "afpo_paper_state")


@pytest.mark.parametrize("method", get_args(Method))
def test_the_value_speaks_where_it_was_trained_to_rank(method: Method) -> None:
    found = top_strategies(OUTPUT, method, 2)
    if method in BY_VALUE:
        assert [candidate.action for candidate in found] == [2, 0]
        assert found[0].score == pytest.approx(np.log(0.2) + 2.0)
    else:
        assert [candidate.action for candidate in found] == [0, 1]
        assert found[0].score == pytest.approx(np.log(0.5))


def test_more_than_there_are_is_all() -> None:
    assert [candidate.action for candidate in top_strategies(OUTPUT, "afpo_anchored", 9)] == [0, 1, 2]


def test_none_is_refused() -> None:
    with pytest.raises(ValueError, match="top_k is 0: give at least 1"):
        top_strategies(OUTPUT, "afpo_anchored", 0)


def test_candidates_are_drawn_in_proportion() -> None:
    stream = np.random.default_rng(0)
    candidates = [Candidate(4, float(np.log(0.6)) - 800), Candidate(1, float(np.log(0.2)) - 800)]
    drawn = [draw(candidates, stream) for _ in range(4000)]
    assert set(drawn) == {4, 1}
    # Four standard deviations of the share of the first.
    assert np.mean(np.array(drawn) == 4) == pytest.approx(0.75, abs=4 * np.sqrt(0.75 * 0.25 / 4000))
