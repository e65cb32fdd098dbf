"""Trajectories where every state may stop: the inputs of the modified losses."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from gflowdial.envs.environment import Environment
from gflowdial.forest import Forest
from gflowdial.sampling.evaluation import Evaluation
from gflowdial.sampling.trajectories import Trajectories
from gflowdial.shapes import Float, Tensor


@runtime_checkable
class StoppingEnvironment(Environment, Protocol):
    """An environment where one action ends the trajectory, can be taken in every state and is the only way to end.

    Its ``log_reward`` answers for every state: what it is worth to stop there.
    """

    @property
    def stop_action(self) -> int:
        """The action that stops."""


@dataclass(frozen=True, eq=False)
class Prefixes:
    """Trajectories up to the state where they stopped, each state with what stopping there means.

    Attributes:
        forest: one chain a trajectory, without its terminal state.
        log_stop: log P_F(stop|s) of each state.
        log_reward: log R of stopping in each state.
        log_pf: log P_F of each action before the last.
        log_pb: log P_B of each action before the last.
    """

    forest: Forest
    log_stop: Float[Tensor, " nodes"]
    log_reward: Float[Tensor, " nodes"]
    log_pf: Float[Tensor, " edges"]
    log_pb: Float[Tensor, " edges"]


def stopping_prefixes(environment: Environment, trajectories: Trajectories, evaluation: Evaluation) -> Prefixes:
    """What the modified losses read of evaluated trajectories.

    Raises:
        ValueError: if the environment has no ``stop_action``, or a trajectory passes a state where it cannot be taken.
    """
    if not isinstance(environment, StoppingEnvironment):
        raise ValueError(
            f"{type(environment).__name__} has no stop_action, which modified losses need; "
            "`envs.StopAnywhere` adds one to any environment."
        )
    forest = trajectories.forest
    # In a chain each state but the last has one edge.
    stopping, going_on = forest.edge_parent, (forest.num_children[forest.edge_child] > 0).nonzero().squeeze(1)
    states = trajectories.states[stopping]
    can_stop = environment.forward_mask(states)[:, environment.stop_action]
    if not bool(can_stop.all()):
        state = states[int((~can_stop).nonzero()[0])].tolist()
        raise ValueError(f"the modified losses need a stop in every state; there is none in {state}.")
    return Prefixes(
        forest=Forest.from_lengths(forest.edge_tree.bincount(minlength=forest.num_trees) - 1),
        log_stop=evaluation.of_distinct.log_pf[evaluation.place[stopping], environment.stop_action],
        log_reward=environment.log_reward(states),
        log_pf=evaluation.log_pf[going_on],
        log_pb=evaluation.log_pb[going_on],
    )
