"""What is wished of a policy: the temperature of its target, and the weights of the criteria in the reward of a turn.

A policy that was trained for many wishes is read at one, without being trained again, as multi-objective and
temperature-conditional GFlowNets are (arXiv 2210.12765, 2310.02823).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from gflowdial.dialogue.environment import DialogueState
from gflowdial.dialogue.task import Task
from gflowdial.search import SearchTree
from gflowdial.shapes import Float, Tensor


@dataclass(frozen=True)
class Wish:
    """One target R = exp(G_w/τ).

    Attributes:
        temperature: τ, in units of the return.
        weights: w of the criteria, of which the ratios count; None: the task's own.
    """

    temperature: float
    weights: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Wishes:
    """The wishes that a policy is trained for.

    Attributes:
        temperatures: the least and the greatest τ; log τ is drawn uniformly between them.
        criteria: the names of the criteria.
        own: the task's own weights.
        weighted: whether weights are wished too; they are then drawn uniformly from the simplex.

    Raises:
        ValueError: the temperatures are no range above 0, or there is not one weight per criterion.
    """

    temperatures: tuple[float, float]
    criteria: tuple[str, ...]
    own: tuple[float, ...]
    weighted: bool

    def __post_init__(self) -> None:
        low, high = self.temperatures
        if not 0 < low <= high < math.inf:
            raise ValueError(f"temperatures are {low:g} to {high:g}: give a range above 0, the least first")
        if len(self.own) != len(self.criteria):
            raise ValueError(f"there are {len(self.own)} weights and {len(self.criteria)} criteria: give one each")

    @staticmethod
    def of(task: Task, temperatures: tuple[float, float], *, weighted: bool) -> "Wishes":
        """The wishes of a task.

        Raises:
            ValueError: as above, or weights are wished of a task whose reward is no weighted sum, or has one criterion.
        """
        names = tuple(criterion.name for criterion in task.criteria)
        if weighted and len(names) == 1:
            raise ValueError(f"task {task.name!r} has one criterion, {names[0]}: weights need two or more")
        own = task.own_weights if weighted or task.turn_reward is None else (1.0,) * len(names)
        return Wishes(temperatures, names, own, weighted)

    @property
    def conditions(self) -> int:
        """How many numbers `vector` has."""
        return 1 + len(self.criteria) * self.weighted

    def vector(self, wish: Wish) -> Float[Tensor, " conditions"]:
        """What the policy reads of a wish: log τ, from −1 at the least to 1 at the greatest, and C·w − 1 with Σ w = 1.

        Raises:
            ValueError: the policy was not trained for the wish.
        """
        self.check(wish)
        low, high = map(math.log, self.temperatures)
        place = (2 * math.log(wish.temperature) - low - high) / (high - low) if high > low else 0.0
        weights = self.normalised(wish) * len(self.criteria) - 1 if self.weighted else ()
        return torch.tensor([place, *weights], dtype=torch.float32)

    def normalised(self, wish: Wish) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """The weights of a wish, of sum 1."""
        weights = np.array(self.own if wish.weights is None else wish.weights)
        return np.asarray(weights / weights.sum())

    def check(self, wish: Wish) -> None:
        """
        Raises:
            ValueError: the policy was not trained for the wish.
        """
        low, high = self.temperatures
        # A bound that went through a logarithm may be off by its rounding.
        if not low * (1 - 1e-9) <= wish.temperature <= high * (1 + 1e-9):
            raise ValueError(
                f"temperature {wish.temperature:g} is outside of what the policy was trained for: choose one from "
                f"{low:g} to {high:g}"
            )
        if wish.weights is None:
            return
        if not self.weighted:
            raise ValueError("the policy was trained for the task's own weights alone: leave the weights out")
        if len(wish.weights) != len(self.criteria):
            raise ValueError(f"there are {len(wish.weights)} weights: give one for each of {', '.join(self.criteria)}")
        if not (min(wish.weights) >= 0 and 0 < sum(wish.weights) < math.inf):
            raise ValueError(f"the weights are {wish.weights}: give numbers from 0, not all of them 0")

    def draw(self, generator: torch.Generator | None = None) -> Wish:
        """A wish at random."""
        low, high = self.temperatures
        numbers = torch.rand(1 + len(self.criteria), generator=generator, dtype=torch.float64)
        temperature = math.exp(math.log(low) + float(numbers[0]) * math.log(high / low))
        if not self.weighted:
            return Wish(temperature)
        # Exponential numbers, by their sum, are uniform on the simplex.
        weights = -torch.log1p(-numbers[1:])
        return Wish(temperature, tuple((weights / weights.sum()).tolist()))

    def read_weights(self, text: str) -> tuple[float, ...]:
        """Weights as a command line gives them, ``Empathy=2,Information=1``; a criterion that is not named weighs 0.

        Raises:
            ValueError: a criterion is unknown or comes twice, or a weight is no number.
        """
        found: dict[str, float] = {}
        known = {name.casefold(): name for name in self.criteria}
        for part in text.split(","):
            name, equals, number = (piece.strip() for piece in part.partition("="))
            if name.casefold() not in known:
                raise ValueError(f"there is no criterion {name!r}: name {', '.join(self.criteria)}")
            if known[name.casefold()] in found:
                raise ValueError(f"criterion {known[name.casefold()]} comes twice: name each once")
            try:
                found[known[name.casefold()]] = float(number) if equals else math.nan
            except ValueError:
                found[known[name.casefold()]] = math.nan
            if math.isnan(found[known[name.casefold()]]):
                raise ValueError(f"{part.strip()!r} is no weight: write {known[name.casefold()]}=1")
        return tuple(found.get(name, 0.0) for name in self.criteria)


def returns_under(
    task: Task, tree: SearchTree[DialogueState]
) -> Callable[[Sequence[float] | None], Float[Tensor, " leaves"]]:
    """G of the path to each leaf, as a function of the weights of the criteria; without weights the task's own.

    It is the return of a conversation where the leaf has ended.

    Raises:
        ValueError: an exchange of the tree has no scores.
    """
    forest = tree.forest
    parent, leaves = forest.parent.tolist(), forest.leaves.tolist()
    # A chance node repeats the state before it.
    exchange = ((forest.parent >= 0) & ~tree.chance).tolist()
    number = np.cumsum(exchange) - 1
    rows = [state.scores for state, counts in zip(tree.states, exchange, strict=True) if counts]
    if not all(rows):
        raise ValueError("the tree has exchanges without scores: search its scene anew to change the weights")
    scores = np.array(rows, dtype=np.float64).reshape(len(rows), len(task.criteria))
    paths: list[list[int]] = []
    for node, above in enumerate(parent):
        before = paths[above] if above >= 0 else []
        paths.append([*before, int(number[node])] if exchange[node] else before)

    def returns(weights: Sequence[float] | None = None) -> Float[Tensor, " leaves"]:
        reward = task.reward(scores, weights).tolist()
        found = [
            task.trajectory_return([reward[turn] for turn in paths[leaf]], tree.states[leaf].status)
            if paths[leaf]
            else 0.0
            for leaf in leaves
        ]
        return torch.tensor(found, dtype=torch.float64)

    return returns
