"""Checkers find the faults of the catalogue that no other test plants, and pass what is unusual and sound."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from benchmarks.mutants import (
    environments,
    estimators,
    language_models,
    losses,
    samplers,
    search_environments,
    sound_environments,
    tasks,
)
from gflowdial.envs import enumerate_states
from gflowdial.testing import (
    check_environment,
    check_estimator,
    check_loss,
    check_search_environment,
    check_task,
    from_padded,
)

LOSSES = losses.faults()
# The run-time type checker of the tests refuses these first.
BY_TYPE = (estimators.PolicyInIntegers, "actions in floats", "truth values of NumPy")
# One of each kind; `python -m benchmarks mutations` tries all.
LARGE = {
    "δ: nothing deeper than 200": "positive off balance",
    "δ: no trees behind the 32nd": "positive off balance",
    "δ: no children behind the 64th": "numbering does not matter",
    "DB: R at most 10": "a common shift",
    "DB: flows of F": "a common shift",
    "DB: all in float16": "float32 or better",
    "δ: square in bfloat16": "float32 or better",
    "δ: dead zone": "positive off balance",
    "δ: periodic": "positive off balance",
}


def refusal(check: Callable[[], object]) -> str:
    with pytest.raises(AssertionError) as caught:
        check()
    return str(caught.value)


@pytest.mark.parametrize("name", LARGE)
def test_losses_that_are_wrong_in_large_cases(name: str) -> None:
    assert f"breaks the law '{LARGE[name]}" in refusal(lambda: check_loss(LOSSES[name], max_examples=10))


def test_the_reported_chain_is_the_shortest() -> None:
    message = refusal(lambda: check_loss(LOSSES["δ: nothing deeper than 50"], max_examples=5))
    assert int(message.split(" nodes:")[0].rpartition(" ")[2]) <= 56


@pytest.mark.parametrize("name", ["asserts log P_F ≤ 0", "asserts that P_F sums to 1", "float32", "linex"])
def test_sound_unusual_losses_pass(name: str) -> None:
    check_loss(losses.SOUND[name], max_examples=10)


def test_losses_of_padded_batches_need_no_forests() -> None:
    check_loss(from_padded(losses.of_padded), max_examples=5)

    def short(log_flow: Tensor, log_pf: Tensor, log_pb: Tensor, log_reward: Tensor, mask: Tensor) -> Tensor:
        seen = mask & (torch.arange(mask.shape[1]) < 100)
        return losses.of_padded(log_flow, log_pf, log_pb, log_reward, seen)

    assert "breaks the law" in refusal(lambda: check_loss(from_padded(short), max_examples=5))


@pytest.mark.slow
def test_a_loss_that_renormalises_is_told_which_policies_it_is_for() -> None:
    from gflowdial import segments
    from gflowdial.losses import detailed_balance
    from gflowdial.segments import Segments

    def renormalised(log_flow: Tensor, log_pf: Tensor, *rest: Tensor) -> Tensor:
        forest = rest[-1]
        total = segments.logsumexp(log_pf, Segments.from_ids(forest.edge_parent, forest.num_nodes))
        return detailed_balance(log_flow, log_pf - total[forest.edge_parent], *rest)

    assert "policies='normalised'" in refusal(lambda: check_loss(renormalised, max_examples=10))
    check_loss(renormalised, policies="normalised", max_examples=10)


def test_laws_are_left_out_by_name() -> None:
    fault = LOSSES["whole: a constant"]
    check_loss(fault, leave_out=["zero at balance"], max_examples=10)
    with pytest.raises(ValueError, match="'zero', which is no law here: choose from one finite number"):
        check_loss(fault, leave_out=["zero"])
    check_environment(environments.ForgetsACounter(), leave_out=["features tell states apart"])
    check_estimator(estimators.SlightlyOff(), estimators.GRID, leave_out=["log_pf is a policy", "the same again"])


@pytest.mark.parametrize("fault", environments.MORE_FAULTS, ids=lambda fault: fault.__name__)
def test_environments(fault: type[environments.Grid]) -> None:
    assert "breaks a law of environments" in refusal(lambda: check_environment(fault()))


def test_a_buffer_and_forgotten_features_are_named() -> None:
    assert "returns a buffer of its own" in refusal(lambda: check_environment(environments.OwnBuffer()))
    # Also where the environment is too large for its exact flow.
    message = refusal(lambda: check_environment(environments.ForgetsACounter(), max_states=12))
    assert "features do not tell states" in message


@pytest.mark.parametrize("made", sound_environments.SOUND, ids=lambda made: made.__name__)
def test_sound_unusual_environments_pass(made: type[environments.Grid]) -> None:
    check_environment(made())


def test_states_with_bit_63_can_be_enumerated_and_found() -> None:
    graph = enumerate_states(sound_environments.Bits())
    assert torch.equal(graph.index(graph.states), torch.arange(len(graph.states)))
    assert int(graph.states.min()) < 0


@pytest.mark.parametrize(
    "fault", [f for f in estimators.MORE_FAULTS if f not in BY_TYPE], ids=lambda fault: fault.__name__
)
def test_estimators(fault: type[estimators.Linear]) -> None:
    message = refusal(lambda: check_estimator(fault(), estimators.GRID))
    assert "breaks a law of estimators" in message
    assert ("precision" in message) == (fault is estimators.SumsToMoreInFloat16)


@pytest.mark.parametrize("made", estimators.SOUND, ids=lambda made: made.__name__)
def test_sound_unusual_estimators_pass(made: type[estimators.Linear]) -> None:
    check_estimator(made(), estimators.GRID)


@pytest.mark.parametrize("name", search_environments.WORLDS)
def test_search_environments(name: str) -> None:
    world = search_environments.WORLDS[name]
    assert "breaks a law of search environments" in refusal(lambda: check_search_environment(world, world.roots))


def test_a_search_environments_buffer_is_named() -> None:
    world = search_environments.OwnBuffer()
    assert "a buffer of its own" in refusal(lambda: check_search_environment(world, world.roots))


@pytest.mark.parametrize("name", [name for name in search_environments.SOUND if name not in BY_TYPE])
def test_sound_unusual_search_environments_pass(name: str) -> None:
    world = search_environments.SOUND[name]
    check_search_environment(world, world.roots)


@pytest.mark.parametrize("name", tasks.FAULTS)
def test_tasks(name: str) -> None:
    assert "task 'small' breaks a law of tasks" in refusal(lambda: check_task(tasks.FAULTS[name]))


@pytest.mark.parametrize("name", tasks.SOUND)
def test_sound_unusual_tasks_pass(name: str) -> None:
    check_task(tasks.SOUND[name])


def test_tasks_refuse_roles_that_they_do_not_have() -> None:
    with pytest.raises(ValueError, match="no roles 'local'"):
        check_task(tasks.TASK, roles=["local"])


@pytest.mark.parametrize("name", [name for name in samplers.TRAJECTORIES if name not in BY_TYPE])
def test_trajectories(name: str) -> None:
    message = refusal(samplers.FAULTS["check_trajectories"][name])
    assert message.startswith("the trajectories break a law ('")


@pytest.mark.parametrize("name", samplers.SOUND["check_trajectories"])
def test_sound_trajectories_pass(name: str) -> None:
    samplers.SOUND["check_trajectories"][name]()


@pytest.mark.parametrize("name", language_models.FAULTS)
def test_language_models(name: str) -> None:
    with pytest.raises((AssertionError, ValueError)):
        language_models.FAULTS[name]()


@pytest.mark.parametrize("name", language_models.SOUND)
def test_sound_language_models_pass(name: str) -> None:
    language_models.SOUND[name]()
