"""The loop samples, replays and steps as it was told."""

from functools import partial

import pytest
import torch
from torch import Tensor

from gflowdial import Forest, losses
from gflowdial.envs import MoveSequences, enumerate_states
from gflowdial.estimators import MLPTrunk, NetworkFlow, NetworkLogZ, TabularFlow, TabularLogZ
from gflowdial.replay import Replay
from gflowdial.sampling import Terminals, Trajectories
from gflowdial.training.loop import TrainingStep, train

SCENES = MoveSequences(3, 2, 2, lambda states: states.sum(1).double())
GRAPH = enumerate_states(SCENES)


class Recorded:
    """Trajectory balance that remembers what it saw."""

    def __init__(self) -> None:
        self.seen: list[Trajectories] = []

    def __call__(
        self,
        trajectories: Trajectories,
        log_z: Tensor,
        log_pf: Tensor,
        log_pb: Tensor,
        log_reward: Tensor,
        forest: Forest,
    ) -> Tensor:
        self.seen.append(trajectories)
        return losses.trajectory_balance(log_z, log_pf, log_pb, log_reward, forest)


def estimator() -> TabularFlow:
    return TabularFlow(SCENES, GRAPH.index, len(GRAPH.states), num_conditions=3)


def run(loss: losses.Loss, learner: TabularFlow | NetworkFlow | None = None, **options: object) -> list[TrainingStep]:
    learner = learner or estimator()
    settings: dict[str, object] = {
        "steps": 5,
        "batch_size": 12,
        "generator": torch.Generator().manual_seed(0),
    } | options
    optimiser = torch.optim.Adam(learner.parameters(), lr=0.05)
    return list(train(SCENES, learner, loss, optimiser, **settings))  # type: ignore[arg-type]


def test_every_step_samples_a_batch_and_learns() -> None:
    objective, learner = Recorded(), estimator()
    done = run(objective, learner, steps=40)
    assert [step.step for step in done] == list(range(40))
    assert [step.sampled for step in done] == objective.seen
    assert all(seen.forest.num_trees == 12 for seen in objective.seen)
    assert learner.log_z.values.abs().min() > 0.1
    assert done[-1].loss < done[0].loss


def test_conditions_come_in_groups() -> None:
    objective = Recorded()
    run(objective, steps=20, per_condition=4)
    groups = torch.cat([seen.condition for seen in objective.seen]).view(-1, 4)
    assert (groups == groups[:, :1]).all()
    assert set(groups[:, 0].tolist()) == {0, 1, 2}


def test_replay_takes_its_share_and_what_was_sampled() -> None:
    objective, replay = Recorded(), Replay(100)
    done = run(objective, replay=replay, replay_share=0.25)
    sizes = [seen.forest.num_trees for seen in objective.seen]
    assert sizes == [9, 3] * 5
    found = {tuple(state) for step in done for state in step.sampled.terminals.states.tolist()}  # type: ignore[union-attr]
    assert {tuple(state) for state in replay.terminals.states.tolist()} == found
    for seen in objective.seen[1::2]:
        assert {tuple(state) for state in seen.terminals.states.tolist()} <= found


def test_replay_alone_samples_nothing_and_keeps_given_rewards() -> None:
    ends = GRAPH.states[GRAPH.dag.terminals]
    replay = Replay(100)
    replay.add(Terminals(ends, torch.full((len(ends),), 7.0), ends[:, 0]))
    objective = Recorded()
    done = run(objective, replay=replay, replay_share=1.0)
    assert all(step.sampled is None for step in done)
    assert all((seen.log_reward == 7).all() and seen.forest.num_trees == 12 for seen in objective.seen)


def test_the_share_weighs_the_two_halves() -> None:
    """A replayed batch that costs a known amount shows in the loss with its share."""
    ends = GRAPH.states[GRAPH.dag.terminals]
    replay = Replay(100)
    replay.add(Terminals(ends, torch.zeros(len(ends)), ends[:, 0]))

    def size(log_z: Tensor, forest: Forest) -> Tensor:
        return log_z.sum() * 0 + float(forest.num_trees)

    done = run(size, steps=1, replay=replay, replay_share=0.25)
    assert done[0].loss == pytest.approx((9 * 9 + 3 * 3) / 12)


