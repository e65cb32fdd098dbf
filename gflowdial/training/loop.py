"""The plain training loop: sample, compute the loss, step."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from gflowdial.envs.environment import Environment
from gflowdial.estimators.flow_estimator import FlowEstimator
from gflowdial.losses import Loss, loss_on
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

    Raises:
        ValueError: if a share is out of range, ``per_condition`` does not divide what is sampled or replayed, no loss
            has the name, or the environment lacks an input of the loss.
    """
    chosen = loss_named(loss)
    if replay is not None and not 0 <= replay_share <= 1:
        raise ValueError(f"replay_share must lie in [0, 1]; got {replay_share}.")
    replayed = 0 if replay is None else round(replay_share * batch_size)
    fresh = batch_size - replayed
    if fresh % per_condition or replayed % per_condition:
        raise ValueError(f"per_condition is {per_condition}: it must divide {fresh} sampled and {replayed} replayed.")
    starts = environment.initial_states
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
        found = [loss_on(chosen, read_trajectories(environment, estimator, part, reference)) for part in batch]
        # Two parts count by their sizes.
        total = found[0] if len(found) == 1 else (fresh * found[0] + replayed * found[1]) / batch_size
        optimiser.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        yield TrainingStep(step, float(total.detach()), sampled)
