"""What an estimator says of trajectories: the inputs of the losses, from one batched pass over all states."""

from dataclasses import dataclass

from gflowdial.estimators.flow_estimator import FlowEstimates, FlowEstimator
from gflowdial.sampling.trajectories import Trajectories
from gflowdial.shapes import Float, Tensor


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The losses' inputs, with gradients; rewards and forest stand in the `Trajectories`.

    Attributes:
        log_z: log Z of each trajectory's condition.
        log_flow: log F of each state; the losses put log R in its place at leaves.
        log_pf: log P_F of each action taken.
        log_pb: log P_B of each action taken.
        estimates: everything the estimator said of the states, also of actions not taken, row by node.
    """

    log_z: Float[Tensor, " trees"]
    log_flow: Float[Tensor, " nodes"]
    log_pf: Float[Tensor, " edges"]
    log_pb: Float[Tensor, " edges"]
    estimates: FlowEstimates


def evaluate(estimator: FlowEstimator, trajectories: Trajectories) -> Evaluation:
    """Log Z, log F, log P_F and log P_B along ``trajectories``, whoever sampled them.

    -inf at an action that the estimator's masks exclude.
    """
    forest = trajectories.forest
    estimates = estimator(trajectories.states)
    action = trajectories.actions.unsqueeze(1)
    return Evaluation(
        log_z=estimator.log_z(trajectories.condition),
        log_flow=estimates.log_flow,
        log_pf=estimates.log_pf.index_select(0, forest.edge_parent).gather(1, action).squeeze(1),
        # The action that led into a state is the one that leads back out of it.
        log_pb=estimates.log_pb.index_select(0, forest.edge_child).gather(1, action).squeeze(1),
        estimates=estimates,
    )
