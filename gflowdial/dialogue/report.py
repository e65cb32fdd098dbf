"""Results with intervals, as data and as a table."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
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
        if self.low is None or self.high is None:
            return f"{self.mean:.3f}"
        if not np.isclose(self.mean - self.low, self.high - self.mean, atol=5e-4):
            return f"{self.mean:.3f} ({self.low:.3f}–{self.high:.3f})"
        return f"{self.mean:.3f} ±{(self.high - self.low) / 2:.3f}"


Rows = Mapping[str, Mapping[str, Estimate | None]]
"""Policy, then measure; None where a measure is not known."""


def as_data(rows: Rows) -> dict[str, dict[str, dict[str, object] | None]]:
    """The rows for ``results.json``."""
    return {
        policy: {name: None if value is None else asdict(value) for name, value in row.items()}
        for policy, row in rows.items()
    }


def as_table(rows: Rows, title: str, caption: str) -> str:
    """The rows as text."""
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    table.add_column("policy")
    for name in next(iter(rows.values())):
        table.add_column(name.replace("_", " "), justify="right")
    for policy, row in rows.items():
        table.add_row(policy.replace("_", " "), *("–" if value is None else str(value) for value in row.values()))
    console = Console(width=140, record=True, file=None, quiet=False, force_terminal=False)
    with console.capture() as captured:
        console.print(table)
    return "".join(f"{line.rstrip()}\n" for line in captured.get().splitlines())
