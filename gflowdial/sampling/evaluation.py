"""What an estimator says of trajectories: the inputs of the losses, from one batched pass over all states."""

from dataclasses import dataclass
from functools import cached_property

from gflowdial.estimators.flow_estimator import FlowEstimates, FlowEstimator
from gflowdial.numerics import distinct
from gflowdial.sampling.trajectories import Trajectories
from gflowdial.shapes import Float, Int, Tensor


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The losses' inputs, with gradients; rewards and forest stand in the `Trajectories`.

    Attributes:
        log_z: log Z of each trajectory's condition.
        log_flow: log F of each state; the losses put log R in its place at leaves.
        log_pf: log P_F of each action taken.
        log_pb: log P_B of each action taken.
        of_distinct: everything that the estimator said, also of actions not taken: a row for each distinct state.
        place: the row of each node's state.
    """

    log_z: Float[Tensor, " trees"]
    log_flow: Float[Tensor, " nodes"]
    log_pf: Float[Tensor, " edges"]
    log_pb: Float[Tensor, " edges"]
    of_distinct: FlowEstimates
    place: Int[Tensor, " nodes"]

    @cached_property
    def estimates(self) -> FlowEstimates:
        """Everything that the estimator said, row by node."""
        said = self.of_distinct
        return FlowEstimates(
            *(answer.index_select(0, self.place) for answer in (said.log_pf, said.log_pb, said.log_flow))
        )


def evaluate(estimator: FlowEstimator, trajectories: Trajectories) -> Evaluation:
    """Log Z, log F, log P_F and log P_B along ``trajectories``, whoever sampled them.

    -inf at an action that the estimator's masks exclude. States that are visited more than once are read once.
    """
    forest = trajectories.forest
    states, place = distinct(trajectories.states)
    said = estimator(states)

    def taken(log_p: Tensor, node: Tensor) -> Tensor:
        entry = place.index_select(0, node).mul_(log_p.shape[1]).add_(trajectories.actions)
        return log_p.flatten().index_select(0, entry)

    return Evaluation(
        log_z=estimator.log_z(trajectories.condition),
        log_flow=said.log_flow.index_select(0, place),
        log_pf=taken(said.log_pf, forest.edge_parent),
        # The action that led into a state is the one that leads back out of it.
        log_pb=taken(said.log_pb, forest.edge_child),
        of_distinct=said,
        place=place,
    )
