"""Acting without search: which moves are among the best few, and how often each is drawn."""

import numpy as np
import pytest

from gflowdial.dialogue.choosing import Candidate, draw, top_moves
from gflowdial.training.methods import method, method_names

LOG_POLICY = np.log([0.5, 0.3, 0.2])
LOG_VALUE = np.array([0.0, 0.1, 2.0])
RELEASED = {"afpo_released_first", "afpo_released_second", "afpo_without_flow_balance"}
BY_VALUE = RELEASED | {"afpo_paper_edge", "afpo_paper_state"}


@pytest.mark.parametrize("name", method_names())
def test_the_value_counts_where_it_was_trained_to_rank(name: str) -> None:
    ranks = method(name).ranks_by_value
    assert ranks == (name in BY_VALUE)
    found = top_moves(LOG_POLICY, 2, LOG_VALUE if ranks else None)
    if ranks:
        assert [candidate.action for candidate in found] == [2, 0]
        assert found[0].score == pytest.approx(np.log(0.2) + 2.0)
    else:
        assert [candidate.action for candidate in found] == [0, 1]
        assert found[0].score == pytest.approx(np.log(0.5))


def test_more_than_there_are_is_all() -> None:
    assert [candidate.action for candidate in top_moves(LOG_POLICY, 9)] == [0, 1, 2]


def test_a_forbidden_move_is_no_candidate() -> None:
    log_policy = np.array([-np.inf, np.log(0.4), np.log(0.6)])
    assert [candidate.action for candidate in top_moves(log_policy, 3)] == [2, 1]
    assert [candidate.action for candidate in top_moves(log_policy, 1, np.array([99.0, 9.0, 0.0]))] == [1]


def test_none_is_refused() -> None:
    with pytest.raises(ValueError, match="top_k is 0: give at least 1"):
        top_moves(LOG_POLICY, 0)


def test_candidates_are_drawn_in_proportion() -> None:
    stream = np.random.default_rng(0)
    candidates = [Candidate(4, float(np.log(0.6)) - 800), Candidate(1, float(np.log(0.2)) - 800)]
    drawn = [draw(candidates, stream) for _ in range(4000)]
    assert set(drawn) == {4, 1}
    # Four standard deviations of the share of the first.
    assert np.mean(np.array(drawn) == 4) == pytest.approx(0.75, abs=4 * np.sqrt(0.75 * 0.25 / 4000))
