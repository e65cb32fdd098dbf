"""Inputs of every loss by argument name, on one forest, so that a law can be tried on `losses.LOSSES` as it is."""

import inspect
from collections.abc import Callable

import torch
from torch import Tensor

from gflowdial import Forest, losses
from gflowdial.segments import Segments


def all_inputs(forest: Forest, dtype: torch.dtype = torch.float64, seed: int = 0) -> dict[str, object]:
    """Every argument that a loss of the library reads from data."""
    generator = torch.Generator().manual_seed(seed)

    def some(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64).to(dtype)

    nodes, edges, leaves, trees = forest.num_nodes, forest.num_edges, forest.num_leaves, forest.num_trees
    return {
        "forest": forest,
        "log_z": some(trees),
        "log_flow": some(nodes),
        "log_stop": -some(nodes).abs(),
        "log_pf": -some(edges).abs(),
        "log_pb": -some(edges).abs(),
        "log_reward": some(leaves),
        "log_reference": -some(edges).abs(),
        "log_behaviour": -some(edges).abs(),
        "log_dynamics": -some(edges).abs(),
        "log_turn_reward": some(edges),
        "log_value": some(edges),
        "search_value": some(edges),
        "mean_return": some(nodes).abs() + 1,
        "value": some(edges).abs() + 1,
        "negative_value": some(edges, 2).abs() + 1,
        "negative_log_pf": -some(edges, 2).abs(),
        "negative_log_reference": -some(edges, 2).abs(),
        "visits": some(edges).abs(),
        "leaf_visits": torch.ones(leaves, dtype=dtype),
        "leaf_weight": some(leaves).abs(),
        "tree_weight": some(trees).abs(),
        "log_policy": some(nodes, 3).log_softmax(1),
        "log_reference_policy": some(nodes, 3).log_softmax(1),
        "log_in_flow": some(edges),
        "log_out_flow": some(edges),
        "group": torch.arange(trees) // 2,
        "chance": forest.depth % 2 == 1,
        "ended": torch.arange(leaves) % 2 == 0,
        "tree": Segments.from_ids(forest.tree, trees),
        "in_state": forest.edge_child,
        "out_state": forest.edge_parent,
    }


OF_EVERY_NODE = ("modified_detailed_balance", "modified_subtrajectory_balance", "flow_matching")
OPTIONS = {"leaf_weight", "tree_weight"}


def call_of(
    name: str, inputs: dict[str, object], *, weighted: bool = False
) -> tuple[Callable[..., Tensor], list[str], list[Tensor]]:
    """The loss as a function of its floating-point inputs, their names, and they themselves.

    Args:
        name: of `losses.LOSSES`.
        inputs: as `all_inputs` makes them; a loss that needs another fails here.
        weighted: whether the weights among them are read.
    """
    forest = inputs["forest"]
    assert isinstance(forest, Forest)
    if name in OF_EVERY_NODE:
        inputs = {**inputs, "log_reward": inputs["log_flow"]}
    parameters = inspect.signature(losses.LOSSES[name]).parameters.values()
    read = {p.name: inputs[p.name] for p in parameters if p.name in inputs and (weighted or p.name not in OPTIONS)}
    missing = [p.name for p in parameters if p.default is p.empty and p.name not in read]
    assert not missing, f"{name} reads {missing}: add them to all_inputs, so that every law is tried on it"
    floats = [key for key, value in read.items() if isinstance(value, Tensor) and value.is_floating_point()]

    def call(*values: Tensor, **options: object) -> Tensor:
        return losses.LOSSES[name](**{**read, **dict(zip(floats, values, strict=True)), **options})

    return call, floats, [read[key] for key in floats]  # type: ignore[misc]
