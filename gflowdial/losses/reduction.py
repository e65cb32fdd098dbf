"""How losses average: within each tree first, so that a big tree counts no more than a small one."""

from gflowdial import segments
from gflowdial.forest import Forest
from gflowdial.segments import Segments
from gflowdial.shapes import Float, Int, Tensor


def tree_mean(values: Float[Tensor, " items"], tree: Int[Tensor, " items"], forest: Forest) -> Float[Tensor, ""]:
    """The mean within each tree, then over trees; a tree without items counts 0."""
    return segments.mean(values, Segments.from_ids(tree, forest.num_trees)).mean()


def leaf_mean(values: Float[Tensor, " leaves"], forest: Forest) -> Float[Tensor, ""]:
    """`tree_mean` of one value per leaf; a chain has one leaf."""
    return values.mean() if forest.is_chains else tree_mean(values, forest.leaf_tree, forest)


def edge_mean(values: Float[Tensor, " edges"], forest: Forest) -> Float[Tensor, ""]:
    """`tree_mean` of one value per edge; chains of one length have the same number of edges."""
    return values.mean() if (forest.chain_size or 1) > 1 else tree_mean(values, forest.edge_tree, forest)


def weighted_tree_mean(
    values: Float[Tensor, " items"], weight: Float[Tensor, " items"], tree: Int[Tensor, " items"], forest: Forest
) -> Float[Tensor, ""]:
    """The same with weights that are 0 or more; a tree without weight counts 0."""
    trees = Segments.from_ids(tree, forest.num_trees)
    total = segments.sum(weight, trees)
    return (segments.sum(weight * values, trees) / total.where(total > 0, 1.0)).mean()
