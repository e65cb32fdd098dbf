"""The figure of a study; the same results give the same file."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from gflowdial.dialogue.curves import save_svg, svg_pyplot
from gflowdial.dialogue.report import COLUMNS, Estimate
from gflowdial.dialogue.studies.records import Place
from gflowdial.dialogue.studies.study import Plot

Drawn: TypeAlias = tuple[str, Place, Mapping[str, Estimate | None]]
"""A row, its place on the axes, and its values by measure."""


def plot(figure: Plot, rows: Sequence[Drawn], caption: str, path: Path) -> None:
    """Draw the measures of a figure, one panel each, with the caption below.

    Args:
        figure: what to draw.
        rows: what was found.
        caption: what is simulated and what is real.
        path: of the SVG file.
    """
    plt = svg_pyplot()
    height = 4.5 if figure.x else 1.5 + 0.2 * len(rows)
    panels = len(figure.y) + (figure.trade is not None)
    canvas, axes = plt.subplots(1, panels, figsize=(6 * panels, height), layout="constrained", squeeze=False)
    if figure.trade:
        _points(axes[0][-1], *figure.trade, rows)
    for axis, measure in zip(axes[0], figure.y, strict=False):
        if figure.x is None:
            _bars(axis, measure, rows)
        else:
            _lines(axis, measure, rows, figure.x, figure.lines)
    for axis in axes[0]:
        axis.grid(alpha=0.3)
    if figure.x:
        axes[0][-1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    canvas.supxlabel("\n".join(textwrap.wrap(caption, 45 * panels + 45)), fontsize=7)
    save_svg(canvas, path)


def _bars(axis: Any, measure: str, rows: Sequence[Drawn]) -> None:
    """A point and its interval per row, the first at the top; a greedy row is beside the one that samples."""
    known = [(_label(row, at), value) for row, at, values in rows if (value := values.get(measure)) is not None]
    policies = list(dict.fromkeys(_sampled(label) for label, _ in known))
    for name, marker, filled in (("sampled", "o", True), ("greedy", "s", False)):
        drawn = [(label, value) for label, value in known if (label == _sampled(label)) == filled]
        found = [value for _, value in drawn]
        axis.errorbar(
            [value.mean for value in found],
            [-policies.index(_sampled(label)) for label, _ in drawn],
            xerr=_errors(found),
            fmt=marker,
            fillstyle="full" if filled else "none",
            capsize=2,
            label=name,
        )
    axis.set_yticks([-place for place in range(len(policies))], policies, fontsize=7)
    axis.margins(y=0.02)
    axis.legend(fontsize=7)
    axis.set_xlabel(_title(measure))


def _points(axis: Any, y: str, x: str, rows: Sequence[Drawn]) -> None:
    """A point with its name per row that samples, and the best of both measures joined by a line."""
    known = [
        (over.mean, height.mean, label)
        for row, at, values in rows
        if (label := _label(row, at)) == _sampled(label)
        and (over := values.get(x)) is not None
        and (height := values.get(y)) is not None
    ]
    best = sorted(one for one in known if not any(_better(other[:2], one[:2]) for other in known))
    axis.plot([one[0] for one in best], [one[1] for one in best], linestyle="--", linewidth=1, color="C7")
    axis.scatter([one[0] for one in known], [one[1] for one in known], s=12)
    for abscissa, ordinate, label in known:
        axis.annotate(label, (abscissa, ordinate), xytext=(3, 2), textcoords="offset points", fontsize=6, rotation=15)
    axis.margins(x=0.25)
    axis.set(xlabel=_title(x), ylabel=_title(y))


def _better(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one != other and one[0] >= other[0] and one[1] >= other[1]


def _label(row: str, at: Place) -> str:
    return " ".join([row.replace("_", " "), *(f"{name} {place}" for name, place in at.items())])


def _sampled(label: str) -> str:
    return label.replace(" greedy", "")


def _lines(axis: Any, measure: str, rows: Sequence[Drawn], x: str, lines: str | None) -> None:
    """A line per policy; a policy without a place on the axis is a level line."""
    series: dict[str, list[tuple[float | str, Estimate]]] = {}
    levels: dict[str, float] = {}
    for row, at, values in rows:
        if (value := values.get(measure)) is None:
            continue
        place = at.get(x)
        if place is None and (measured := values.get(x)) is not None:
            place = measured.mean
        label = row.replace("_", " ") + (f", {lines} {at[lines]}" if lines is not None and lines in at else "")
        if place is None:
            levels.setdefault(label, value.mean)
        else:
            series.setdefault(label, []).append((place, value))
    for label, points in series.items():
        if all(isinstance(place, float | int) for place, _ in points):
            points.sort(key=lambda point: float(point[0]))
        found = [value for _, value in points]
        axis.errorbar(
            [place for place, _ in points],
            [value.mean for value in found],
            yerr=_errors(found),
            marker="o",
            capsize=2,
            label=label,
        )
    for number, (label, level) in enumerate(levels.items()):
        axis.axhline(level, linestyle="--", linewidth=1, color=f"C{(len(series) + number) % 10}", label=label)
    numbers = [float(place) for points in series.values() for place, _ in points if isinstance(place, float | int)]
    if numbers and min(numbers) > 0 and max(numbers) >= 8 * min(numbers):
        axis.set_xscale("log")
    axis.set(xlabel=_title(x), ylabel=_title(measure))


def _errors(values: Sequence[Estimate]) -> list[list[float]]:
    return [
        [0.0 if value.low is None else value.mean - value.low for value in values],
        [0.0 if value.high is None else value.high - value.mean for value in values],
    ]


def _title(measure: str) -> str:
    return COLUMNS.get(measure, (measure.replace("_", " "), 3))[0]
