"""How losses average over trees, within each tree first, so that a big tree counts no more than a small one.

Each loss is a weighted mean of costs within each tree: over leaves, edges, pairs, states or rollouts, as its docstring
says. What becomes of these values, one per tree, is the option ``reduction``:

- ``"mean"``: their mean. A tree without costs counts 0.
- ``"none"``: the values themselves, ``[trees]``, in the order of `Forest.roots`. On chains this is one per trajectory.
- ``"pooled"``: one weighted mean over the costs of all trees together, so that a tree counts in proportion to the
  weights within it; 0 without any.

``tree_weight`` is a factor of each tree's costs, ``[trees]``, for instance an importance weight. It does not enter the
denominators: with weights w and values L the mean is ``Σ w·L / trees``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from gflowdial import segments
from gflowdial.forest import Forest
from gflowdial.losses.inputs import lift
from gflowdial.losses.penalties import Penalty, is_square
from gflowdial.losses.quadratic import Residuals, quadratic
from gflowdial.segments import Segments
from gflowdial.shapes import Float, Int, Tensor

Reduction = Literal["mean", "none", "pooled"]


@dataclass(eq=False)
class Over:
    """How one loss averages over the trees of ``forest``.

    Raises:
        ValueError: ``reduction`` is unknown.
    """

    forest: Forest
    reduction: Reduction = "mean"
    tree_weight: Tensor | None = None

    def __post_init__(self) -> None:
        if self.reduction not in ("mean", "none", "pooled"):
            raise ValueError(f"reduction is {self.reduction!r}: give 'mean', 'none' or 'pooled'.")

    @property
    def plain(self) -> bool:
        """Whether it is the mean without weights."""
        return self.reduction == "mean" and self.tree_weight is None

    def reduce(
        self, values: Float[Tensor, " trees"], total: Callable[[], Float[Tensor, " trees"] | Int[Tensor, " trees"]]
    ) -> Float[Tensor, "*trees"]:
        """The loss, from the mean cost of each tree; ``total`` is the sum of the weights within each."""
        if self.tree_weight is not None:
            values = lift("tree_weight", self.tree_weight, self.forest, "tree") * values
        if self.reduction == "none":
            return values
        if self.reduction == "mean":
            return values.mean()
        weight = total()
        whole = weight.sum()
        return (weight * values).sum() / whole.where(whole > 0, 1)

    def mean(
        self,
        costs: Float[Tensor, " items"],
        tree: Int[Tensor, " items"],
        weight: Float[Tensor, " items"] | None = None,
    ) -> Float[Tensor, "*trees"]:
        """The loss, from its costs and the tree of each; ``weight`` is 0 or more, None for equal weights."""
        trees = Segments.from_ids(tree, self.forest.num_trees)
        if weight is None:
            return self.reduce(segments.mean(costs, trees), lambda: trees.sizes)
        total = segments.sum(weight, trees)
        return self.reduce(segments.sum(weight * costs, trees) / total.where(total > 0, 1.0), lambda: total)

    def sum(
        self, shares: Float[Tensor, " edges"], total: Callable[[], Float[Tensor, " trees"]]
    ) -> Float[Tensor, "*trees"]:
        """The loss, from what each edge adds to its mean over trees."""
        if self.plain:
            return shares.sum()
        trees = Segments.from_ids(self.forest.edge_tree, self.forest.num_trees)
        return self.reduce(self.forest.num_trees * segments.sum(shares, trees), total)


@dataclass(frozen=True, eq=False)
class Weights:
    """The weight of each item in the mean within each tree, then over trees: `Forest.leaf_share` or
    `Forest.edge_share`."""

    each: Tensor | float

    def mean(self, values: Float[Tensor, " items"]) -> Float[Tensor, ""]:
        return values.mean() if isinstance(self.each, float) else (values * self.each).sum()

    def __call__(self, residual: Float[Tensor, " items"]) -> Float[Tensor, " items"]:
        """As the metric of `losses.quadratic`: the mean of squares."""
        return residual * self.each


def mean_penalty(
    residuals: Residuals, weights: Weights, penalty: Penalty, *logs: Tensor | None, dtype: torch.dtype
) -> Float[Tensor, ""]:
    """The weighted mean of the penalties of the residuals of ``logs``; a quadratic form if that is the square."""
    if is_square(penalty):
        return quadratic(residuals, weights, *logs, dtype=dtype)
    return weights.mean(penalty(residuals.of(*logs))).to(dtype)
