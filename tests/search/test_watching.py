"""An environment that changes states in place is noticed; one that leaves them alone is not disturbed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from test_mcts import noise

from gflowdial.search import HistoryEnvironment, SearchConfig, SearchTree, Transition, enumerate_tree, grow, search

CONFIG = SearchConfig(simulations=20, max_depth=3, rollout_length=2)
LENGTH = 3


class Lists:
    """A state is the list of the actions so far; it ends after three. ``wrong`` says what the environment changes."""

    num_actions = 2

    def __init__(self, wrong: str = "nothing", make: Callable[[list[int]], Any] = list) -> None:
        self.wrong, self.make = wrong, make
        self.buffer = np.zeros(LENGTH + 1, np.int64)
        self.memory: dict[tuple[int, ...], Any] = {}

    def log_prior(self, states: Sequence[Any]) -> NDArray[np.float64]:
        if self.wrong == "log_prior":
            states[-1][0] += 1
        return np.full((len(states), 2), np.log(0.5))

    def step(self, states: Sequence[Any], actions: NDArray[np.int64]) -> list[Transition[Any]]:
        return [self.move(state, action) for state, action in zip(states, actions.tolist(), strict=True)]

    def move(self, state: Any, action: int) -> Transition[Any]:
        if self.wrong == "its argument":
            state.append(action)
            return Transition(state, 0.5, len(state) > LENGTH)
        after = [*(int(x) for x in state), action]
        if self.wrong in ("its buffer", "views of its buffer"):
            count = int(np.argmin(state)) if 0 in list(state[1:]) else len(state)
            self.buffer[:] = state
            self.buffer[min(count, LENGTH)] = action + 1
            return Transition(self.buffer if self.wrong == "its buffer" else self.buffer[:], 0.5, count >= LENGTH)
        if self.wrong == "remembers":
            after = self.memory.setdefault(tuple(after), after)
        return Transition(self.make(after), noise(tuple(map(int, after)), 3), len(after) > LENGTH)

    def trajectory_return(self, rewards: Sequence[float], state: Any) -> float:
        if self.wrong == "trajectory_return":
            state[0] += 1
        return float(np.mean(rewards)) if len(rewards) else 0.0


class Chance(Lists):
    def outcomes(self, states: Sequence[Any], actions: NDArray[np.int64]) -> list[list[Transition[Any]]]:
        pairs = zip(states, actions.tolist(), strict=True)
        return [[self.move(state, action)] for state, action in pairs]


def starts(wrong: str, number: int = 2) -> list[Any]:
    if "buffer" in wrong:
        return [np.array([5 + root, 0, 0, 0]) for root in range(number)]
    return [[5 + root] for root in range(number)]


WRONG = ["its argument", "its buffer", "views of its buffer", "log_prior", "trajectory_return"]


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("kind", [Lists, Chance])
@pytest.mark.parametrize("roots", [1, 3])
@pytest.mark.parametrize("keep", [True, False])
def test_search_refuses_what_changes_in_place(wrong: str, kind: type[Lists], roots: int, keep: bool) -> None:
    config = SearchConfig(simulations=20, max_depth=3, rollout_length=2, keep_rollouts=keep)
    with pytest.raises(ValueError, match=rf"{kind.__name__}.*: (let `step` and `outcomes` return|return a) new state"):
        search(kind(wrong), starts(wrong, roots), range(roots), config)


@pytest.mark.parametrize("wrong", WRONG)
def test_enumeration_growth_and_histories_refuse_it_too(wrong: str) -> None:
    with pytest.raises(ValueError, match="new state"):
        enumerate_tree(Lists(wrong), starts(wrong))
    policy = Lists().log_prior
    if wrong != "log_prior":
        # The policy that grows a tree is not the environment's.
        with pytest.raises(ValueError, match="new state"):
            grow(Lists(wrong), SearchTree.begin(starts(wrong), 2), policy, 4, [0, 1])
    if wrong not in ("trajectory_return", "its buffer", "views of its buffer"):
        histories = HistoryEnvironment
        with pytest.raises(ValueError, match="new state"):
            histories(Lists(wrong), starts(wrong), LENGTH).forward_mask(torch.tensor([[0, 1, 0, -1], [0, 1, 1, -1]]))


@dataclass
class Plain:
    """A state with fields that are arrays, whose ``==`` has no truth value."""

    numbers: NDArray[np.int64]

    def __iter__(self) -> Any:
        return iter(self.numbers)


class Bare:
    """A state without ``==``."""

    def __init__(self, numbers: list[int]) -> None:
        self.numbers = numbers

    def __iter__(self) -> Any:
        return iter(self.numbers)


MAKES: dict[str, Callable[[list[int]], Any]] = {
    "list": list,
    "array": np.array,
    "tensor": torch.tensor,
    "dataclass": lambda numbers: Plain(np.array(numbers)),
    "object": Bare,
    "tuple of lists": lambda numbers: tuple([number] for number in numbers),
    "dictionary": lambda numbers: dict(enumerate(numbers)),
}


@pytest.mark.parametrize("make", [make for name, make in MAKES.items() if name not in ("tuple of lists", "dictionary")])
@pytest.mark.parametrize("kind", [Lists, Chance])
def test_mutable_states_that_nobody_changes_are_searched_as_tuples_are(
    make: Callable[[list[int]], Any], kind: type[Lists]
) -> None:
    plain = search(kind(make=tuple), [(5,), (6,)], [3, 4], CONFIG)
    found = search(kind(make=make), [make([5]), make([6])], [3, 4], CONFIG)
    assert torch.equal(found.forest.parent, plain.forest.parent)
    assert torch.equal(found.value, plain.value)
    assert [tuple(map(int, state)) for state in found.states] == list(plain.states)


def test_states_that_are_remembered_may_be_returned_again() -> None:
    found = search(Lists("remembers", make=lambda after: after), [[5], [5], [5]], [0, 0, 1], CONFIG)
    assert torch.equal(found.split()[0].value, found.split()[1].value)


@pytest.mark.parametrize("name", MAKES)
def test_a_change_within_any_kind_of_state_is_seen(name: str) -> None:
    """The first step changes the root in place."""
    root = MAKES[name]([5, 7])

    def change() -> None:
        inner = root.numbers if name in ("dataclass", "object") else root[0] if name == "tuple of lists" else root
        inner[0] += 1

    class Careless(Lists):
        def step(self, states: Sequence[Any], actions: NDArray[np.int64]) -> list[Transition[Any]]:  # noqa: ARG002
            change()
            return [Transition(MAKES[name]([1, 2]), 0.5, True) for _ in states]

    with pytest.raises(ValueError, match=r"Careless changed the state .* in place"):
        search(Careless(), [root], [0], CONFIG)


def test_states_that_cannot_be_copied_are_left_alone() -> None:
    class Stubborn(Bare):
        def __deepcopy__(self, _: dict[int, Any]) -> Any:
            raise TypeError

    found = search(Lists(make=Stubborn), [Stubborn([5])], [0], CONFIG)
    assert found.forest.num_trees == 1
