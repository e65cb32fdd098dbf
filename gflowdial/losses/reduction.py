"""How losses average: within each tree first, so that a big tree counts no more than a small one."""

from gflowdial import segments
from gflowdial.forest import Forest
from gflowdial.segments import Segments
from gflowdial.shapes import Float, Int, Tensor


def tree_mean(values: Float[Tensor, " items"], tree: Int[Tensor, " items"], forest: Forest) -> Float[Tensor, ""]:
    """The mean within each tree, then over trees; a tree without items counts 0."""
    return segments.mean(values, Segments.from_ids(tree, forest.num_trees)).mean()


def weighted_tree_mean(
    values: Float[Tensor, " items"], weight: Float[Tensor, " items"], tree: Int[Tensor, " items"], forest: Forest
) -> Float[Tensor, ""]:
    """The same with weights that are 0 or more; a tree without weight counts 0."""
    trees = Segments.from_ids(tree, forest.num_trees)
    total = segments.sum(weight, trees)
    return (segments.sum(weight * values, trees) / total.where(total > 0, 1.0)).mean()
