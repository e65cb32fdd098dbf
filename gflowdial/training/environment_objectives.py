"""Every loss on trajectories of an environment.

An objective is ``(environment, estimator, trajectories) -> loss``. It passes on the options of its loss, so a variant
is a `functools.partial`: ``partial(subtrajectory_balance, decay=0.5)``. At zero loss the policy ends in each state in
proportion to R, unless an objective says otherwise; each says too what it needs beyond the protocols.
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch

from gflowdial import losses
from gflowdial.envs.environment import Environment
from gflowdial.estimators.flow_estimator import FlowEstimator
from gflowdial.numerics import uniform_log_probabilities
from gflowdial.sampling import Policy, Trajectories, evaluate, state_flows, stopping_prefixes
from gflowdial.shapes import Float, Int, Tensor

EnvironmentObjective = Callable[[Environment, FlowEstimator, Trajectories], Tensor]


@runtime_checkable
class TurnRewards(Protocol):
    """An environment that says what each turn is worth."""

    def turn_log_reward(self, states: Int[Tensor, "states width"]) -> Float[Tensor, " states"]:
        """What the last action before each state adds to log R."""


def trajectory_balance(
    environment: Environment,  # noqa: ARG001 (objectives have one signature)
    estimator: FlowEstimator,
    trajectories: Trajectories,
    **options: Any,
) -> Float[Tensor, ""]:
    """`losses.trajectory_balance`, with the log Z of each trajectory's condition."""
    said = evaluate(estimator, trajectories)
    return losses.trajectory_balance(
        said.log_z, said.log_pf, said.log_pb, trajectories.log_reward, trajectories.forest, **options
    )


def log_partition_variance(
    environment: Environment,  # noqa: ARG001
    estimator: FlowEstimator,
    trajectories: Trajectories,
) -> Float[Tensor, ""]:
    """`losses.log_partition_variance` in groups of one condition each.

    It needs several trajectories of a condition: ``per_condition`` of `train` and of `Replay.draw`.
    """
    said = evaluate(estimator, trajectories)
    return losses.log_partition_variance(
        said.log_pf, said.log_pb, trajectories.log_reward, trajectories.forest, group=trajectories.condition
    )


def detailed_balance(
    environment: Environment,  # noqa: ARG001
    estimator: FlowEstimator,
    trajectories: Trajectories,
    **options: Any,
) -> Float[Tensor, ""]:
    """`losses.detailed_balance`."""
    return _of_flows(losses.detailed_balance, estimator, trajectories, **options)


def subtrajectory_balance(
    environment: Environment,  # noqa: ARG001
    estimator: FlowEstimator,
    trajectories: Trajectories,
    **options: Any,
) -> Float[Tensor, ""]:
    """`losses.subtrajectory_balance`."""
    return _of_flows(losses.subtrajectory_balance, estimator, trajectories, **options)


def modified_detailed_balance(
    environment: Environment, estimator: FlowEstimator, trajectories: Trajectories, **options: Any
) -> Float[Tensor, ""]:
    """`losses.modified_detailed_balance`; needs a `StoppingEnvironment` that can stop in every state.

    A trajectory that stops at once has no edge and teaches nothing.
    """
    return _of_prefixes(losses.modified_detailed_balance, environment, estimator, trajectories, **options)


def modified_subtrajectory_balance(
    environment: Environment, estimator: FlowEstimator, trajectories: Trajectories, **options: Any
) -> Float[Tensor, ""]:
    """`losses.modified_subtrajectory_balance`; needs a `StoppingEnvironment` that can stop in every state."""
    return _of_prefixes(losses.modified_subtrajectory_balance, environment, estimator, trajectories, **options)


def forward_looking_detailed_balance(
    environment: Environment, estimator: FlowEstimator, trajectories: Trajectories, **options: Any
) -> Float[Tensor, ""]:
    """`losses.forward_looking_detailed_balance` with the rewards of `log_turn_rewards`."""
    rewards = log_turn_rewards(environment, trajectories)
    return _of_flows(
        losses.forward_looking_detailed_balance, estimator, trajectories, log_turn_reward=rewards, **options
    )


def forward_looking_subtrajectory_balance(
    environment: Environment, estimator: FlowEstimator, trajectories: Trajectories, **options: Any
) -> Float[Tensor, ""]:
    """`losses.forward_looking_subtrajectory_balance` with the rewards of `log_turn_rewards`."""
    rewards = log_turn_rewards(environment, trajectories)
    return _of_flows(
        losses.forward_looking_subtrajectory_balance, estimator, trajectories, log_turn_reward=rewards, **options
    )


def flow_matching(
    environment: Environment, estimator: FlowEstimator, trajectories: Trajectories, **options: Any
) -> Float[Tensor, ""]:
    """`losses.flow_matching` at the visited states; P_B has no place in it."""
    flows = state_flows(environment, estimator, trajectories)
    return losses.flow_matching(
        flows.log_in_flow, flows.log_out_flow, flows.log_reward, flows.in_state, flows.out_state, **options
    )


