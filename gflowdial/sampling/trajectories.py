"""Complete trajectories as one forest of chains, with the states and actions beside it."""

from dataclasses import dataclass

from gflowdial.forest import Forest
from gflowdial.shapes import Float, Int, Tensor


@dataclass(frozen=True, eq=False)
class Terminals:
    """Terminal states with what is known of them: what trajectories end in, what replay keeps, what data consist of.

    Attributes:
        states: one a row.
        log_reward: log R of each.
        condition: which initial state each belongs to, an index into ``environment.initial_states``.
    """

    states: Int[Tensor, "trees width"]
    log_reward: Float[Tensor, " trees"]
    condition: Int[Tensor, " trees"]


@dataclass(frozen=True, eq=False)
class Trajectories:
    """A batch of trajectories, each from an initial to a terminal state, laid end to end.

    Attributes:
        forest: one chain a trajectory.
        states: the state at each node, ``[nodes, width]``.
        actions: the action of each edge, in the order of ``forest.edge_child``.
        log_reward: log R of each trajectory's end (a chain has one leaf, so ``[leaves]`` is ``[trees]``).
        condition: which initial state each trajectory started from, an index into ``environment.initial_states``.
    """

    forest: Forest
    states: Int[Tensor, "nodes width"]
    actions: Int[Tensor, " edges"]
    log_reward: Float[Tensor, " leaves"]
    condition: Int[Tensor, " trees"]

    @property
    def terminals(self) -> Terminals:
        """Where the trajectories end."""
        return Terminals(self.states[self.forest.leaves], self.log_reward, self.condition)
