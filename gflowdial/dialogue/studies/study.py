"""What a study is: a question, the runs that answer it, and what is shown of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from gflowdial.dialogue.config import RunConfig
from gflowdial.dialogue.runs import Run
from gflowdial.dialogue.studies.records import Place, Record, evaluated

Measure: TypeAlias = Callable[[Run], list[Record]]
"""From a run that was evaluated to what is recorded of it."""


ENDS = "ends"
"""In the place of a measure: the probability of each of the task's ways to end."""


@dataclass(frozen=True)
class Cell:
    """One run of the line.

    Attributes:
        name: of its folder.
        overrides: of the study's settings, by dotted key.
        at: where it is on the axes of the study, by the name of the axis.
        steps_of: the cell, before this one, whose environment steps this one gets: its ``training.epochs`` follow from
            them, its scenes and its rollouts. None: as many as the settings take.
    """

    name: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    at: Place = field(default_factory=dict)
    steps_of: str | None = None


@dataclass(frozen=True)
class Plot:
    """A figure.

    Attributes:
        y: the measures, one panel for each.
        x: an axis of the cells or records, a measure, or ``"training_steps"``; None draws a bar per row.
        lines: the axis that tells lines of one policy apart, if there is one.
        trade: two measures; a further panel has a point per row, the first over the second, with its name.
    """

    y: Sequence[str]
    x: str | None = None
    lines: str | None = None
    trade: tuple[str, str] | None = None


@dataclass(frozen=True)
class Study:
    """A study.

    Attributes:
        question: in one sentence.
        cells: the runs, from the settings that the study is given.
        measures: the columns of the table, `ENDS` among them. The first is compared with the reference, in pairs of
            seeds or scenes.
        plot: the figure.
        reference: the row that others are compared with; None: the same row in the first cell that has it.
        measure: what is recorded of a run; by default the rows of its evaluation on held-out scenes.
        exact: whether ``measure`` needs scenes whose conversations can all be played through.
    """

    question: str
    cells: Callable[[RunConfig], Sequence[Cell]]
    measures: Sequence[str]
    plot: Plot
    reference: str | None = None
    measure: Measure = evaluated
    exact: bool = False