def relative_trajectory_balance(
    environment: Environment,
    estimator: FlowEstimator,
    trajectories: Trajectories,
    *,
    reference: Policy | None = None,
    **options: Any,
) -> Float[Tensor, ""]:
    """`losses.relative_trajectory_balance`: leads to ``P_ref(x)·R(x)^(1/temperature)``.

    ``reference`` is π_ref, the uniform policy by default; no gradient reaches it.
    """
    said = evaluate(estimator, trajectories)
    log_reference = _log_reference(environment, reference, trajectories)
    return losses.relative_trajectory_balance(
        said.log_z, said.log_pf, log_reference, trajectories.log_reward, trajectories.forest, **options
    )


def relative_subtrajectory_balance(
    environment: Environment,
    estimator: FlowEstimator,
    trajectories: Trajectories,
    *,
    reference: Policy | None = None,
    **options: Any,
) -> Float[Tensor, ""]:
    """`losses.relative_subtrajectory_balance`; target and reference as in `relative_trajectory_balance`."""
    said = evaluate(estimator, trajectories)
    log_reference = _log_reference(environment, reference, trajectories)
    return losses.relative_subtrajectory_balance(
        said.log_flow, said.log_pf, log_reference, trajectories.log_reward, trajectories.forest, **options
    )


def maximum_likelihood(
    environment: Environment,  # noqa: ARG001
    estimator: FlowEstimator,
    trajectories: Trajectories,
) -> Float[Tensor, ""]:
    """`losses.maximum_likelihood` of trajectories as data: leads to the distribution that their ends were drawn from.

    They must come from data, not from the policy itself: fill a `Replay`, and train with ``replay_share=1``. Under
    ``priority="reward"`` the ends are drawn in proportion to R. Use a uniform P_B: this loss does not teach one.
    """
    return losses.maximum_likelihood(evaluate(estimator, trajectories).log_pf, None, trajectories.forest)


def expected_detailed_balance(
    environment: Environment,  # noqa: ARG001
    estimator: FlowEstimator,
    trajectories: Trajectories,
    **options: Any,
) -> Float[Tensor, ""]:
    """`losses.expected_detailed_balance` where nothing is left to chance, as in every `Environment`; a tree is needed.

    Raises:
        ValueError: if a state can be reached in several ways, since this loss has no P_B.
    """
    said = evaluate(estimator, trajectories)
    several = (said.of_distinct.log_pb > -torch.inf).sum(1) > 1
    if bool(several.any()):
        state = trajectories.states[said.place == several.nonzero()[0]][0].tolist()
        raise ValueError(f"expected detailed balance needs a tree; the state {state} can be reached in several ways.")
    chance = torch.zeros_like(trajectories.forest.parent, dtype=torch.bool)
    return losses.expected_detailed_balance(
        said.log_flow, said.log_pf, trajectories.log_reward, trajectories.forest, chance=chance, **options
    )


def stochastic_detailed_balance(
    environment: Environment,  # noqa: ARG001
    estimator: FlowEstimator,
    trajectories: Trajectories,
    **options: Any,
) -> Float[Tensor, ""]:
    """`losses.stochastic_detailed_balance` where each action has one outcome, as in every `Environment`."""
    log_dynamics = trajectories.log_reward.new_zeros(trajectories.forest.num_edges)
    return _of_flows(losses.stochastic_detailed_balance, estimator, trajectories, log_dynamics=log_dynamics, **options)


ENVIRONMENT_OBJECTIVES: dict[str, EnvironmentObjective] = {
    objective.__name__: objective
    for objective in (
        trajectory_balance,
        log_partition_variance,
        detailed_balance,
        subtrajectory_balance,
        modified_detailed_balance,
        modified_subtrajectory_balance,
        forward_looking_detailed_balance,
        forward_looking_subtrajectory_balance,
        flow_matching,
        relative_trajectory_balance,
        relative_subtrajectory_balance,
        maximum_likelihood,
        expected_detailed_balance,
        stochastic_detailed_balance,
    )
}
"""All objectives by the names of their losses."""


def log_turn_rewards(environment: Environment, trajectories: Trajectories) -> Float[Tensor, " edges"]:
    """What each action adds to log R: the environment's ``turn_log_reward`` where it has one, else the differences of
    its ``log_reward``, which must then know unfinished states.

    Raises:
        ValueError: if one is NaN or infinite.
    """
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


def _of_flows(
    loss: Callable[..., Tensor], estimator: FlowEstimator, trajectories: Trajectories, **options: Any
) -> Float[Tensor, ""]:
    """``loss`` of log F, P_F and P_B."""
    said = evaluate(estimator, trajectories)
    return loss(said.log_flow, said.log_pf, said.log_pb, trajectories.log_reward, trajectories.forest, **options)


def _of_prefixes(
    loss: Callable[..., Tensor],
    environment: Environment,
    estimator: FlowEstimator,
    trajectories: Trajectories,
    **options: Any,
) -> Float[Tensor, ""]:
    """``loss`` of trajectories where every state may stop."""
    found = stopping_prefixes(environment, trajectories, evaluate(estimator, trajectories))
    return loss(found.log_stop, found.log_pf, found.log_pb, found.log_reward, found.forest, **options)


def _log_reference(
    environment: Environment, reference: Policy | None, trajectories: Trajectories
) -> Float[Tensor, " edges"]:
    states = trajectories.states[trajectories.forest.edge_parent]
    with torch.no_grad():
        if reference is None:
            log_p = uniform_log_probabilities(environment.forward_mask(states), torch.float64)
        else:
            log_p = reference(states)
    return log_p.gather(1, trajectories.actions.unsqueeze(1)).squeeze(1)
