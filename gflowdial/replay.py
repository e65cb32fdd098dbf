"""Terminal states worth seeing again.

Replay keeps terminal states, not trajectories: a path to a kept state is drawn anew with P_B by `sample_backward` each
time. So a state is kept once however many paths lead to it, all rows have one width, and what is replayed covers the
paths as the current P_B does. In a tree the path is unique, and nothing is lost.
"""

from typing import Literal

import torch

from gflowdial import segments
from gflowdial.numerics import check_finite, first_true, precise_dtype
from gflowdial.sampling.trajectories import Terminals
from gflowdial.segments import Segments
from gflowdial.shapes import Float, Int, Tensor

__all__ = ["Priority", "Replay"]

Priority = Literal["uniform", "reward", "recency"]


class Replay:
    """A set of terminal states of bounded size; no state is in it twice.

    ``priority`` decides what is drawn, always with replacement:

    - ``"uniform"``: all alike;
    - ``"reward"``: in proportion to R among the states of a condition, which is the target distribution on what is kept
      of it; the conditions in proportion to how many states are kept of each;
    - ``"recency"``: in proportion to 1/rank, rank 1 being the state added last.

    When there is no room, a state of the condition with the most states leaves (of several such conditions, the one
    whose last state was added longest ago), so that each condition keeps its share of the capacity however much larger
    the rewards of another are. Of its states, the one that was added longest ago leaves; under ``"reward"`` the one of
    least reward (of several the oldest), be it a new one. A state that is added again counts as new and takes its new
    reward.

    Args:
        capacity: how many states are kept.
        priority: what is drawn, and what leaves.

    Raises:
        ValueError: if an option is out of range.
    """

    def __init__(self, capacity: int, *, priority: Priority = "uniform") -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1; got {capacity}.")
        if priority not in ("uniform", "reward", "recency"):
            raise ValueError(f"priority must be 'uniform', 'reward' or 'recency'; got {priority!r}.")
        self.capacity = capacity
        self.priority = priority
        self._kept: Terminals | None = None
        self._added = torch.zeros(0, dtype=torch.int64)
        self._key: list[bytes] = []
        self._row: dict[bytes, int] = {}
        self._clock = 0

    def __len__(self) -> int:
        return len(self._key)

    @property
    def terminals(self) -> Terminals:
        """All that is kept, in no particular order; the next `add` changes it.

        Raises:
            ValueError: if nothing is.
        """
        if self._kept is None:
            raise ValueError("the replay is empty: add terminal states first.")
        return self._kept

    def add(self, terminals: Terminals) -> None:
        """Take in ``terminals`` in their order; what exceeds the capacity then leaves.

        Raises:
            ValueError: if a reward is NaN or infinite.
        """
        check_finite("log_reward", terminals.log_reward)
        # Batches may come in different dtypes.
        log_reward = terminals.log_reward.to(precise_dtype(terminals.log_reward.device))
        terminals = Terminals(terminals.states, log_reward, terminals.condition)
        newest = {key: row for row, key in enumerate(_keys(terminals.states))}
        device = terminals.states.device
        added = torch.arange(self._clock, self._clock + len(terminals.states), device=device)
        self._clock += len(added)
        if self._kept is None:
            self._kept = _rows(terminals, slice(0, 0))
            self._added = added[:0]
        again = [key for key in newest if key in self._row]
        fresh = [key for key in newest if key not in self._row]
        into = torch.tensor([self._row[key] for key in again], dtype=torch.int64, device=device)
        out_of = torch.tensor([newest[key] for key in again], dtype=torch.int64, device=device)
        self._kept.log_reward[into], self._added[into] = terminals.log_reward[out_of], added[out_of]
        taken = torch.tensor([newest[key] for key in fresh], dtype=torch.int64, device=device)
        self._kept = _concatenated(self._kept, _rows(terminals, taken))
        self._added = torch.cat([self._added, added[taken]])
        self._row.update({key: row for row, key in enumerate(fresh, len(self))})
        self._key += fresh
        if len(self) > self.capacity:
            self._shrink()

    def draw(self, count: int, *, generator: torch.Generator, per_condition: int | None = None) -> Terminals:
        """``count`` states, drawn with replacement.

        Args:
            count: how many.
            generator: the source of randomness, on the states' device.
            per_condition: draw conditions first, all alike, and this many states of each, one after the other; the
                priority then holds among the states of a condition. None draws single states of any condition.

        Raises:
            ValueError: if nothing is kept, ``count`` is negative, or ``per_condition`` is no positive divisor of it.
        """
        kept = self.terminals
        if count < 0 or (per_condition is not None and per_condition < 1):
            raise ValueError(f"count must be 0 or more and per_condition 1 or more; got {count} and {per_condition}.")
        log_weight = self._log_weight()
        if per_condition is None:
            group, groups, repeats = torch.zeros_like(kept.condition), 1, max(count, 1)
            if self.priority == "reward":
                log_weight = _balanced(log_weight, kept.condition)
        else:
            if count % per_condition:
                raise ValueError(f"per_condition is {per_condition} and does not divide the {count} states asked for.")
            conditions, group = torch.unique(kept.condition, return_inverse=True)
            groups, repeats = len(conditions), per_condition
        device = kept.states.device
        probability = segments.softmax(log_weight, Segments.from_ids(group, groups))
        # Each group fills an interval of length 1 with its states' probabilities.
        order = group.argsort(stable=True)
        bounds = probability[order].cumsum(0)
        chosen = torch.randint(groups, (count // repeats,), generator=generator, device=device)
        chosen = chosen.repeat_interleave(repeats)
        at = chosen + torch.rand(count, generator=generator, device=device, dtype=bounds.dtype)
        last = torch.bincount(group, minlength=groups).cumsum(0) - 1
        first = torch.cat([last.new_zeros(1), last[:-1] + 1])
        # Rounding may carry a bound across the end of its interval.
        place = torch.searchsorted(bounds, at, right=True).clamp(first[chosen], last[chosen])
        return _rows(kept, order[place])

    def _log_weight(self) -> Float[Tensor, " rows"]:
        if self.priority == "reward":
            return self.terminals.log_reward
        if self.priority == "recency":
            rank = self._added.argsort(descending=True).argsort() + 1
            return -rank.double().log()
        return torch.zeros(len(self), dtype=torch.float64, device=self._added.device)

    def _shrink(self) -> None:
        """Let go of what exceeds the capacity; the last rows move into the gaps."""
        kept = self.terminals
        leaving = self._first_to_leave(len(self) - self.capacity).tolist()
        for row in leaving:
            del self._row[self._key[row]]
        gone = set(leaving)
        holes = [row for row in leaving if row < self.capacity]
        movers = [row for row in range(self.capacity, len(self)) if row not in gone]
        for hole, mover in zip(holes, movers, strict=True):
            self._key[hole] = self._key[mover]
            self._row[self._key[hole]] = hole
        del self._key[self.capacity :]
        for values in (kept.states, kept.log_reward, kept.condition, self._added):
            values[holes] = values[movers]
        self._kept = _rows(kept, slice(0, self.capacity))
        self._added = self._added[: self.capacity]

    def _first_to_leave(self, count: int) -> Int[Tensor, " rows"]:
        conditions, group = torch.unique(self.terminals.condition, return_inverse=True)
        if len(conditions) == 1:
            return self._worst(torch.arange(len(self), device=group.device), count)
        sizes = group.bincount()
        kept = _shares(sizes, self.capacity)
        # What is left over goes to the conditions that were added to last.
        latest = self._added.new_zeros(len(sizes)).scatter_reduce(0, group, self._added, "amax")
        waiting = torch.where(sizes > kept, latest, -1)
        kept[waiting.topk(self.capacity - int(kept.sum())).indices] += 1
        crowded = (sizes > kept).nonzero().squeeze(1).tolist()
        leaving = [self._worst((group == c).nonzero().squeeze(1), int(sizes[c] - kept[c])) for c in crowded]
        return torch.cat(leaving)

    def _worst(self, rows: Int[Tensor, " rows"], count: int) -> Int[Tensor, " leaving"]:
        """The ``count`` of ``rows`` that leave first."""
        added = self._added[rows]
        if self.priority != "reward":
            return rows[added.topk(count, largest=False).indices]
        reward = self.terminals.log_reward[rows]
        worst = reward.topk(count, largest=False).values.max()
        below, level = (reward < worst).nonzero().squeeze(1), (reward == worst).nonzero().squeeze(1)
        oldest = added[level].topk(count - len(below), largest=False).indices
        return rows[torch.cat([below, level[oldest]])]


def _shares(sizes: Int[Tensor, " groups"], capacity: int) -> Int[Tensor, " groups"]:
    """How many of each group are kept, up to one level that is the same for all: the highest whole one that fits."""
    ascending = sizes.sort().values
    # As long as smaller groups are kept whole, the rest share what they leave.
    left = capacity - (ascending.cumsum(0) - ascending)
    level = left // torch.arange(len(sizes), 0, -1, device=sizes.device)
    first = first_true(ascending > level)
    return sizes if first is None else sizes.clamp(max=int(level[first]))


def _balanced(log_reward: Float[Tensor, " rows"], condition: Int[Tensor, " rows"]) -> Float[Tensor, " rows"]:
    """log R, moved so that each condition weighs as much as it has rows."""
    conditions, group = torch.unique(condition, return_inverse=True)
    if len(conditions) == 1:
        return log_reward
    members = Segments.from_ids(group, len(conditions))
    return log_reward + (members.sizes.to(log_reward.dtype).log() - segments.logsumexp(log_reward, members))[group]


def _keys(states: Int[Tensor, "rows width"]) -> list[bytes]:
    """Each row as bytes."""
    rows = states.cpu().contiguous().numpy()
    return [row.tobytes() for row in rows]


def _rows(terminals: Terminals, rows: Tensor | slice) -> Terminals:
    return Terminals(terminals.states[rows], terminals.log_reward[rows], terminals.condition[rows])


def _concatenated(first: Terminals, second: Terminals) -> Terminals:
    return Terminals(
        torch.cat([first.states, second.states]),
        torch.cat([first.log_reward, second.log_reward]),
        torch.cat([first.condition, second.condition]),
    )
