"""One flow written differently: other node numbers, some of its trees only, other offsets."""

from dataclasses import replace

import torch

from gflowdial.forest import Forest
from gflowdial.layouts import Chains
from gflowdial.shapes import Bool, Float, Int, Tensor
from gflowdial.testing.flows import Flow


def shifted(flow: Flow, amount: Float[Tensor, " trees"]) -> Flow:
    """log F, log Z and log R of each tree moved by ``amount``, which no balance condition notices."""
    forest = flow.forest
    return replace(
        flow,
        log_z=flow.log_z + amount,
        log_flow=flow.log_flow + amount[forest.tree],
        log_reward=flow.log_reward + amount[forest.leaf_tree],
    )


def renumbered(flow: Flow, generator: torch.Generator) -> tuple[Flow, Int[Tensor, " trees"]]:
    """The flow in a random order that keeps parents before children, and which tree each new one is.

    Chains laid end to end stay so, in another order.
    """
    forest = flow.forest
    key = torch.rand(forest.num_nodes, generator=generator)
    if isinstance(forest.layout, Chains):
        order = torch.argsort(key[forest.roots][forest.tree], stable=True)
    else:
        # A node comes no sooner than its ancestors: it waits for the latest of them.
        for node, parent in enumerate(forest.parent.tolist()):
            if parent >= 0:
                key[node] = torch.maximum(key[node], key[parent])
        order = torch.argsort(key, stable=True)
    other = _placed(flow, order)
    return other, forest.tree[order[other.forest.roots]]


def kept(flow: Flow, trees: Bool[Tensor, " trees"]) -> Flow:
    """The part of the flow that lies on ``trees``."""
    return _placed(flow, torch.nonzero(trees[flow.forest.tree]).squeeze(1))


def _placed(flow: Flow, order: Tensor) -> Flow:
    """The flow on the forest whose node i is node ``order[i]`` of the old one."""
    old = flow.forest
    new = torch.full_like(old.parent, -1).index_copy(0, order, torch.arange(len(order)))
    above = old.parent[order]
    forest = Forest.from_parents(torch.where(above < 0, -1, new[above]))

    def moved(values: Tensor, at: Tensor, new_at: Tensor) -> Tensor:
        return values.new_zeros(old.num_nodes).index_copy(0, at, values)[order[new_at]]

    return Flow(
        forest,
        moved(flow.log_z, old.roots, forest.roots),
        flow.log_flow[order],
        moved(flow.log_pf, old.edge_child, forest.edge_child),
        moved(flow.log_pb, old.edge_child, forest.edge_child),
        moved(flow.log_reward, old.leaves, forest.leaves),
    )
