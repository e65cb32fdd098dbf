"""All flow that enters and leaves visited states: the inputs of flow matching."""

from dataclasses import dataclass

import torch

from gflowdial.envs.environment import Environment
from gflowdial.estimators.flow_estimator import FlowEstimator
from gflowdial.numerics import distinct
from gflowdial.sampling.trajectories import Trajectories
from gflowdial.shapes import Float, Int, Tensor


@dataclass(frozen=True, eq=False)
class StateFlows:
    """Every edge into and out of each visited state, whether a trajectory took it or not.

    The flow of an edge is ``F(s)·P_F(a|s)``. A state counts as often as it was visited.

    Attributes:
        log_in_flow: log-flow of each edge into a visited state.
        log_out_flow: log-flow of each edge out of one.
        log_reward: log R of each visited state, -inf where it is not terminal.
        in_state: the state that each in-edge enters, an index into ``log_reward``.
        out_state: the state that each out-edge leaves.
    """

    log_in_flow: Float[Tensor, " in_edges"]
    log_out_flow: Float[Tensor, " out_edges"]
    log_reward: Float[Tensor, " states"]
    in_state: Int[Tensor, " in_edges"]
    out_state: Int[Tensor, " out_edges"]


def state_flows(environment: Environment, estimator: FlowEstimator, trajectories: Trajectories) -> StateFlows:
    """What flow matching reads of the states that ``trajectories`` visit."""
    states, forest = trajectories.states, trajectories.forest
    out_state, out_action = environment.forward_mask(states).nonzero(as_tuple=True)
    in_state, in_action = environment.backward_mask(states).nonzero(as_tuple=True)
    before = environment.step_back(states[in_state], in_action)
    rows, place = distinct(torch.cat([states, before]))
    said = estimator(rows)
    log_edge_flow = said.log_flow.unsqueeze(1) + said.log_pf
    nowhere = trajectories.log_reward.new_full((forest.num_nodes,), -torch.inf)
    return StateFlows(
        log_in_flow=log_edge_flow[place[len(states) :], in_action],
        log_out_flow=log_edge_flow[place[out_state], out_action],
        log_reward=nowhere.index_copy(0, forest.leaves, trajectories.log_reward),
        in_state=in_state,
        out_state=out_state,
    )
