"""Any small acyclic graph as an environment."""

import torch

from gflowdial.dag import Dag
from gflowdial.numerics import check_finite, check_length
from gflowdial.shapes import Bool, Float, Int, Tensor


class GraphEnvironment:
    """Walk along the edges of a graph: a state is a node, an action is an edge.

    Args:
        dag: the graph, ``Dag.from_adjacency([[1, 2], [3], [3], []])`` for instance; its roots are the initial states.
        log_reward: log R of each terminal, in the order of ``dag.terminals``.

    Raises:
        ValueError: if ``log_reward`` has another length or is not finite, or a node lies below two roots.
    """

    def __init__(self, dag: Dag, log_reward: Float[Tensor, " terminals"]) -> None:
        check_length("log_reward", log_reward, len(dag.terminals), "terminal")
        check_finite("log_reward", log_reward)
        # A node below two roots would belong to two conditions: this raises.
        _ = dag.root_of
        self.dag = dag
        self.num_actions = dag.num_edges
        self.num_features = dag.num_nodes
        self.initial_states = dag.roots[:, None]
        self._nodes = torch.arange(dag.num_nodes, device=dag.device)
        nowhere = torch.full((dag.num_nodes,), torch.nan, dtype=torch.float64, device=dag.device)
        self._log_reward = nowhere.index_copy(0, dag.terminals, log_reward.to(nowhere))

    def features(self, states: Int[Tensor, "states width"]) -> Float[Tensor, "states features"]:
        """The node, one-hot."""
        return (states == self._nodes).float()

    def forward_mask(self, states: Int[Tensor, "states width"]) -> Bool[Tensor, "states actions"]:
        return states == self.dag.source

    def backward_mask(self, states: Int[Tensor, "states width"]) -> Bool[Tensor, "states actions"]:
        return states == self.dag.target

    def step(
        self,
        states: Int[Tensor, "states width"],  # noqa: ARG002 (the edge says whither)
        actions: Int[Tensor, " states"],
    ) -> Int[Tensor, "states width"]:
        return self.dag.target[actions, None]

    def step_back(
        self,
        states: Int[Tensor, "states width"],  # noqa: ARG002 (the edge says whence)
        actions: Int[Tensor, " states"],
    ) -> Int[Tensor, "states width"]:
        return self.dag.source[actions, None]

    def log_reward(self, states: Int[Tensor, "states width"]) -> Float[Tensor, " states"]:
        return self._log_reward[states[:, 0]]
