"""The plain training loop: sample, score, step."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from gflowdial.envs.environment import Environment
from gflowdial.estimators.flow_estimator import FlowEstimator
from gflowdial.replay import Replay
from gflowdial.sampling import Trajectories, sample_backward, sample_forward
from gflowdial.training.environment_objectives import EnvironmentObjective


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
    objective: EnvironmentObjective,
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
) -> Iterator[TrainingStep]:
    """Train ``estimator``, yielding after each step: what is done in between (a log line, a learning rate) is yours.

    ::

        for done in train(environment, estimator, trajectory_balance, optimiser, steps=1000, ...):
            if done.step % 100 == 0:
                print(done.step, done.loss)

    Nothing happens until the iterator is read.

    Args:
        environment: where to act.
        estimator: what learns.
        objective: what it learns; one of `environment_objectives`, or any such function.
        optimiser: holds the estimator's parameters.
        steps: how many.
        batch_size: trajectories a step.
        generator: the source of randomness of sampling.
        epsilon: exploration; see `sample_forward`.
        temperature: exploration; see `sample_forward`.
        per_condition: trajectories of each drawn condition; more than 1 for losses that compare them.
        replay: where terminal states are kept, and drawn from; it may be filled beforehand.
        replay_share: which part of a batch is replayed along paths drawn from P_B; with 1 all is, and nothing sampled.

    Raises:
        ValueError: if a share is out of range, or ``per_condition`` does not divide what is sampled or replayed.
    """
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
        losses = [objective(environment, estimator, trajectories) for trajectories in batch]
        # Two parts count by their sizes.
        loss = losses[0] if len(losses) == 1 else (fresh * losses[0] + replayed * losses[1]) / batch_size
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        yield TrainingStep(step, float(loss.detach()), sampled)
