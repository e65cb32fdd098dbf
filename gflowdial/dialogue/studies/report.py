"""What a study found: ``results.json``, a Markdown table, and a caption that tells simulated from real."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from gflowdial.dialogue.config import RunConfig
from gflowdial.dialogue.report import COLUMNS, Estimate
from gflowdial.dialogue.runs import write_json
from gflowdial.dialogue.setting import Setting
from gflowdial.dialogue.studies.plots import plot
from gflowdial.dialogue.studies.records import (
    STEPS,
    Place,
    Record,
    difference,
    estimates,
    reference_of,
    without_repeats,
)
from gflowdial.dialogue.studies.study import ENDS, Study


class Line(NamedTuple):
    """A line of the table.

    Attributes:
        cell: the run.
        row: the policy.
        at: where it is on the axes of the study.
        values: by measure.
        difference: of the first measure to the reference.
    """

    cell: str
    row: str
    at: Place
    values: Mapping[str, Estimate | None]
    difference: Estimate | None


def write_study(
    name: str, study: Study, config: RunConfig, found: Mapping[str, Sequence[Record] | str], folder: Path
) -> str:
    """Write ``results.json``, ``results.md`` and ``plot.svg``; return the Markdown.

    Args:
        name: of the study.
        study: what was run.
        config: its settings.
        found: by cell, its records, or why it failed.
        folder: of the study.
    """
    lines = table_lines(study, config, found)
    failures = {cell: what for cell, what in found.items() if isinstance(what, str)}
    described = caption(study, config)
    results = {
        "study": name,
        "question": study.question,
        "caption": described,
        "settings": config.model_dump(mode="json"),
        "cells": {cell.name: dict(cell.overrides) for cell in study.cells(config)},
        "lines": [_as_data(line) for line in lines],
        "failures": failures,
    }
    write_json(folder / "results.json", results)
    ends = Setting(config).task.ends.values()
    measures = [name for measure in study.measures for name in (ends if measure == ENDS else [measure])]
    text = markdown(study.question, measures, lines, described, failures)
    (folder / "results.md").write_text(text, encoding="utf-8")
    twice = _in_several_cells(lines)
    drawn = [(f"{line.row}, {line.cell}" if line.row in twice else line.row, line.at, line.values) for line in lines]
    plot(study.plot, drawn, described, folder / "plot.svg")
    return text


def table_lines(study: Study, config: RunConfig, found: Mapping[str, Sequence[Record] | str]) -> list[Line]:
    """The lines of the table, in the order of cells; a row that comes out alike in several cells is shown once."""
    places = {cell.name: cell.at for cell in study.cells(config)}
    records = without_repeats(
        [(cell, record) for cell, some in found.items() if not isinstance(some, str) for record in some]
    )
    every = [record for _, record in records]
    lines = []
    for cell, record in records:
        reference = reference_of(record, every, study.reference)
        compared = None if reference is None else difference(record, reference, study.measures[0])
        lines.append(
            Line(cell, record.row, {**places[cell], **record.at}, estimates(record, len(config.seeds)), compared)
        )
    return lines


def caption(study: Study, config: RunConfig) -> str:
    """What is simulated and what is real, how many seeds there are, and what intervals and differences are."""
    setting = Setting(config)
    seeds, held_out = len(config.seeds), len(setting.scenes.held_out)
    unit = f"{seeds} seeds" if seeds > 1 else f"{held_out} scenes, of one seed"
    reference = f"the row {study.reference}" if study.reference else "the same row in the first cell that has it"
    return (
        f"{what_is_real(setting)} {held_out} held-out scenes. ± is Student's 95% interval over {unit}; the difference "
        f"is to {reference}, in pairs of seeds, or of scenes where nothing depends on the seed."
    )


def what_is_real(setting: Setting) -> str:
    """What of the conversations comes from people, and what is simulated."""
    source, roles = setting.config.data.source, setting.config.roles
    assert roles is not None
    scenes = {"bundled": "scenes written for the task", "generated": "scenes of the task's generator"}.get(
        source, f"openings of recorded dialogues ({source})"
    )
    if setting.roles.canned:
        players = "agent, partner and judge are rules with fixed phrases"
    elif roles.kind == "local":
        players = "a language model plays agent, partner and judge"
    else:
        players = f"agent, partner and judge are the task's roles {roles.kind!r}"
    return f"Simulated: {players}; no person took part. Scenes: {scenes}."


def markdown(
    question: str, measures: Sequence[str], lines: Sequence[Line], described: str, failures: Mapping[str, str]
) -> str:
    """The table with its question and caption; a measure that no line has is left out."""
    axes = list(dict.fromkeys(axis for line in lines for axis in line.at))
    cells = _in_several_cells(lines)
    first = measures[0]
    measures = [name for name in measures if any(line.values.get(name) is not None for line in lines)]
    compares = any(line.difference is not None for line in lines)
    head = ["policy", *(["cell"] if cells else []), *axes, *map(_title, measures)]
    head += [f"difference in {_title(first)}"] if compares else []
    body = []
    for line in lines:
        values = [_shown(line.values.get(name), name) for name in measures]
        place = [line.cell] if cells else []
        place += [str(line.at.get(axis, "")) for axis in axes]
        body.append(
            [line.row.replace("_", " "), *place, *values, *([_shown(line.difference, first)] if compares else [])]
        )
    rows = [head, ["---"] * len(head), *body]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    failed = "".join(f"\n`{cell}` failed: {reason}\n" for cell, reason in failures.items())
    return f"{question}\n\n{table}\n\n{described}\n{failed}"


def _in_several_cells(lines: Sequence[Line]) -> set[str]:
    """The rows whose cell has to be named to tell lines apart."""
    places = Counter((line.row, tuple(sorted(line.at.items()))) for line in lines)
    return {row for (row, _), times in places.items() if times > 1}


def _title(measure: str) -> str:
    return "training steps" if measure == STEPS else COLUMNS.get(measure, (measure.replace("_", " "), 3))[0]


def _shown(value: Estimate | None, measure: str) -> str:
    if value is None:
        return "–"
    return value.text(0 if measure == STEPS else COLUMNS.get(measure, ("", 3))[1])


def _as_data(line: Line) -> dict[str, Any]:
    return {
        "cell": line.cell,
        "row": line.row,
        "at": dict(line.at),
        "values": {name: None if value is None else asdict(value) for name, value in line.values.items()},
        "difference": None if line.difference is None else asdict(line.difference),
    }
