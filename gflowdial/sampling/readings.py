"""Trajectories of an environment, read by an estimator: the inputs of every loss."""

from functools import cache

import torch

from gflowdial.envs.environment import Environment, StoppingEnvironment, TurnRewards
from gflowdial.estimators.flow_estimator import FlowEstimates, FlowEstimator
from gflowdial.forest import Forest
from gflowdial.losses import Reading
from gflowdial.numerics import check_indices, distinct, uniform_log_probabilities
from gflowdial.sampling.lockstep import Policy
from gflowdial.sampling.trajectories import Trajectories
from gflowdial.segments import Segments
from gflowdial.shapes import Bool, Float, Int, Tensor


def read_trajectories(
    environment: Environment, estimator: FlowEstimator, trajectories: Trajectories, reference: Policy | None = None
) -> Reading:
    """The inputs of every loss on ``trajectories``, from any sampler.

    States that are visited more than once are read once. Actions that the estimator's masks exclude have log P = -inf.

    - ``log_z [trees]``: log Z of each trajectory's condition; ``group [trees]``: the condition.
    - ``log_flow [nodes]``, ``log_pf [edges]``, ``log_pb [edges]``, ``log_reward [leaves]``.
    - ``log_policy [edges, actions]``: log P_F of all actions in the state that each edge leaves;
      ``log_reference_policy`` the same of the reference; ``tree`` says which tree each row is of.
    - ``log_reference [edges]``: log P_ref of each action, without gradient.
    - ``log_turn_reward [edges]``: what each action adds to log R, by the environment's ``turn_log_reward``, or else the
      differences of its ``log_reward``.
    - ``chance [nodes]`` and ``log_dynamics [edges]``: false and 0 everywhere, since an `Environment` is deterministic.
    - ``stopping``: what `losses.modified_detailed_balance` reads, each trajectory up to the state where it stopped.
    - ``states``: what `losses.flow_matching` reads of the visited states; one counts as often as it was visited.
    - ``trajectories``: the argument, for losses of one's own.

    ``log_partition_variance`` needs several trajectories of a condition: ``per_condition`` of `training.train` and of
    `Replay.draw`. ``maximum_likelihood`` takes trajectories as data, so that they must come from data and not from the
    policy: fill a `Replay` and train with ``replay_share=1``; under ``priority="reward"`` its ends are drawn in
    proportion to R. Use a uniform P_B there, which this loss does not teach.

    Args:
        environment: where the trajectories are from.
        estimator: what learns.
        trajectories: complete trajectories, sampled or replayed.
        reference: π_ref of the relative losses; the uniform policy by default.

    Raises:
        ValueError: if an action is not one of the environment's; later, when an input is asked for that the
            environment does not have: ``stopping`` without an action that stops in every state, ``log_turn_reward``
            where unfinished states have no reward, ``chance`` where a state can be reached in several ways (the loss
            that reads it has no P_B).
    """
    forest, states = trajectories.forest, trajectories.states

    # An action out of range would be the log-probability of another state's action.
    low, high = (int(end) for end in trajectories.actions.aminmax()) if forest.num_edges else (0, 0)
    if low < 0 or high >= environment.num_actions:
        check_indices("actions", trajectories.actions, environment.num_actions, "actions")

    @cache
    def said() -> tuple[FlowEstimates, Int[Tensor, " nodes"]]:
        """What the estimator says of the distinct states, and which of them each node's state is."""
        rows, place = distinct(states)
        return estimator(rows), place

    def taken(log_p: Tensor, node: Tensor) -> Float[Tensor, " edges"]:
        entry = said()[1].index_select(0, node).mul_(log_p.shape[1]).add_(trajectories.actions)
        return log_p.flatten().index_select(0, entry)

    def log_pf() -> Float[Tensor, " edges"]:
        return taken(said()[0].log_pf, forest.edge_parent)

    def log_pb() -> Float[Tensor, " edges"]:
        # The action that led into a state is the one that leads back out of it.
        return taken(said()[0].log_pb, forest.edge_child)

    def at_edges(log_p: Tensor) -> Float[Tensor, "edges actions"]:
        return log_p.index_select(0, said()[1].index_select(0, forest.edge_parent))

    @cache
    @torch.no_grad()
    def log_reference_policy() -> Float[Tensor, "edges actions"]:
        before = states[forest.edge_parent]
        if reference is None:
            return uniform_log_probabilities(environment.forward_mask(before), torch.float64)
        return reference(before)

    def chance() -> Bool[Tensor, " nodes"]:
        estimates, place = said()
        several = (estimates.log_pb > -torch.inf).sum(1) > 1
        if bool(several.any()):
            state = states[place == several.nonzero()[0]][0].tolist()
            raise ValueError(
                f"expected detailed balance needs a tree; the state {state} can be reached in several ways."
            )
        return torch.zeros_like(forest.parent, dtype=torch.bool)

    def stopping() -> Reading:
        stop = _stop_action(environment)
        # In a chain each state but the last has one edge.
        before, going_on = forest.edge_parent, (forest.num_children[forest.edge_child] > 0).nonzero().squeeze(1)
        can_stop = environment.forward_mask(states[before])[:, stop]
        if not bool(can_stop.all()):
            state = states[before[~can_stop][0]].tolist()
            raise ValueError(f"the modified losses need a stop in every state; there is none in {state}.")
        estimates, place = said()
        return Reading(
            Forest.from_lengths(forest.edge_tree.bincount(minlength=forest.num_trees) - 1),
            log_stop=estimates.log_pf[place[before], stop],
            log_reward=environment.log_reward(states[before]),
            log_pf=log_pf()[going_on],
            log_pb=log_pb()[going_on],
        )

    return Reading(
        forest,
        log_z=lambda: estimator.log_z(trajectories.condition),
        log_flow=lambda: said()[0].log_flow.index_select(0, said()[1]),
        log_pf=log_pf,
        log_pb=log_pb,
        log_reward=trajectories.log_reward,
        group=trajectories.condition,
        log_policy=lambda: at_edges(said()[0].log_pf),
        log_reference_policy=log_reference_policy,
        tree=lambda: Segments.from_ids(forest.edge_tree, forest.num_trees),
        log_reference=lambda: log_reference_policy().gather(1, trajectories.actions.unsqueeze(1)).squeeze(1),
        log_turn_reward=lambda: _turn_rewards(environment, trajectories),
        chance=chance,
        log_dynamics=lambda: trajectories.log_reward.new_zeros(forest.num_edges),
        stopping=stopping,
        states=lambda: _state_flows(environment, estimator, trajectories),
        trajectories=trajectories,
    )


