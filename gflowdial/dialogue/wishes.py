"""What is wished of a policy: the temperature of its target, and the weights of the criteria in the reward of a turn.

A policy that was trained for many wishes is read at one, without being trained again, as multi-objective and
temperature-conditional GFlowNets are (arXiv 2210.12765, 2310.02823).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gflowdial.dialogue.environment import DialogueState
from gflowdial.dialogue.task import Task
from gflowdial.search import SearchTree
from gflowdial.shapes import Float, Tensor
from gflowdial.training.trees import Condition


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

    @staticmethod
    def of_data(data: Mapping[str, Any]) -> "Wishes":
        """The wishes whose `dataclasses.asdict` went through JSON."""
        low, high = data["temperatures"]
        return Wishes((low, high), tuple(data["criteria"]), tuple(data["own"]), data["weighted"])

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

    def normalised(self, wish: Wish) -> NDArray[np.float64]:
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
            name, _, number = (piece.strip() for piece in part.partition("="))
            criterion = known.get(name.casefold())
            if criterion is None:
                raise ValueError(f"there is no criterion {name!r}: name {', '.join(self.criteria)}")
            if criterion in found:
                raise ValueError(f"criterion {criterion} comes twice: name each once")
            try:
                found[criterion] = float(number)
            except ValueError:
                raise ValueError(f"{part.strip()!r} is no weight: write {criterion}=1") from None
        return tuple(found.get(name, 0.0) for name in self.criteria)


Reweighted = Callable[[Sequence[float] | None], SearchTree[DialogueState]]
"""Trees as a function of the weights of the criteria; None: the task's own."""


def reweighted(task: Task, tree: SearchTree[DialogueState]) -> Reweighted:
    """The trees with rewards, returns and values under other weights; their shape and visits stay.

    A leaf's value is the return of the path to it, which is G where the conversation has ended; an inner node's is the
    mean of the leaves below it by their visits. Enumerated trees are what they would be under these weights.

    Raises:
        ValueError: an exchange of a tree has no scores.
    """
    forest = tree.forest
    # A chance node repeats the state before it.
    exchange = ((forest.parent >= 0) & ~tree.chance).tolist()
    turn_of = np.cumsum(exchange) - 1
    rows = [state.scores for state, counts in zip(tree.states, exchange, strict=True) if counts]
    if not all(rows):
        raise ValueError("the tree has exchanges without scores: search its scene anew to change the weights")
    scores = np.array(rows, dtype=np.float64).reshape(len(rows), len(task.criteria))
    turns: list[list[int]] = []
    for node, above in enumerate(forest.parent.tolist()):
        before = turns[above] if above >= 0 else []
        turns.append([*before, int(turn_of[node])] if exchange[node] else before)
    leaves = [leaf for leaf in forest.leaves.tolist() if turns[leaf]]
    statuses = [tree.states[leaf].status for leaf in leaves]
    visits = tree.visits.double().where(forest.num_children == 0, 0.0)
    below = forest.subtree_sum(visits)

    def under(weights: Sequence[float] | None) -> SearchTree[DialogueState]:
        earned = task.reward(scores, weights)
        each, reward = earned.tolist(), torch.zeros_like(tree.reward)
        reward[torch.tensor(exchange)] = torch.from_numpy(earned)
        found = torch.zeros_like(tree.value)
        found[leaves] = torch.tensor(
            [
                task.trajectory_return([each[turn] for turn in turns[leaf]], status)
                for leaf, status in zip(leaves, statuses, strict=True)
            ],
            dtype=found.dtype,
        )
        # A leaf's own value does not depend on its visits.
        value = torch.where(forest.num_children == 0, found, forest.subtree_sum(visits * found) / below)
        return replace(tree, reward=reward, value=value)

    return under


def drawn_conditions(task: Task, wishes: Wishes, count: int) -> Callable[[torch.Generator], list[Condition]]:
    """What draws ``count`` wishes, as conditions of training; see `gflowdial.training.trainer.FlowTrainer`.

    The loss at a wish weighs τ over the geometric mean of the range: residuals in nats grow as 1/τ, their squares as
    1/τ², and without it the coldest wishes had nearly all of the gradient.
    """
    typical = math.sqrt(math.prod(wishes.temperatures))
    # A tree is asked for by many wishes; trees that grow are others at each step.
    known = lru_cache(maxsize=512)(partial(reweighted, task))

    def under(weights: tuple[float, ...] | None, tree: SearchTree[DialogueState]) -> SearchTree[DialogueState]:
        return tree if weights is None else known(tree)(weights)

    def draw(generator: torch.Generator) -> list[Condition]:
        drawn = [wishes.draw(generator) for _ in range(count)]
        return [
            Condition(wishes.vector(wish), wish.temperature, partial(under, wish.weights), wish.temperature / typical)
            for wish in drawn
        ]

    return draw
