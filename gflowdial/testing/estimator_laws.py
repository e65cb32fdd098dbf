"""Laws of a flow estimator: policies normalised over valid actions, gradients that are numbers, rows on their own."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch

from gflowdial.envs.environment import Environment
from gflowdial.estimators.flow_estimator import FlowEstimator
from gflowdial.shapes import Bool, Float, Int, Tensor
from gflowdial.testing.broken import BrokenLawError, kept_laws
from gflowdial.testing.exploration import Watched, explore
from gflowdial.testing.precision import FLOAT32, effective_epsilon

Output = Literal["log_pf", "log_pb", "log_flow", "log_z"]

ROUNDINGS = 8
"""Units in the last place by which a sum of probabilities may be off, beside those of the logarithms."""


def check_estimator(
    estimator: FlowEstimator,
    environment: Environment,
    *,
    learned: Sequence[Output] = ("log_pf", "log_flow", "log_z"),
    max_states: int = 100,
    leave_out: Sequence[str] = (),
) -> None:
    """Check what an estimator says of an environment's states, the nearest and some on the way to the end.

    A module is asked in evaluation mode, and set back. Tolerances are those of the dtype of the answers, or of the
    coarser one that holds them. Answers have the shapes of the protocol, and states stay as they are. The other laws,
    by name:

    - "log_pf is a policy": it is normalised over the actions that the forward mask allows and -inf at all others, a
      whole row in terminal states; "log_pb is a policy": the same with the backward mask;
    - "finite": log F and log Z are;
    - "the same again": ``forward_policy`` and ``backward_policy`` say the same as the whole answer, and so does it when
      asked again;
    - "rows alone": what it says of a state does not depend on the other rows, nor on their order;
    - "gradients": they are finite, and reach some parameter from each output in ``learned``.

    Args:
        estimator: what to check.
        environment: keeps its own laws, see `check_environment`.
        learned: the outputs that depend on parameters; add "log_pb" for a learned P_B, leave out what is fixed.
        max_states: how many states are looked at in breadth.
        leave_out: names of laws that are not checked.

    Raises:
        AssertionError: with the law, the state and the numbers.
        ValueError: ``leave_out`` names no law.
    """
    watched = Watched(environment)
    found = explore(watched, max_states, max_actions=1000)
    states = found.tensor[:: max(1, len(found.states) // (2 * max_states))]
    conditions = torch.arange(len(watched.initial_states), device=states.device)
    name, law = type(estimator).__name__, "the protocol"
    with _evaluation_mode(estimator):
        try:
            answer = _Answer.of(estimator, states, conditions)
            forward, backward = watched.forward_mask(states), watched.backward_mask(states)
            laws: dict[str, Callable[[], None]] = {
                "log_pf is a policy": lambda: _normalised("log_pf", "forward", answer.log_pf, forward, states),
                "log_pb is a policy": lambda: _normalised("log_pb", "backward", answer.log_pb, backward, states),
                "finite": lambda: _finite(answer, states),
                "the same again": lambda: _alike(answer, estimator, states, conditions),
                "rows alone": lambda: _alone(answer, estimator, states, conditions),
                "gradients": lambda: _gradients(estimator, states, conditions, forward, backward, learned),
            }
            for law, check in kept_laws(laws, leave_out).items():  # noqa: B007 (named below)
                check()
        except BrokenLawError as broken:
            raise BrokenLawError(f"{name} breaks a law of estimators ('{law}'): {broken}.") from None


@dataclass(frozen=True, eq=False)
class _Answer:
    log_pf: Float[Tensor, "states actions"]
    log_pb: Float[Tensor, "states actions"]
    log_flow: Float[Tensor, " states"]
    log_z: Float[Tensor, " trees"]

    @staticmethod
    def of(
        estimator: FlowEstimator, states: Int[Tensor, "states width"], condition: Int[Tensor, " trees"]
    ) -> "_Answer":
        given = states.clone()
        estimates = estimator(given)
        if not torch.equal(given, states):
            raise BrokenLawError("it changes the states that it is given; work on a clone")
        answer = _Answer(estimates.log_pf, estimates.log_pb, estimates.log_flow, estimator.log_z(condition))
        for name, values, rows in (("log_flow", answer.log_flow, states), ("log_z", answer.log_z, condition)):
            if values.shape != (len(rows),):
                raise BrokenLawError(f"{name} has shape {list(values.shape)} where [{len(rows)}] is due")
        return answer

    def by_state(self) -> dict[str, Tensor]:
        return {"log_pf": self.log_pf, "log_pb": self.log_pb, "log_flow": self.log_flow}


@contextmanager
def _evaluation_mode(estimator: FlowEstimator) -> Iterator[None]:
    modules = list(estimator.modules()) if isinstance(estimator, torch.nn.Module) else []
    training = [module.training for module in modules]
    for module in modules:
        module.training = False
    try:
        yield
    finally:
        for module, mode in zip(modules, training, strict=True):
            module.training = mode


def _normalised(
    name: str, which: str, log_policy: Tensor, mask: Bool[Tensor, "states actions"], states: Tensor
) -> None:
    if log_policy.shape != mask.shape:
        raise BrokenLawError(
            f"{name} has shape {list(log_policy.shape)} where [states, actions] = {list(mask.shape)} is due"
        )
    log_policy = log_policy.detach()
    wrong = {
        "is NaN": log_policy.isnan(),
        f"gives something to an action that the {which} mask forbids": ~mask & (log_policy > -torch.inf),
        "is not finite at a valid action": mask & ~log_policy.isfinite(),
    }
    for what, where in wrong.items():
        for row, action in torch.nonzero(where).tolist()[:1]:
            raise BrokenLawError(
                f"{name} {what}: it is {float(log_policy[row, action].detach()):.6g} at action {action} in state "
                f"{states[row].tolist()}, whose valid actions are {torch.nonzero(mask[row]).squeeze(1).tolist()}"
            )
    p = log_policy.double().exp()
    # Rounding moves log p by |log p| units in the last place, and a probability by that times p.
    units = torch.where(p > 0, p * (1 + log_policy.double().abs()), 0.0).sum(1)
    epsilon = effective_epsilon(log_policy)
    off = torch.nonzero(mask.any(1) & ((p.sum(1) - 1).abs() > ROUNDINGS * epsilon * units)).squeeze(1)
    for row in off.tolist()[:1]:
        raise BrokenLawError(
            f"{name} is not normalised: over the valid actions {torch.nonzero(mask[row]).squeeze(1).tolist()} of state "
            f"{states[row].tolist()} the probabilities sum to {float(p[row].sum()):.6g}"
            + _of_precision(epsilon, float((p[row].sum() - 1).abs()))
        )


def _finite(answer: _Answer, states: Tensor) -> None:
    for row in torch.nonzero(~answer.log_flow.isfinite()).squeeze(1).tolist()[:1]:
        raise BrokenLawError(f"log_flow is {float(answer.log_flow[row].detach())} in state {states[row].tolist()}")
    for row in torch.nonzero(~answer.log_z.isfinite()).squeeze(1).tolist()[:1]:
        raise BrokenLawError(f"log_z is {float(answer.log_z[row].detach())} for condition {row}")


def _alike(answer: _Answer, estimator: FlowEstimator, states: Tensor, conditions: Tensor) -> None:
    again = _Answer.of(estimator, states, conditions)
    for name, values in vars(answer).items():
        _same(f"{name} differs when asked again", values, getattr(again, name), None)
    _same("forward_policy says otherwise than log_pf", answer.log_pf, estimator.forward_policy(states), states)
    _same("backward_policy says otherwise than log_pb", answer.log_pb, estimator.backward_policy(states), states)


def _alone(answer: _Answer, estimator: FlowEstimator, states: Tensor, conditions: Tensor) -> None:
    for row in range(len(states)):
        alone = _Answer.of(estimator, states[row : row + 1], conditions[:1])
        for name, values in alone.by_state().items():
            what = f"rows are not independent: {name} among {len(states)} rows is not what it is alone"
            _same(what, answer.by_state()[name][row : row + 1], values, states[row : row + 1])
    turned = _Answer.of(estimator, states.flip(0), conditions.flip(0))
    for name, values in vars(answer).items():
        what = f"rows are not independent: {name} differs when rows come in another order"
        _same(what, values, getattr(turned, name).flip(0), None)
    for one in range(len(conditions)):
        what = f"rows are not independent: log_z of condition {one} among others is not what it is alone"
        _same(what, answer.log_z[one : one + 1], estimator.log_z(conditions[one : one + 1]), None)


def _gradients(
    estimator: FlowEstimator,
    states: Tensor,
    conditions: Tensor,
    forward: Tensor,
    backward: Tensor,
    learned: Sequence[Output],
) -> None:
    if not isinstance(estimator, torch.nn.Module):
        return
    parameters = {name: values for name, values in estimator.named_parameters() if values.requires_grad}
    answer = _Answer.of(estimator, states, conditions)
    masks = {"log_pf": forward, "log_pb": backward}
    generator = torch.Generator().manual_seed(0)
    for name, values in vars(answer).items():
        mask = masks.get(name, torch.ones_like(values, dtype=torch.bool))
        weight = torch.randn(values.shape, generator=generator).to(values)
        total = (torch.where(mask, values, 0.0) * weight).sum()
        gradients = (
            torch.autograd.grad(total, list(parameters.values()), allow_unused=True, retain_graph=True)
            if total.requires_grad and parameters
            else [None] * len(parameters)
        )
        reached = False
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is None:
                continue
            if not bool(gradient.isfinite().all()):
                raise BrokenLawError(f"the gradient of {name} by parameter {parameter} is not finite")
            reached |= bool((gradient != 0).any())
        has_choice = name not in masks or bool((masks[name].sum(1) > 1).any())
        if not (reached or name not in learned or not has_choice):
            raise BrokenLawError(
                f"no gradient of {name} reaches a parameter; leave it out of `learned` if it is meant to be fixed"
            )


def _same(what: str, a: Tensor, b: Tensor, states: Tensor | None) -> None:
    if a.shape != b.shape:
        raise BrokenLawError(f"{what}: shapes {list(a.shape)} and {list(b.shape)}")
    tolerance = _tolerance(a)
    for row in range(len(a)):
        if not torch.allclose(a[row], b[row], rtol=tolerance, atol=tolerance):
            where = "" if states is None else f" in state {states[row].tolist()}"
            raise BrokenLawError(f"{what}{where}: {_short(a[row])} against {_short(b[row])}")


def _tolerance(values: Tensor) -> float:
    """Room for what the order of a sum changes: in bfloat16 and float16 a few roundings, for more would hide faults."""
    epsilon = effective_epsilon(values)
    return (500 if epsilon <= FLOAT32 else 16) * epsilon


def _of_precision(epsilon: float, off: float) -> str:
    """What to say of a small difference where numbers are coarse."""
    if epsilon <= FLOAT32 or off > 0.5:
        return ""
    return f"; its numbers have the precision {epsilon:g} of bfloat16 or float16: take the log-softmax in float32"


def _short(values: Tensor) -> str:
    listed = [f"{value:.6g}" for value in values.detach().reshape(-1).tolist()]
    return listed[0] if values.ndim == 0 else "[" + ", ".join(listed[:8]) + (", …]" if len(listed) > 8 else "]")
