"""Laws of an environment: steps and masks that agree in both directions, ends that are reached, rows on their own."""

from collections.abc import Sequence

import torch

from gflowdial.envs.environment import Environment
from gflowdial.shapes import Tensor
from gflowdial.testing.broken import BrokenLawError, kept_laws
from gflowdial.testing.exploration import Explored, Watched, explore
from gflowdial.testing.feature_laws import tell_apart

ROWS_ALONE = 64
"""States that are asked about one by one, spread over those found."""


def check_environment(
    environment: Environment, *, max_states: int = 1000, max_actions: int = 1000, leave_out: Sequence[str] = ()
) -> None:
    """Check that an environment keeps the protocol, on its nearest states and on walks to the end.

    States are found in breadth from the initial ones, so the first that breaks a law is among the nearest. Whatever is
    asked, answers have the shapes and dtypes of the protocol, no method changes its argument or an earlier answer, a
    state belongs to one condition, and walks end. The other laws, by name:

    - "initial states": they have no backward action;
    - "step_back undoes step": after ``step(s, a)`` the backward mask allows a, and ``step_back`` gives s;
    - "step undoes step_back": after ``step_back(s', a)`` the forward mask allows a, and ``step`` gives s'; the state is
      one that trajectories reach;
    - "no circles": no action leads round in a circle;
    - "finite": features are, and so is log R at every end;
    - "the same again": no method answers differently when asked again;
    - "rows alone": what is said of a row does not depend on the other rows;
    - "features tell states apart": two states that are not terminal and have the same features have the same actions,
      and as far as it can be seen the same exact policy and flow, which a network cannot tell apart there.

    Args:
        environment: what to check.
        max_states: how many states are looked at in breadth. An environment with more is checked on these and on a few
            random walks to the end, which cannot show all of it.
        max_actions: a walk of more actions counts as one without end.
        leave_out: names of laws that are not checked.

    Raises:
        AssertionError: with the law, the state, how to get there, and what was answered.
        ValueError: ``leave_out`` names no law.
    """
    laws = kept_laws(_LAWS, leave_out)
    name = type(environment).__name__
    watched, law = Watched(environment), "the protocol"
    try:
        found = explore(watched, max_states, max_actions)
        states = found.tensor
        for law, check in laws.items():  # noqa: B007 (named below)
            check(watched, found, states)
    except BrokenLawError as broken:
        raise BrokenLawError(f"{name} breaks a law of environments ('{law}'): {broken}.") from None


def _initial(environment: Watched, found: Explored, states: Tensor) -> None:  # noqa: ARG001
    initial = environment.initial_states
    for i in torch.nonzero(environment.backward_mask(initial).any(1)).squeeze(1).tolist()[:1]:
        raise BrokenLawError(f"the initial state {initial[i].tolist()} has a backward action")


def _there_and_back(environment: Watched, found: Explored, states: Tensor) -> None:
    row, action = torch.nonzero(environment.forward_mask(states), as_tuple=True)
    if not len(row):
        return
    after = environment.step(states[row], action)
    allowed = environment.backward_mask(after)[torch.arange(len(row), device=row.device), action]
    for i in torch.nonzero(~allowed).squeeze(1).tolist()[:1]:
        raise BrokenLawError(
            f"the masks disagree: {_step(found, states, row, action, i)} to {after[i].tolist()}, whose backward mask "
            f"forbids action {int(action[i])}"
        )
    back = environment.step_back(after, action)
    for i in torch.nonzero((back != states[row]).any(1)).squeeze(1).tolist()[:1]:
        raise BrokenLawError(
            f"step_back does not undo step: {_step(found, states, row, action, i)} to {after[i].tolist()}, and back to "
            f"{back[i].tolist()}"
        )


def _back_and_there(environment: Watched, found: Explored, states: Tensor) -> None:
    row, action = torch.nonzero(environment.backward_mask(states), as_tuple=True)
    if not len(row):
        return
    before = environment.step_back(states[row], action)
    allowed = environment.forward_mask(before)[torch.arange(len(row), device=row.device), action]
    for i in torch.nonzero(~allowed).squeeze(1).tolist()[:1]:
        raise BrokenLawError(
            f"the masks disagree: {_step(found, states, row, action, i)} back to {before[i].tolist()}, whose forward "
            f"mask forbids action {int(action[i])}"
        )
    there = environment.step(before, action)
    for i in torch.nonzero((there != states[row]).any(1)).squeeze(1).tolist()[:1]:
        raise BrokenLawError(
            f"step does not undo step_back: {_step(found, states, row, action, i)} back to {before[i].tolist()}, and "
            f"forward to {there[i].tolist()}"
        )
    if found.complete:
        for i, state in enumerate(before.tolist()):
            if tuple(state) not in found.index:
                raise BrokenLawError(
                    f"step_back leaves the environment: {_step(found, states, row, action, i)} back to {state}, "
                    "which no trajectory reaches"
                )


