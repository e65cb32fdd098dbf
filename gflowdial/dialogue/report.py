"""Results with intervals, as data and as a table."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from scipy.stats import norm, t


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95% interval.

    Attributes:
        mean: of the samples.
        low: lower end; None where there is nothing to vary.
        high: upper end; None where there is nothing to vary.
        samples: one value a seed or a scene, or the single value of something that neither changes.
    """

    mean: float
    low: float | None
    high: float | None
    samples: tuple[float, ...]

    @staticmethod
    def of(samples: Sequence[float]) -> "Estimate":
        """Student's t interval of the samples' mean."""
        mean = float(np.mean(samples))
        if len(samples) < 2:
            return Estimate(mean, None, None, tuple(samples))
        half = float(t.ppf(0.975, len(samples) - 1) * np.std(samples, ddof=1) / np.sqrt(len(samples)))
        return Estimate(mean, mean - half, mean + half, tuple(samples))

    @staticmethod
    def of_shares(samples: Sequence[float]) -> "Estimate":
        """Wilson's interval of the mean of shares in [0, 1], which does not leave [0, 1] and suits few samples.

        Each share counts as one trial, so the interval is wide enough however the shares came about.
        """
        mean, n, z = float(np.mean(samples)), len(samples), float(norm.ppf(0.975))
        middle = (mean + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * float(np.sqrt(mean * (1 - mean) / n + z**2 / (4 * n**2)))
        # Rounding may carry an end across the mean where all samples are 0 or 1.
        return Estimate(mean, min(mean, middle - half), max(mean, middle + half), tuple(samples))

    def __str__(self) -> str:
        return self.text(3)

    def text(self, decimals: int) -> str:
        """The mean with so many decimals, and the interval: as ±, or its ends where the mean is not in the middle."""
        mean = f"{self.mean:.{decimals}f}"
        if self.low is None or self.high is None:
            return mean
        if not np.isclose(self.mean - self.low, self.high - self.mean, atol=5 * 10.0 ** -(decimals + 1)):
            return f"{mean} ({self.low:.{decimals}f}–{self.high:.{decimals}f})"
        return f"{mean} ±{(self.high - self.low) / 2:.{decimals}f}"


Rows = Mapping[str, Mapping[str, Estimate | None]]
"""Policy, then measure; None where a measure is not known."""


class Evaluated(NamedTuple):
    """What an evaluation found.

    Attributes:
        rows: the results.
        title: what they are of.
        caption: how they were computed.
        facts: what stands beside the rows in ``results.json``.
        written: single predictions or conversations, as JSON values.
        training_rows: the same in scenes for training, where they are computed.
    """

    rows: Rows
    title: str
    caption: str
    facts: dict[str, Any]
    written: list[dict[str, Any]]
    training_rows: Rows | None = None


def as_data(rows: Rows) -> dict[str, dict[str, dict[str, object] | None]]:
    """The rows for ``results.json``."""
    return {
        policy: {name: None if value is None else asdict(value) for name, value in row.items()}
        for policy, row in rows.items()
    }


COLUMNS = {
    "expected_return": ("return", 3),
    "turns": ("turns", 2),
    "total_variation": ("TV", 3),
    "kl": ("KL", 2),
    "good_conversations": ("good/64", 1),
    "certificate": ("TV bound", 3),
    "environment_steps": ("steps", 0),
}
"""The title of a measure's column, and how many decimals are printed; other measures have their name and three."""


def as_table(rows: Rows, title: str, caption: str) -> str:
    """The rows as text, at most 160 columns wide. The row ``NAME_greedy`` after ``NAME`` is printed as "… greedy"."""
    table = Table(
        title=title, caption=caption, title_justify="left", caption_justify="left", box=SIMPLE_HEAD, pad_edge=False
    )
    table.add_column("policy", no_wrap=True)
    measures = list(next(iter(rows.values())))
    for name in measures:
        table.add_column(_column(name)[0], justify="right")
    before = ""
    for policy, row in rows.items():
        shown = "… greedy" if policy == f"{before}_greedy" else policy.replace("_", " ")
        table.add_row(shown, *(_cell(row[name], _column(name)[1]) for name in measures))
        before = policy
    console = Console(width=160, record=True, file=None, quiet=False, force_terminal=False)
    with console.capture() as captured:
        console.print(table)
    return "".join(f"{line.rstrip()}\n" for line in captured.get().splitlines() if line.strip())


def _column(measure: str) -> tuple[str, int]:
    return COLUMNS.get(measure, (measure.replace("_", " "), 3))


def _cell(value: Estimate | None, decimals: int) -> str:
    return "–" if value is None else value.text(decimals)
