"""How losses average: within each tree first, so that a big tree counts no more than a small one."""

from dataclasses import dataclass

import torch

from gflowdial import segments
from gflowdial.forest import Forest
from gflowdial.losses.penalties import Penalty, is_square
from gflowdial.losses.quadratic import Residuals, quadratic
from gflowdial.segments import Segments
from gflowdial.shapes import Float, Int, Tensor


def tree_mean(values: Float[Tensor, " items"], tree: Int[Tensor, " items"], forest: Forest) -> Float[Tensor, ""]:
    """The mean within each tree, then over trees; a tree without items counts 0."""
    return segments.mean(values, Segments.from_ids(tree, forest.num_trees)).mean()


@dataclass(frozen=True, eq=False)
class Weights:
    """The weight of each item in such a mean: `Forest.leaf_share` or `Forest.edge_share`."""

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


def weighted_tree_mean(
    values: Float[Tensor, " items"], weight: Float[Tensor, " items"], tree: Int[Tensor, " items"], forest: Forest
) -> Float[Tensor, ""]:
    """`tree_mean` with weights that are 0 or more; a tree without weight counts 0."""
    trees = Segments.from_ids(tree, forest.num_trees)
    total = segments.sum(weight, trees)
    return (segments.sum(weight * values, trees) / total.where(total > 0, 1.0)).mean()
