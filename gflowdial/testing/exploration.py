"""Which states an environment has: the nearest ones in breadth, and some walks to the end where there are too many."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

from gflowdial.envs.environment import Environment
from gflowdial.shapes import Bool, Float, Int, Tensor
from gflowdial.testing.broken import BrokenLawError

WALKS = 8
"""Walks to the end that are added where breadth does not get there."""


@dataclass(frozen=True)
class Watched:
    """An environment whose answers are checked for their shape and dtype, and whose arguments must stay as they are.

    Raises:
        AssertionError: from any method, with what it answered.
    """

    environment: Environment
    last: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """By method its last answer, and a copy made when it came."""

    @property
    def num_actions(self) -> int:
        return self.environment.num_actions

    @property
    def num_features(self) -> int:
        return self.environment.num_features

    @property
    def initial_states(self) -> Int[Tensor, "conditions width"]:
        states = self.environment.initial_states
        if states.ndim != 2:
            raise BrokenLawError(f"initial_states has shape {list(states.shape)}, not [conditions, width]")
        if len(states) <= 0:
            raise BrokenLawError("initial_states is empty: a trajectory has nowhere to start")
        if states.dtype != torch.int64:
            raise BrokenLawError(f"initial_states is {states.dtype}, not int64")
        return states

    def features(self, states: Int[Tensor, "states width"]) -> Float[Tensor, "states features"]:
        return self._ask("features", (len(states), self.num_features), None, states)

    def forward_mask(self, states: Int[Tensor, "states width"]) -> Bool[Tensor, "states actions"]:
        return self._ask("forward_mask", (len(states), self.num_actions), torch.bool, states)

    def backward_mask(self, states: Int[Tensor, "states width"]) -> Bool[Tensor, "states actions"]:
        return self._ask("backward_mask", (len(states), self.num_actions), torch.bool, states)

    def step(self, states: Int[Tensor, "states width"], actions: Int[Tensor, " states"]) -> Int[Tensor, "states width"]:
        return self._ask("step", tuple(states.shape), torch.int64, states, actions)

    def step_back(
        self, states: Int[Tensor, "states width"], actions: Int[Tensor, " states"]
    ) -> Int[Tensor, "states width"]:
        return self._ask("step_back", tuple(states.shape), torch.int64, states, actions)

    def log_reward(self, states: Int[Tensor, "states width"]) -> Float[Tensor, " states"]:
        return self._ask("log_reward", (len(states),), None, states)

    def _ask(self, method: str, shape: tuple[int, ...], dtype: torch.dtype | None, *arguments: Tensor) -> Tensor:
        """One call; ``dtype`` None means any floating-point type."""
        ask: Callable[..., Tensor] = getattr(self.environment, method)
        given = [argument.clone() for argument in arguments]
        answer = ask(*given)
        if not isinstance(answer, Tensor):
            raise BrokenLawError(f"{method} answers a {type(answer).__name__}, no tensor")
        for name, (earlier, copy) in self.last.items():
            if not torch.equal(earlier.nan_to_num(), copy.nan_to_num()):
                raise BrokenLawError(
                    f"{method} changes what {name} has answered before: a method returns a buffer of its own, which "
                    "later calls write into; return a new tensor"
                )
        self.last[method] = (answer, answer.clone())
        for before, after in zip(arguments, given, strict=True):
            if not torch.equal(before, after):
                row = int(torch.nonzero((before != after).reshape(len(before), -1).any(1))[0])
                raise BrokenLawError(
                    f"{method} changes its argument in place: row {row} was {before[row].tolist()} and becomes "
                    f"{after[row].tolist()}; work on a clone"
                )
        fits = answer.is_floating_point() if dtype is None else answer.dtype == dtype
        wanted = "floating point" if dtype is None else str(dtype)
        if answer.shape != shape:
            raise BrokenLawError(f"{method} answers shape {list(answer.shape)} where {list(shape)} is due")
        if not fits:
            raise BrokenLawError(f"{method} answers {answer.dtype} where {wanted} is due")
        if answer.device != arguments[0].device:
            raise BrokenLawError(f"{method} answers on {answer.device} about states on {arguments[0].device}")
        return answer


@dataclass
class Explored:
    """States in the order in which they were found, each with the first way that led there.

    Attributes:
        states: each state as a tuple; `tensor` has them as rows.
        before: the state before, an index; -1 at initial states.
        action: the action that led here; -1 at initial states.
        condition: the initial state it follows.
        complete: whether these are all states that can be reached.
    """

    device: torch.device
    states: list[tuple[int, ...]] = field(default_factory=list)
    before: list[int] = field(default_factory=list)
    action: list[int] = field(default_factory=list)
    condition: list[int] = field(default_factory=list)
    index: dict[tuple[int, ...], int] = field(default_factory=dict)
    complete: bool = True

    @property
    def tensor(self) -> Int[Tensor, "states width"]:
        return self.rows(range(len(self.states)))

    def rows(self, which: "range | list[int]") -> Int[Tensor, "states width"]:
        """Some of the states."""
        return torch.tensor([self.states[i] for i in which], dtype=torch.int64, device=self.device)

    def add(self, state: tuple[int, ...], before: int, action: int, condition: int) -> int:
        """The index of a state, which may be new."""
        if state not in self.index:
            self.index[state] = len(self.states)
            self.states.append(state)
            self.before.append(before)
            self.action.append(action)
            self.condition.append(condition)
        return self.index[state]

    def way(self, state: int) -> str:
        """How a state was found, for people."""
        actions: list[int] = []
        while self.before[state] >= 0:
            actions.append(self.action[state])
            state = self.before[state]
        start = f"initial state {list(self.states[state])}"
        if not actions:
            return f"the {start}"
        shown = ", ".join(str(action) for action in actions[::-1][:20])
        more = f" and {len(actions) - 20} more" if len(actions) > 20 else ""
        return f"reached from {start} by actions {shown}{more}"


def explore(environment: Watched, max_states: int, max_actions: int) -> Explored:
    """States by breadth up to ``max_states``; beyond that, walks of the masks from the start to the end.

    Raises:
        AssertionError: if two conditions share a state, or a walk has not ended after ``max_actions`` actions.
    """
    initial = environment.initial_states
    found = Explored(initial.device)
    for condition, state in enumerate(initial.tolist()):
        if tuple(state) in found.index:
            raise BrokenLawError(f"initial_states has {state} twice; a state belongs to one condition")
        found.add(tuple(state), -1, -1, condition)
    layer = list(range(len(initial)))
    while layer and found.complete:
        new: list[int] = []
        for source, action, target in _steps(environment, found, layer):
            if target not in found.index and len(found.states) >= max_states:
                found.complete = False
                break
            known = len(found.states)
            reached = found.add(target, source, action, found.condition[source])
            if found.condition[reached] != found.condition[source]:
                raise BrokenLawError(
                    f"state {list(target)} follows two initial states: {found.way(reached)}; and by action "
                    f"{action} from {list(found.states[source])}, {found.way(source)}"
                )
            if reached == known:
                new.append(reached)
        layer = new
    if not found.complete:
        _walk(environment, found, max_actions)
    return found


def _steps(environment: Watched, found: Explored, layer: list[int]) -> Iterator[tuple[int, int, tuple[int, ...]]]:
    states = found.rows(layer)
    row, action = torch.nonzero(environment.forward_mask(states), as_tuple=True)
    targets = environment.step(states[row], action).tolist()
    for i, a, target in zip(row.tolist(), action.tolist(), targets, strict=True):
        yield layer[i], a, tuple(target)


def _walk(environment: Watched, found: Explored, max_actions: int) -> None:
    generator = torch.Generator().manual_seed(0)
    at = torch.randint(len(environment.initial_states), (WALKS,), generator=generator).tolist()
    for _ in range(max_actions):
        mask = environment.forward_mask(found.rows(at)).cpu()
        at = [state for state, goes_on in zip(at, mask.any(1).tolist(), strict=True) if goes_on]
        if not at:
            return
        action = torch.multinomial(mask[mask.any(1)].double(), 1, generator=generator).squeeze(1)
        reached = environment.step(found.rows(at), action.to(found.device)).tolist()
        at = [
            found.add(tuple(state), source, a, found.condition[source])
            for state, source, a in zip(reached, at, action.tolist(), strict=True)
        ]
    raise BrokenLawError(
        f"no end: a walk has not come to a state without actions after {max_actions} of them; it is at "
        f"{list(found.states[at[0]])}, {found.way(at[0])}"
    )