def _stop_action(environment: Environment) -> int:
    if not isinstance(environment, StoppingEnvironment):
        raise ValueError(
            f"{type(environment).__name__} has no stop_action, which modified losses need; "
            "`envs.StopAnywhere` adds one to any environment."
        )
    return environment.stop_action


def _turn_rewards(environment: Environment, trajectories: Trajectories) -> Float[Tensor, " edges"]:
    forest, states = trajectories.forest, trajectories.states
    if isinstance(environment, TurnRewards):
        rewards = environment.turn_log_reward(states[forest.edge_child])
    else:
        log_reward = environment.log_reward(states)
        rewards = log_reward[forest.edge_child] - log_reward[forest.edge_parent]
    if not bool(rewards.isfinite().all()):
        edge = int((~rewards.isfinite()).nonzero()[0])
        raise ValueError(
            f"the action into {states[forest.edge_child[edge]].tolist()} adds {float(rewards[edge])} to log R: "
            f"{type(environment).__name__} does not know the rewards of single turns, so no loss can look forward."
        )
    return rewards


def _state_flows(environment: Environment, estimator: FlowEstimator, trajectories: Trajectories) -> Reading:
    """Every edge into and out of each visited state, whether a trajectory took it or not, with flow F(s)·P_F(a|s)."""
    states, forest = trajectories.states, trajectories.forest
    out_state, out_action = environment.forward_mask(states).nonzero(as_tuple=True)
    in_state, in_action = environment.backward_mask(states).nonzero(as_tuple=True)
    before = environment.step_back(states[in_state], in_action)
    rows, place = distinct(torch.cat([states, before]))
    estimates = estimator(rows)
    log_edge_flow = estimates.log_flow.unsqueeze(1) + estimates.log_pf
    # Only ends have a reward.
    nowhere = trajectories.log_reward.new_full((forest.num_nodes,), -torch.inf)
    return Reading(
        forest,
        log_in_flow=log_edge_flow[place[len(states) :], in_action],
        log_out_flow=log_edge_flow[place[out_state], out_action],
        log_reward=nowhere.index_copy(0, forest.leaves, trajectories.log_reward),
        in_state=in_state,
        out_state=out_state,
    )
