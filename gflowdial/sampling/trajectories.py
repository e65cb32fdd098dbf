"""Complete trajectories as one forest of chains, with the states and actions beside it."""

from dataclasses import dataclass

import torch

from gflowdial.forest import Forest
from gflowdial.numerics import check_length
from gflowdial.shapes import Float, Int, Tensor


@dataclass(frozen=True, eq=False)
class Terminals:
    """Terminal states with what is known of them: what trajectories end in, what replay keeps, what data consist of.

    Attributes:
        states: one a row.
        log_reward: log R of each.
        condition: which initial state each belongs to, an index into ``environment.initial_states``.

    Raises:
        ValueError: if there is not one log R and one condition per state.
    """

    states: Int[Tensor, "trees width"]
    log_reward: Float[Tensor, " trees"]
    condition: Int[Tensor, " trees"]

    def __post_init__(self) -> None:
        check_length("log_reward", self.log_reward, len(self.states), "state")
        check_length("condition", self.condition, len(self.states), "state")


@dataclass(frozen=True, eq=False)
class Trajectories:
    """A batch of trajectories, each from an initial to a terminal state, laid end to end.

    Attributes:
        forest: one chain a trajectory.
        states: the state at each node, ``[nodes, width]``.
        actions: the action of each edge, in the order of ``forest.edge_child``.
        log_reward: log R of each trajectory's end (a chain has one leaf, so ``[leaves]`` is ``[trees]``).
        condition: which initial state each trajectory started from, an index into ``environment.initial_states``.

    Raises:
        ValueError: if a tree has more than one leaf, or a tensor does not fit the forest.
    """

    forest: Forest
    states: Int[Tensor, "nodes width"]
    actions: Int[Tensor, " edges"]
    log_reward: Float[Tensor, " leaves"]
    condition: Int[Tensor, " trees"]

    def __post_init__(self) -> None:
        forest = self.forest
        if forest.num_leaves != forest.num_trees:
            raise ValueError("forest must hold trajectories, one leaf a tree; take a search tree apart into its paths.")
        if len(self.states) != forest.num_nodes:
            raise ValueError(f"states must have one row per node, {forest.num_nodes}; got {len(self.states)}.")
        check_length("actions", self.actions, forest.num_edges, "edge")
        check_length("log_reward", self.log_reward, forest.num_leaves, "trajectory")
        check_length("condition", self.condition, forest.num_trees, "trajectory")

    @property
    def terminals(self) -> Terminals:
        """Where the trajectories end."""
        return Terminals(self.states[self.forest.leaves], self.log_reward, self.condition)


# `torch.load(weights_only=True)` loads what `torch.save` wrote of them.
torch.serialization.add_safe_globals([Terminals, Trajectories])
