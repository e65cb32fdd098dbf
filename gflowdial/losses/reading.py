"""Readings: the inputs of losses by their argument names, and the value of any loss on one.

An estimator on trajectories of an environment, a language model on search trees and tensors of one's own all become a
`Reading`, so that a loss is written once and trains wherever its inputs are known.
"""

from collections.abc import Callable, Hashable, Iterator
from difflib import get_close_matches
from functools import lru_cache, partial
from inspect import Parameter, signature
from typing import Any, TypeVar

import torch

from gflowdial.forest import Forest
from gflowdial.shapes import Float, Tensor

Function = TypeVar("Function", bound=Callable[..., Any])

LOSSES: dict[str, Callable[..., Tensor]] = {}
"""All losses by name: the functions that `gflowdial.losses` exports, other than penalties and helpers."""


class Reading:
    """Inputs of losses by argument name. Each is computed once, when a loss first asks for it.

    ::

        reading = losses.Reading(forest, log_z=log_z, log_pf=log_pf, log_pb=None, log_reward=log_reward)
        losses.loss_on("trajectory_balance", reading)

    Args:
        forest: which state follows which.
        inputs: the other inputs; a callable without arguments is called when its value is first asked for. None is a
            value: ``log_pb=None`` is an input.
    """

    def __init__(self, forest: Forest, **inputs: Any) -> None:
        self._inputs: dict[str, Any] = {"forest": forest, **inputs}

    def __iter__(self) -> Iterator[str]:
        """The names of all inputs."""
        return iter(self._inputs)

    def __contains__(self, name: object) -> bool:
        return name in self._inputs

    def __getitem__(self, name: str) -> Any:
        """The input ``name``.

        Raises:
            ValueError: there is none of that name.
        """
        return self.ask(name, "the caller")

    def ask(self, name: str, loss: str) -> Any:
        """The input ``name`` for ``loss``, which an error names.

        Raises:
            ValueError: there is none of that name.
        """
        if name not in self._inputs:
            raise ValueError(f"{loss} needs {name}, which this reading has not; it has {', '.join(self)}.")
        value = self._inputs[name]
        if callable(value):
            value = self._inputs[name] = value()
        return value


class Sum:
    """A composed loss: the sum of named terms, each of which reads its own inputs.

    ::

        Sum(balance="subtrajectory_balance", kl=partial(losses.reference_kl, weight=0.1))

    Args:
        terms: losses by the names of the terms, as `loss_on` takes them.

    Raises:
        ValueError: a term is a name that no loss has.
    """

    def __init__(self, **terms: "Loss") -> None:
        self.losses = {name: loss_named(loss) for name, loss in terms.items()}

    def terms(self, reading: Reading) -> dict[str, Float[Tensor, "*trees"]]:
        """The value of each term on ``reading``."""
        return {name: loss_on(loss, reading) for name, loss in self.losses.items()}


Loss = str | Callable[..., Tensor] | Sum
"""A name of `LOSSES`, a function (or partial) whose parameters are names of inputs, or a `Sum`."""


def loss_on(loss: Loss, reading: Reading, **options: Any) -> Float[Tensor, "*trees"]:
    """The value of ``loss`` on ``reading``.

    A parameter of the loss is, in this order: what ``options`` or a partial binds, the reading's input of that name,
    its own default.

    Args:
        loss: a name of `LOSSES`, a function or partial of inputs, or a `Sum`.
        reading: the inputs.
        options: options of the loss; a `Sum` takes none, its terms are partials.

    Raises:
        ValueError: an input is missing, or no loss has the name.
    """
    function = loss_named(loss)
    if isinstance(function, Sum):
        return torch.stack(list(function.terms(reading).values())).sum(0)
    name, part = _name(function), _part(function)
    source = reading if part is None else reading.ask(part, name)
    taken = {
        parameter: source.ask(parameter, name)
        for parameter, required in _parameters(function).items()
        if parameter not in options and (required or parameter in source)
    }
    return function(**taken, **options)


def inputs_of(loss: Loss) -> frozenset[str]:
    """The names of the inputs that a reading must have for ``loss``.

    Raises:
        ValueError: no loss has the name.
    """
    function = loss_named(loss)
    if isinstance(function, Sum):
        return frozenset[str]().union(*map(inputs_of, function.losses.values()))
    part = _part(function)
    if part is not None:
        return frozenset({part})
    return frozenset(parameter for parameter, required in _parameters(function).items() if required)


def loss_named(loss: Loss) -> Callable[..., Tensor] | Sum:
    """The loss that a name stands for; anything else is returned as it is.

    Raises:
        ValueError: no loss has the name.
    """
    if not isinstance(loss, str):
        return loss
    if loss not in LOSSES:
        close = " or ".join(get_close_matches(loss, LOSSES, n=3)) or f"one of {', '.join(LOSSES)}"
        raise ValueError(f"{loss!r} is the name of no loss: choose {close}.")
    return LOSSES[loss]


def reads(part: str) -> Callable[[Function], Function]:
    """A decorator of losses whose inputs are those of another reading, the input ``part`` of the reading they get."""

    def mark(loss: Function) -> Function:
        loss.reads = part  # type: ignore[attr-defined]
        return loss

    return mark


def _parameters(function: Callable[..., Any]) -> dict[str, bool]:
    """The parameters of a loss that nothing binds yet, and whether each is required."""
    bound = function.keywords if isinstance(function, partial) else {}
    read = _signature if isinstance(function, Hashable) else _signature.__wrapped__
    return {name: required for name, required in read(function).items() if name not in bound}


@lru_cache(maxsize=256)
def _signature(function: Callable[..., Any]) -> dict[str, bool]:
    return {
        name: parameter.default is Parameter.empty
        for name, parameter in signature(function).parameters.items()
        if parameter.kind not in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    }


def _part(function: Callable[..., Any]) -> str | None:
    part: str | None = getattr(_whole(function), "reads", None)
    return part


def _name(function: Callable[..., Any]) -> str:
    whole = _whole(function)
    return getattr(whole, "__name__", type(whole).__name__)


def _whole(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function behind a partial."""
    return function.func if isinstance(function, partial) else function
