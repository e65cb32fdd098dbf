"""The log of a training as curves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_PANELS = (
    ("loss", ("loss", "eval_loss")),
    ("total variation to the exact flow", ("train_total_variation", "eval_total_variation")),
    ("expected return", ("train_expected_return", "eval_expected_return")),
)
"""The title of each panel, and the entries of the log that it shows."""


def draw_history(history: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw loss, total variation and return over the steps of a training as an SVG; nothing where the log is empty.

    Args:
        history: entries of the log, each with its ``step`` and ``round``, and values by name.
        path: of the file.
    """
    entries = [entry for entry in history if any(name in entry for _, names in _PANELS for name in names)]
    if not entries:
        return
    plt = svg_pyplot()
    panels = [(title, names) for title, names in _PANELS if any(name in entry for entry in entries for name in names)]
    figure, axes = plt.subplots(1, len(panels), figsize=(5 * len(panels), 3.5), layout="constrained", squeeze=False)
    before = _steps_before(history)
    for axis, (title, names) in zip(axes[0], panels, strict=True):
        for name in names:
            points = [(before[e["round"]] + e["step"], e[name]) for e in entries if name in e]
            if points:
                label = "validation" if name.startswith("eval") else "training"
                axis.plot(*zip(*points, strict=True), marker=".", label=label)
        axis.set(title=title, xlabel="step")
        axis.grid(alpha=0.3)
        axis.legend()
    axes[0][0].set_yscale("log")
    save_svg(figure, path)


def svg_pyplot() -> Any:
    """``matplotlib.pyplot`` for SVG files, with fixed ids: equal figures give equal files."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "gflowdial"
    import matplotlib.pyplot as plt

    return plt


def save_svg(figure: Any, path: Path) -> None:
    """Write a figure of `svg_pyplot` without a date, and close it."""
    figure.savefig(path, metadata={"Date": None})
    svg_pyplot().close(figure)


def _steps_before(history: Sequence[Mapping[str, Any]]) -> list[int]:
    """How many steps were taken before each round."""
    before = [0]
    for number in range(max(entry["round"] for entry in history)):
        before.append(before[-1] + max(entry["step"] for entry in history if entry["round"] == number))
    return before
