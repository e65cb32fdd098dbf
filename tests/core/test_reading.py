"""A reading gives each loss its inputs by name, computes each once, and names what is missing."""

import inspect
from functools import partial

import pytest
import torch
from torch import Tensor

from gflowdial import Forest, losses
from gflowdial.losses import Reading, Sum, inputs_of, loss_on, paths, penalties

FOREST = Forest.from_lengths([2, 3])


def numbers(size: int, seed: int) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def own(**inputs: object) -> Reading:
    """Tensors of one's own."""
    settings = {"log_z": numbers(2, 0), "log_flow": numbers(7, 1), "log_pf": numbers(5, 2), "log_pb": None}
    return Reading(FOREST, **(settings | {"log_reward": numbers(2, 3)} | inputs))


def test_every_exported_loss_is_registered_and_nothing_else() -> None:
    functions = {name for name in losses.__all__ if inspect.isfunction(getattr(losses, name))}
    helpers = {"inputs_of", "loss_on", "require_finite", "turn_credit", *dir(paths)}
    assert set(losses.LOSSES) == functions - helpers - {name for name in functions if hasattr(penalties, name)}
    assert all(losses.LOSSES[name] is getattr(losses, name) for name in losses.LOSSES)


@pytest.mark.parametrize("name", ["trajectory_balance", "detailed_balance", "subtrajectory_balance", "afpo"])
def test_a_loss_on_a_reading_is_the_direct_call(name: str) -> None:
    reading = own()
    function = losses.LOSSES[name]
    first = reading["log_z" if name == "trajectory_balance" else "log_flow"]
    expected = function(first, reading["log_pf"], None, reading["log_reward"], FOREST)
    assert loss_on(name, reading) == loss_on(function, reading) == expected


def test_inputs_are_computed_once_and_only_if_they_are_read() -> None:
    asked: list[str] = []

    def lazy(name: str, value: Tensor | None) -> object:
        return lambda: asked.append(name) or value

    reading = own(log_pf=lazy("log_pf", numbers(5, 2)), log_pb=lazy("log_pb", None), log_z=lazy("log_z", numbers(2, 0)))
    assert asked == []
    assert set(reading) == {"forest", "log_z", "log_flow", "log_pf", "log_pb", "log_reward"}
    loss_on("detailed_balance", reading)
    loss_on("subtrajectory_balance", reading)
    assert sorted(asked) == ["log_pb", "log_pf"]


def test_what_is_missing_is_named_with_what_there_is() -> None:
    reading = Reading(FOREST, log_pf=numbers(5, 2))
    with pytest.raises(
        ValueError, match="detailed_balance needs log_flow, which this reading has not; it has forest, log_pf"
    ):
        loss_on("detailed_balance", reading)
    with pytest.raises(ValueError, match="detailed_balance needs log_flow"):
        loss_on(partial(losses.detailed_balance, penalty=losses.huber), reading)
    with pytest.raises(ValueError, match="needs log_z, which this reading has not"):
        _ = reading["log_z"]


def test_options_come_before_inputs_and_inputs_before_defaults() -> None:
    def loss(log_pf: Tensor, scale: float = 1.0, shift: float = 0.0) -> Tensor:
        return log_pf.sum() * scale + shift

    reading = own(scale=2.0)
    plain = reading["log_pf"].sum()
    assert loss_on(loss, reading) == 2 * plain
    assert loss_on(partial(loss, scale=3.0), reading) == 3 * plain
    assert loss_on(loss, reading, scale=4.0, shift=1.0) == 4 * plain + 1
    # None that a partial binds is not replaced by the reading's.
    assert loss_on(partial(losses.maximum_likelihood, log_reward=None), reading) == losses.maximum_likelihood(
        reading["log_pf"], None, FOREST
    )


def test_callables_of_every_kind_are_losses() -> None:
    class Scaled:
        def __call__(self, log_pf: Tensor, **_: object) -> Tensor:
            return 2 * log_pf.sum()

    assert loss_on(Scaled(), own()) == 2 * own()["log_pf"].sum()
    assert inputs_of(Scaled()) == {"log_pf"}
    with pytest.raises(ValueError, match="Scaled needs log_pf"):
        loss_on(Scaled(), Reading(FOREST))


def test_a_sum_adds_its_terms_and_gives_them_by_name() -> None:
    reading = own(
        log_policy=numbers(6, 4).view(2, 3).log_softmax(1), log_reference_policy=torch.zeros(2, 3).log_softmax(1)
    )
    total = Sum(balance="trajectory_balance", kl=partial(losses.reference_kl, weight=0.5))
    terms = total.terms(reading)
    assert list(terms) == ["balance", "kl"]
    assert terms["balance"] == loss_on("trajectory_balance", reading)
    assert terms["kl"] == losses.reference_kl(reading["log_policy"], reading["log_reference_policy"], weight=0.5)
    assert loss_on(total, reading) == sum(terms.values())
    assert loss_on(Sum(all=total, again="trajectory_balance"), reading) == sum(terms.values()) + terms["balance"]
    assert inputs_of(total) == {
        "forest",
        "log_z",
        "log_pf",
        "log_pb",
        "log_reward",
        "log_policy",
        "log_reference_policy",
    }


def test_a_part_of_a_reading_is_read_where_a_loss_says_so() -> None:
    forest = Forest.from_lengths([1, 2])
    stop = Reading(forest, log_stop=numbers(5, 5), log_pf=numbers(3, 6), log_pb=None, log_reward=numbers(5, 7))
    reading = own(stopping=lambda: stop)
    direct = losses.modified_detailed_balance(stop["log_stop"], stop["log_pf"], None, stop["log_reward"], forest)
    assert loss_on("modified_detailed_balance", reading) == direct
    assert loss_on(partial(losses.modified_detailed_balance, penalty=losses.squared), reading) == direct
    assert inputs_of("modified_subtrajectory_balance") == {"stopping"}
    assert inputs_of(partial(losses.flow_matching, penalty=losses.huber)) == {"states"}
    with pytest.raises(ValueError, match="flow_matching needs states, which this reading has not"):
        loss_on("flow_matching", reading)


def test_unknown_names_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match="'detailed_ballance' is the name of no loss: choose detailed_balance"):
        Sum(balance="detailed_ballance")
    with pytest.raises(ValueError, match="'zzz' is the name of no loss: choose one of afpo, "):
        loss_on("zzz", own())


def test_behaviour_cloning_is_the_cross_entropy_to_the_visits() -> None:
    # Two trees: a root with two actions, one of which is gone on from; and a single node.
    forest = Forest.from_parents(torch.tensor([-1, 0, 0, 1, -1]))
    log_pf, visits = torch.tensor([-1.0, -2.0, -0.5]), torch.tensor([6.0, 2.0, 3.0])
    expected = ((6 / 8 * 1 + 2 / 8 * 2) + 0.5) / 2 / 2
    torch.testing.assert_close(losses.behaviour_cloning(log_pf, visits, forest), torch.tensor(expected))
    # A state without visits does not count, whatever its policy.
    unvisited = torch.tensor([6.0, 2.0, 0.0])
    log_pf = torch.tensor([-1.0, -2.0, -torch.inf], requires_grad=True)
    loss = losses.behaviour_cloning(log_pf, unvisited, forest)
    torch.testing.assert_close(loss, torch.tensor((6 / 8 * 1 + 2 / 8 * 2) / 2))
    loss.backward()
    torch.testing.assert_close(log_pf.grad, torch.tensor([-6 / 16, -2 / 16, 0.0]))
