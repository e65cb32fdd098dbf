"""The plain training loop: sample, compute the loss, step."""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import torch

from gflowdial.envs.environment import Environment
from gflowdial.estimators.flow_estimator import FlowEstimator
from gflowdial.estimators.log_z import NetworkLogZ, TabularLogZ
from gflowdial.losses import Loss, inputs_of, loss_on
from gflowdial.losses.reading import loss_named
from gflowdial.replay import Replay
from gflowdial.sampling import Policy, Trajectories, read_trajectories, sample_backward, sample_forward


@dataclass(frozen=True, eq=False)
class TrainingStep:
    """What one step did.

    Attributes:
        step: its number, from 0.
        loss: the loss before the step.
        sampled: the trajectories that the policy sampled in it; None where all came from replay.
    """

    step: int
    loss: float
    sampled: Trajectories | None


def train(
    environment: Environment,
    estimator: FlowEstimator,
    loss: Loss,
    optimiser: torch.optim.Optimizer,
    *,
    steps: int,
    batch_size: int,
    generator: torch.Generator,
    epsilon: float = 0.0,
    temperature: float = 1.0,
    per_condition: int = 1,
    replay: Replay | None = None,
    replay_share: float = 0.5,
    reference: Policy | None = None,
    max_grad_norm: float | None = None,
    mixed_precision: torch.dtype | None = None,
) -> Iterator[TrainingStep]:
    """Train ``estimator``, yielding after each step: what is done in between (a log line, a learning rate) is yours.

    ::

        for done in train(environment, estimator, "trajectory_balance", optimiser, steps=1000, ...):
            if done.step % 100 == 0:
                print(done.step, done.loss)

    Nothing happens until the iterator is read.

    Args:
        environment: where to act.
        estimator: what learns.
        loss: what it minimises: the name of a loss, a partial of one, a `losses.Sum`, or any function whose parameters
            are inputs that `read_trajectories` has.
        optimiser: holds the estimator's parameters.
        steps: how many.
        batch_size: trajectories a step.
        generator: the source of randomness of sampling.
        epsilon: exploration; see `sample_forward`.
        temperature: exploration; see `sample_forward`.
        per_condition: trajectories of each drawn condition; more than 1 for losses that compare them.
        replay: where terminal states are kept, and drawn from; it may be filled beforehand.
        replay_share: which part of a batch is replayed along paths drawn from P_B; with 1 all is, and nothing sampled.
        reference: π_ref of losses that read one; the uniform policy by default.
        max_grad_norm: a longer gradient, over all parameters of the optimiser together, is scaled to this norm.
        mixed_precision: `torch.bfloat16` or `torch.float16`, in which the estimator's layers compute while the loss is
            taken, by `torch.autocast`. In float16 the loss is scaled, and a step whose gradient overflows is left out,
            by `torch.amp.GradScaler`. Weights, sampling and losses keep their dtypes.

    Raises:
        ValueError: if an option is out of range, ``per_condition`` does not divide what is sampled or replayed, no loss
            has the name, the environment lacks an input of the loss, or the estimator has fewer log Z than the
            environment has initial states and the loss reads it.
    """
    chosen = loss_named(loss)
    if max_grad_norm is not None and not max_grad_norm > 0:
        raise ValueError(f"max_grad_norm is {max_grad_norm}: give a norm above 0, or None")
    if mixed_precision not in (None, torch.bfloat16, torch.float16):
        raise ValueError(f"mixed_precision is {mixed_precision}: choose torch.bfloat16, torch.float16 or None")
    if "log_z" in inputs_of(chosen):
        _check_log_z(environment, estimator)
    if replay is not None and not 0 <= replay_share <= 1:
        raise ValueError(f"replay_share must lie in [0, 1]; got {replay_share}.")
    replayed = 0 if replay is None else round(replay_share * batch_size)
    fresh = batch_size - replayed
    if fresh % per_condition or replayed % per_condition:
        raise ValueError(f"per_condition is {per_condition}: it must divide {fresh} sampled and {replayed} replayed.")
    starts = environment.initial_states
    learned = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    scaler = torch.amp.GradScaler(starts.device.type, enabled=mixed_precision == torch.float16)
    for step in range(steps):
        batch: list[Trajectories] = []
        sampled = None
        if fresh:
            drawn = torch.randint(len(starts), (fresh // per_condition,), generator=generator, device=starts.device)
            sampled = sample_forward(
                environment,
                estimator.forward_policy,
                drawn.repeat_interleave(per_condition),
                generator=generator,
                epsilon=epsilon,
                temperature=temperature,
            )
            batch.append(sampled)
            if replay is not None:
                replay.add(sampled.terminals)
        if replay is not None and replayed:
            again = replay.draw(replayed, generator=generator, per_condition=per_condition)
            paths = sample_backward(
                environment,
                estimator.backward_policy,
                again.states,
                generator=generator,
                log_reward=again.log_reward,
            )
            batch.append(paths)
        with torch.autocast(starts.device.type, mixed_precision) if mixed_precision else nullcontext():
            found = [loss_on(chosen, read_trajectories(environment, estimator, part, reference)) for part in batch]
        # Two parts count by their sizes.
        total = found[0] if len(found) == 1 else (fresh * found[0] + replayed * found[1]) / batch_size
        optimiser.zero_grad()
        scaler.scale(total).backward()  # type: ignore[no-untyped-call]
        if max_grad_norm is not None:
            scaler.unscale_(optimiser)
            torch.nn.utils.clip_grad_norm_(learned, max_grad_norm)
        scaler.step(optimiser)
        scaler.update()
        yield TrainingStep(step, float(total.detach()), sampled)


def _check_log_z(environment: Environment, estimator: FlowEstimator) -> None:
    conditions, log_z = len(environment.initial_states), estimator.log_z
    known = conditions
    if isinstance(log_z, TabularLogZ):
        known = len(log_z.values)
    elif isinstance(log_z, NetworkLogZ):
        known = len(log_z.features)
    if known < conditions:
        raise ValueError(
            f"the estimator has {known} log Z and the environment {conditions} initial states: give it one per initial "
            "state, by `num_conditions` or the features of all"
        )
