"""How losses average: within each tree first, so that a big tree counts no more than a small one."""

from dataclasses import dataclass

from gflowdial import segments
from gflowdial.forest import Forest
from gflowdial.precision import precise_dtype
from gflowdial.segments import Segments
from gflowdial.shapes import Float, Int, Tensor


def tree_mean(values: Float[Tensor, " items"], tree: Int[Tensor, " items"], forest: Forest) -> Float[Tensor, ""]:
    """The mean within each tree, then over trees; a tree without items counts 0."""
    return segments.mean(values, Segments.from_ids(tree, forest.num_trees)).mean()


@dataclass(frozen=True, eq=False)
class Weights:
    """What each item counts in such a mean: a number for all, or one each."""

    each: Tensor | float

    def mean(self, values: Float[Tensor, " items"]) -> Float[Tensor, ""]:
        return values.mean() if isinstance(self.each, float) else (values * self.each).sum()

    def __call__(self, residual: Float[Tensor, " items"]) -> Float[Tensor, " items"]:
        """As the metric of `losses.quadratic`: the mean of squares."""
        return residual * self.each


def leaf_weights(forest: Forest) -> Weights:
    """For one value per leaf; a chain has one leaf."""
    return Weights(1 / forest.num_trees) if forest.is_chains else _weights("leaf", forest.leaf_tree, forest)


def edge_weights(forest: Forest) -> Weights:
    """For one value per edge; chains of one length have the same number of edges."""
    if (forest.chain_size or 1) > 1:
        return Weights(1 / forest.num_edges)
    return _weights("edge", forest.edge_tree, forest)


def _weights(what: str, tree: Int[Tensor, " items"], forest: Forest) -> Weights:
    def derive() -> Weights:
        sizes = Segments.from_ids(tree, forest.num_trees).sizes.to(precise_dtype(forest.device))
        return Weights((sizes * forest.num_trees).reciprocal()[tree])

    return forest.kept(("weights", what), derive)


def weighted_tree_mean(
    values: Float[Tensor, " items"], weight: Float[Tensor, " items"], tree: Int[Tensor, " items"], forest: Forest
) -> Float[Tensor, ""]:
    """The same with weights that are 0 or more; a tree without weight counts 0."""
    trees = Segments.from_ids(tree, forest.num_trees)
    total = segments.sum(weight, trees)
    return (segments.sum(weight * values, trees) / total.where(total > 0, 1.0)).mean()