def test_a_network_with_conditional_log_z_learns_every_scene() -> None:
    torch.manual_seed(0)
    trunk = MLPTrunk(SCENES.num_features, width=32)
    log_z = NetworkLogZ(MLPTrunk(SCENES.num_features, width=32), SCENES.features(SCENES.initial_states))
    learner = NetworkFlow(SCENES, trunk, log_z=log_z)
    optimiser = torch.optim.Adam(learner.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(0)
    for _ in train(
        SCENES,
        learner,
        losses.trajectory_balance,
        optimiser,
        steps=150,
        batch_size=24,
        generator=generator,
        epsilon=0.2,
    ):
        pass
    ends = GRAPH.dag.root_of[GRAPH.dag.terminals]
    exact = torch.stack([GRAPH.log_reward[ends == scene].logsumexp(0) for scene in range(3)])
    torch.testing.assert_close(learner.log_z(torch.arange(3)).double(), exact, atol=0.05, rtol=0.0)


def test_names_partials_and_sums_are_losses() -> None:
    by_name = run("trajectory_balance")
    assert [step.loss for step in by_name] == [step.loss for step in run(Recorded())]
    pulled = losses.Sum(balance="trajectory_balance", kl=partial(losses.reference_kl, weight=2.0))
    first, *_, last = run(pulled, steps=40)
    assert first.loss == by_name[0].loss  # the first policy is the reference
    assert last.loss < first.loss


def test_the_reference_is_passed_on() -> None:
    def leaning(states: Tensor) -> Tensor:
        return torch.tensor([0.9, 0.1]).log().expand(len(states), 2)

    (even,), (other,) = (run("relative_trajectory_balance", steps=1, reference=r) for r in (None, leaning))
    assert even.loss != other.loss


def test_a_misspelt_loss_is_refused_with_what_is_near() -> None:
    with pytest.raises(ValueError, match="'trajectory_balanse' is the name of no loss: choose trajectory_balance or"):
        run("trajectory_balanse")


def trained(loss: losses.Loss, **options: object) -> dict[str, Tensor]:
    """The weights of a network after steps of plain gradient descent, and the first one's length."""
    torch.manual_seed(0)
    learner = NetworkFlow(SCENES, MLPTrunk(SCENES.num_features, width=16), log_z=TabularLogZ(3))
    before = {name: value.detach().clone() for name, value in learner.named_parameters()}
    settings = {"steps": 1, "batch_size": 12, "generator": torch.Generator().manual_seed(0)} | options
    for _ in train(SCENES, learner, loss, torch.optim.SGD(learner.parameters(), lr=1.0), **settings):  # type: ignore[arg-type]
        pass
    return {name: value.detach() - before[name] for name, value in learner.named_parameters()}


def length(moved: dict[str, Tensor]) -> float:
    return float(torch.cat([part.flatten() for part in moved.values()]).norm())


def test_a_long_gradient_is_scaled_to_the_norm_that_is_given_and_a_short_one_is_left() -> None:
    free, long = trained("trajectory_balance"), trained("trajectory_balance", max_grad_norm=1e6)
    clipped = trained("trajectory_balance", max_grad_norm=0.01)
    assert length(free) > 0.1
    assert length(clipped) == pytest.approx(0.01, rel=1e-4)
    for name, step in free.items():
        assert torch.equal(step, long[name])
        torch.testing.assert_close(clipped[name] * length(free) / 0.01, step, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("norm", [None, 0.01])
def test_mixed_precision_computes_layers_in_it_and_keeps_weights_and_losses(norm: float | None) -> None:
    seen: list[torch.dtype] = []

    class Spy(MLPTrunk):
        def forward(self, features: Tensor) -> Tensor:
            read = super().forward(features)
            if read.requires_grad:
                seen.append(read.dtype)
            return read

    torch.manual_seed(0)
    learner = NetworkFlow(SCENES, Spy(SCENES.num_features, width=16), log_z=TabularLogZ(3))
    optimiser = torch.optim.SGD(learner.parameters(), lr=1.0)
    generator = torch.Generator().manual_seed(0)
    before = {name: value.detach().clone() for name, value in learner.named_parameters()}
    (done,) = train(
        SCENES,
        learner,
        "subtrajectory_balance",
        optimiser,
        steps=1,
        batch_size=12,
        generator=generator,
        max_grad_norm=norm,
        mixed_precision=torch.bfloat16,
    )
    assert set(seen) == {torch.bfloat16}
    moved = {name: value.detach() - before[name] for name, value in learner.named_parameters()}
    assert {value.dtype for value in moved.values()} == {torch.float32}
    exact = trained("subtrajectory_balance", max_grad_norm=norm)
    assert done.loss == pytest.approx(run_loss("subtrajectory_balance"), rel=0.05)
    difference = length({name: step - exact[name] for name, step in moved.items()})
    assert 0 < difference < 0.05 * length(exact), "the gradient is that of full precision up to rounding"


@pytest.mark.parametrize("norm", [None, 1.0])
def test_float16_trains_with_a_scaled_loss(norm: float | None) -> None:
    torch.manual_seed(0)
    learner = NetworkFlow(SCENES, MLPTrunk(SCENES.num_features, width=16), log_z=TabularLogZ(3))
    done = run("subtrajectory_balance", learner, steps=60, max_grad_norm=norm, mixed_precision=torch.float16)
    assert done[-1].loss < 0.1 * done[0].loss
    assert all(bool(parameter.isfinite().all()) for parameter in learner.parameters())


def run_loss(loss: losses.Loss) -> float:
    torch.manual_seed(0)
    learner = NetworkFlow(SCENES, MLPTrunk(SCENES.num_features, width=16), log_z=TabularLogZ(3))
    return run(loss, learner, steps=1)[0].loss


def test_fewer_log_z_than_conditions_are_refused_if_the_loss_reads_them() -> None:
    one = TabularFlow(SCENES, GRAPH.index, len(GRAPH.states))
    with pytest.raises(ValueError, match="the estimator has 1 log Z and the environment 3 initial states: give it one"):
        run("trajectory_balance", one)
    trunk = MLPTrunk(SCENES.num_features, width=4)
    two = NetworkFlow(SCENES, trunk, log_z=NetworkLogZ(trunk, SCENES.features(SCENES.initial_states)[:2]))
    with pytest.raises(ValueError, match="the estimator has 2 log Z and the environment 3 initial states"):
        run("trajectory_balance", two)
    assert len(run("detailed_balance", one)) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_grad_norm": 0.0}, "max_grad_norm is 0.0: give a norm above 0"),
        ({"mixed_precision": torch.float64}, "mixed_precision is torch.float64: choose torch.bfloat16"),
        ({"per_condition": 5}, "per_condition is 5: it must divide 12 sampled and 0 replayed"),
        ({"replay": Replay(3), "replay_share": 1.2}, "replay_share must lie in"),
        ({"replay": Replay(3), "replay_share": 0.5, "per_condition": 4}, "it must divide 6 sampled and 6 replayed"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(Recorded(), **options)
