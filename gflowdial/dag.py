"""A small acyclic graph of states, written out in full: where exact answers about an environment are computed."""

from dataclasses import dataclass

from gflowdial.shapes import Int, Tensor


@dataclass(frozen=True, eq=False)
class Dag:
    """Numbered nodes and edges between them; every edge leads from a smaller to a greater number.

    Tensors beside it are flat, as with a `Forest`: ``[nodes]``, ``[edges]``, and rewards ``[terminals]``. Two edges may
    join the same nodes.

    Attributes:
        source: the node that each edge leaves, int64.
        target: the node that each edge enters, int64.
        num_nodes: how many nodes there are.
    """

    source: Int[Tensor, " edges"]
    target: Int[Tensor, " edges"]
    num_nodes: int
