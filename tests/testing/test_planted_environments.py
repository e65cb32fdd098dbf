"""A small grid with one planted fault each: `check_environment` finds it, near the start, and says how to get there."""

import pytest
from torch import Tensor

from benchmarks.mutants.environments import (
    FAULTS,
    BackwardMaskForgets,
    Grid,
    RewardOfZero,
    StepsAtRandom,
    StopCannotBeReached,
)
from gflowdial import testing
from gflowdial.envs import Environment


def finding(environment: Environment, max_states: int = 200) -> str:
    with pytest.raises(AssertionError) as caught:
        testing.check_environment(environment, max_states=max_states, max_actions=100)
    return str(caught.value)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_faults_are_found(fault: type[Grid]) -> None:
    message = finding(fault())
    assert message.startswith(f"{fault.__name__} breaks a law of environments (")
    assert FAULTS[fault] in message
    assert len(message) < 400


def test_the_grid_without_a_fault_is_sound() -> None:
    testing.check_environment(Grid())
    # Too small a horizon for breadth alone: the walks do the rest.
    testing.check_environment(Grid(), max_states=5)


@pytest.mark.parametrize("fault", [RewardOfZero, StopCannotBeReached, StepsAtRandom], ids=lambda fault: fault.__name__)
def test_walks_find_what_lies_beyond_the_nearest_states(fault: type[Grid]) -> None:
    assert FAULTS[fault] in finding(fault(), max_states=3)


def test_the_reported_state_is_the_nearest_with_the_way_to_it() -> None:
    assert finding(BackwardMaskForgets()) == (
        "BackwardMaskForgets breaks a law of environments ('step_back undoes step'): the masks disagree: action 1 "
        "leads from [0, 1, 0, 0] (reached from initial state [0, 0, 0, 0] by actions 0) to [0, 1, 1, 0], whose "
        "backward mask forbids action 1."
    )


def test_an_environments_own_assertion_is_passed_on() -> None:
    class Asserts(Grid):
        def features(self, states: Tensor) -> Tensor:  # noqa: ARG002
            raise AssertionError("of my own")

    assert finding(Asserts()) == "of my own"