def _no_circle(environment: Watched, found: Explored, states: Tensor) -> None:
    row, action = torch.nonzero(environment.forward_mask(states), as_tuple=True)
    targets = environment.step(states[row], action).tolist() if len(row) else []
    after: list[list[int]] = [[] for _ in found.states]
    waiting = [0] * len(found.states)
    for source, target in zip(row.tolist(), targets, strict=True):
        if tuple(target) in found.index:
            after[source].append(found.index[tuple(target)])
            waiting[found.index[tuple(target)]] += 1
    free = [state for state, count in enumerate(waiting) if not count]
    while free:
        for target in after[free.pop()]:
            waiting[target] -= 1
            if not waiting[target]:
                free.append(target)
    stuck = {state for state, count in enumerate(waiting) if count}
    if not stuck:
        return
    # What waits for ever lies on a circle or behind one; what has nothing that waits behind it is no part of one.
    while ends := {state for state in stuck if not stuck.intersection(after[state])}:
        stuck -= ends
    circle = [min(stuck)]
    while circle[-1] not in circle[:-1]:
        circle.append(min(stuck.intersection(after[circle[-1]])))
    circle = circle[circle.index(circle[-1]) :]
    shown = " → ".join(str(list(found.states[state])) for state in circle[:8])
    raise BrokenLawError(f"actions lead round in a circle, {shown}, the first of them {found.way(circle[0])}")


def _finite(environment: Watched, found: Explored, states: Tensor) -> None:
    features = environment.features(states)
    for i in torch.nonzero(~features.isfinite().all(1)).squeeze(1).tolist()[:1]:
        raise BrokenLawError(
            f"features are not finite at state {list(found.states[i])}, {found.way(i)}: {features[i].tolist()}"
        )
    ends = torch.nonzero(~environment.forward_mask(states).any(1)).squeeze(1)
    reward = environment.log_reward(states[ends])
    for i in torch.nonzero(~reward.isfinite()).squeeze(1).tolist()[:1]:
        end = int(ends[i])
        raise BrokenLawError(f"log_reward is {float(reward[i])} at the end {list(found.states[end])}, {found.way(end)}")


def _repeatable(environment: Watched, found: Explored, states: Tensor) -> None:  # noqa: ARG001
    for (method, answer, _), (_, again, _) in zip(
        _answers(environment, states), _answers(environment, states), strict=True
    ):
        for row, (one, other) in enumerate(zip(answer, again, strict=True)):
            if not torch.equal(one, other):
                raise BrokenLawError(
                    f"{method} answers differently when asked again about the same states: {one.tolist()}, then "
                    f"{other.tolist()}, in row {row}"
                )
            if row >= ROWS_ALONE:
                break


def _alone(environment: Watched, found: Explored, states: Tensor) -> None:  # noqa: ARG001
    chosen = states[:: 1 + len(states) // ROWS_ALONE]
    for method, answer, asked in _answers(environment, chosen):
        turned = getattr(environment, method)(*(argument.flip(0) for argument in asked)).flip(0)
        for row in range(len(answer)):
            arguments = [argument[row : row + 1] for argument in asked]
            alone = getattr(environment, method)(*arguments)[0]
            if not _same(alone, answer[row]):
                raise BrokenLawError(
                    f"rows are not independent: {method} answers {alone.tolist()} about "
                    f"{', '.join(str(argument[0].tolist()) for argument in arguments)} alone, but "
                    f"{answer[row].tolist()} among {len(answer)} rows"
                )
            if not _same(turned[row], answer[row]):
                raise BrokenLawError(
                    f"rows are not independent: {method} answers {turned[row].tolist()} about "
                    f"{', '.join(str(argument[row].tolist()) for argument in asked)} in another order of rows, but "
                    f"{answer[row].tolist()} before"
                )


def _same(one: Tensor, other: Tensor) -> bool:
    if not one.is_floating_point():
        return torch.equal(one, other)
    return torch.allclose(one, other, rtol=max(1e-5, 4 * torch.finfo(one.dtype).eps))


def _answers(environment: Watched, states: Tensor) -> list[tuple[str, Tensor, tuple[Tensor, ...]]]:
    """What each method says of the states where it is defined: its name, its answer and what it was asked."""
    forward, backward = environment.forward_mask(states), environment.backward_mask(states)
    goes_on, has_before = forward.any(1), backward.any(1)
    asked = {
        "forward_mask": (states,),
        "backward_mask": (states,),
        "features": (states,),
        "step": (states[goes_on], forward[goes_on].long().argmax(1)),
        "step_back": (states[has_before], backward[has_before].long().argmax(1)),
        "log_reward": (states[~goes_on],),
    }
    return [
        (method, getattr(environment, method)(*arguments), arguments)
        for method, arguments in asked.items()
        if len(arguments[0])
    ]


def _step(found: Explored, states: Tensor, row: Tensor, action: Tensor, i: int) -> str:
    state = int(row[i])
    return f"action {int(action[i])} leads from {states[state].tolist()} ({found.way(state)})"


_LAWS = {
    "initial states": _initial,
    "step_back undoes step": _there_and_back,
    "step undoes step_back": _back_and_there,
    "no circles": _no_circle,
    "finite": _finite,
    "the same again": _repeatable,
    "rows alone": _alone,
    "features tell states apart": tell_apart,
}
