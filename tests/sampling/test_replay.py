"""Replay holds what a plain list with the same rules would hold, and draws as often as it says."""

from collections import Counter

import pytest
import torch
from all_paths import deviation_bound
from hypothesis import given
from hypothesis import strategies as st

from gflowdial.replay import Priority, Replay
from gflowdial.sampling import Terminals

PRIORITIES: tuple[Priority, ...] = ("uniform", "reward", "recency")
each_priority = pytest.mark.parametrize("priority", PRIORITIES)
# A state is a number with its condition, number modulo 3, in front.
entries = st.tuples(st.integers(0, 15), st.integers(-3, 3).map(float))
batches = st.lists(st.lists(entries, min_size=1, max_size=8), min_size=1, max_size=8)


def terminals(entries: list[tuple[int, float]]) -> Terminals:
    number = torch.tensor([number for number, _ in entries], dtype=torch.int64)
    reward = torch.tensor([reward for _, reward in entries], dtype=torch.float64)
    return Terminals(torch.stack([number % 3, number], 1), reward, number % 3)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@each_priority
@given(batches=batches, capacity=st.integers(1, 10))
def test_replay_is_a_list_with_rules(priority: Priority, batches: list[list[tuple[int, float]]], capacity: int) -> None:
    replay = Replay(capacity, priority=priority)
    kept: list[tuple[int, float]] = []
    for batch in batches:
        replay.add(terminals(batch))
        for number, reward in batch:
            kept = [entry for entry in kept if entry[0] != number] + [(number, reward)]
        last = {number % 3: place for place, (number, _) in enumerate(kept)}
        while len(kept) > capacity:
            # Of the conditions with the most states, the one that was added to longest ago.
            sizes = Counter(number % 3 for number, _ in kept)
            crowded = min((c for c in sizes if sizes[c] == max(sizes.values())), key=last.__getitem__)
            own = [entry for entry in kept if entry[0] % 3 == crowded]
            kept.remove(min(own, key=lambda entry: entry[1]) if priority == "reward" else own[0])
        found = replay.terminals
        assert dict(kept) == dict(zip(found.states[:, 1].tolist(), found.log_reward.tolist(), strict=True))
        assert len(replay) == len(kept) == len(found.states) <= capacity
        assert found.condition.tolist() == found.states[:, 0].tolist()
    drawn = replay.draw(12, generator=generator(), per_condition=4)
    assert set(zip(drawn.states[:, 1].tolist(), drawn.log_reward.tolist(), strict=True)) <= set(kept)
    assert (drawn.condition == drawn.states[:, 0]).all()
    assert (drawn.condition.view(3, 4) == drawn.condition[::4, None]).all()


@each_priority
def test_draws_come_as_often_as_stated(priority: Priority) -> None:
    replay = Replay(9, priority=priority)
    rewards = [0.0, -1.0, 3.0, 2.0, 0.5, -2.0, 1.0, 1.5, 0.0]
    replay.add(terminals(list(enumerate(rewards))))
    weight = {
        "uniform": torch.ones(9),
        "reward": torch.tensor(rewards).exp(),
        "recency": 1 / torch.arange(9, 0, -1),
    }[priority]
    draws = 6000
    if priority == "reward":
        for condition in range(3):
            weight[condition::3] /= weight[condition::3].sum()
    drawn = replay.draw(draws, generator=generator()).states[:, 1]
    assert_frequencies(drawn, weight / weight.sum())
    # By condition: all three alike, and the priority within each.
    for condition in range(3):
        weight[condition::3] /= 3 * weight[condition::3].sum()
    grouped = replay.draw(draws, generator=generator(), per_condition=1).states[:, 1]
    assert_frequencies(grouped, weight)


def assert_frequencies(drawn: torch.Tensor, expected: torch.Tensor) -> None:
    """Fails a right replay with probability 1e-6."""
    counts = Counter(drawn.tolist())
    frequency = torch.tensor([counts[number] / len(drawn) for number in range(len(expected))])
    assert (frequency - expected).abs().sum() / 2 < deviation_bound(len(expected), len(drawn))


def test_rewards_of_any_size_are_drawn_from() -> None:
    replay = Replay(4, priority="reward")
    replay.add(terminals([(0, -2000.0), (1, 3000.0), (3, -2000.0), (4, -5000.0)]))
    assert set(replay.draw(50, generator=generator()).states[:, 1].tolist()) == {0, 1, 3}
    assert set(replay.draw(50, generator=generator(), per_condition=1).states[:, 1].tolist()) == {0, 1, 3}


@each_priority
def test_each_condition_keeps_its_share(priority: Priority) -> None:
    condition = torch.arange(4).repeat_interleave(100)
    log_reward = 20.0 * condition + torch.randn(400, generator=generator())
    replay = Replay(100, priority=priority)
    for rows in torch.arange(400).split(30):
        replay.add(Terminals(rows[:, None], log_reward[rows], condition[rows]))
    found = replay.terminals
    assert found.condition.bincount().tolist() == [25, 25, 25, 25]
    for c in range(4):
        kept, own = found.states[found.condition == c, 0], torch.arange(100 * c, 100 * (c + 1))
        best = own[log_reward[own].topk(25).indices] if priority == "reward" else own[-25:]
        assert sorted(kept.tolist()) == sorted(best.tolist())
    if priority != "recency":
        drawn = replay.draw(2000, generator=generator()).condition.bincount(minlength=4) / 2000
        assert float((drawn - 0.25).abs().max()) < 0.05


def test_fewer_places_than_conditions_go_to_the_last() -> None:
    replay = Replay(3, priority="reward")
    for number in range(8):
        replay.add(Terminals(torch.tensor([[number]]), torch.tensor([-float(number)]), torch.tensor([number])))
    assert sorted(replay.terminals.condition.tolist()) == [5, 6, 7]


def test_rewards_of_another_dtype_are_taken_in() -> None:
    replay = Replay(4)
    for dtype in (torch.float32, torch.float64, torch.float32):
        batch = terminals([(0, 1.0), (1, 2.0)])
        replay.add(Terminals(batch.states, batch.log_reward.to(dtype), batch.condition))
    assert replay.terminals.log_reward.tolist() == [1.0, 2.0]


def test_the_empty_replay_and_bad_options_are_refused() -> None:
    with pytest.raises(ValueError, match="the replay is empty"):
        Replay(3).draw(1, generator=generator())
    with pytest.raises(ValueError, match="capacity must be at least 1"):
        Replay(0)
    replay = Replay(3)
    with pytest.raises(ValueError, match=r"log_reward\[1\] is nan"):
        replay.add(terminals([(0, 0.0), (1, torch.nan)]))
    replay.add(terminals([(0, 0.0)]))
    for count, per_condition in ((-1, None), (4, 0), (4, -2)):
        with pytest.raises(ValueError, match="count must be 0 or more and per_condition 1 or more"):
            replay.draw(count, generator=generator(), per_condition=per_condition)
    assert len(replay.draw(0, generator=generator()).states) == 0
    with pytest.raises(ValueError, match="per_condition is 2 and does not divide the 3"):
        replay.draw(3, generator=generator(), per_condition=2)
