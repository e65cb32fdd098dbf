"""Cost over size, as the plots of the docs show it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.provenance import RESULTS

IMAGES = RESULTS.parents[1] / "docs" / "images"


@dataclass(frozen=True)
class Panel:
    """Curves over one size, both axes logarithmic; points are (size, cost)."""

    size: str
    cost: str
    curves: Mapping[str, Sequence[tuple[float, float]]]


def plot(name: str, panels: Sequence[Panel]) -> None:
    """Write ``panels`` side by side to ``docs/images/NAME.svg``; the same results give the same file."""
    import matplotlib

    matplotlib.use("svg")
    # Fixed ids and no date, so that a file changes with its results only.
    matplotlib.rcParams["svg.hashsalt"] = "gflowdial"
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(panels), figsize=(5 * len(panels), 4), layout="constrained", squeeze=False)
    for axis, panel in zip(axes[0], panels, strict=True):
        for label, points in panel.curves.items():
            if points:
                axis.loglog(*zip(*points, strict=True), marker="o", label=label)
        axis.set(xlabel=panel.size, ylabel=panel.cost)
        axis.grid(alpha=0.3)
        axis.legend()
    figure.savefig(IMAGES / f"{name}.svg", metadata={"Date": None})
    plt.close(figure)
