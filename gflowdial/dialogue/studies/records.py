"""What is recorded of a cell: the outcomes of each row by seed and scene, and their estimates and differences."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from gflowdial.dialogue.outcomes import Outcome, mean_outcome
from gflowdial.dialogue.report import Estimate
from gflowdial.dialogue.rows import sampled_row
from gflowdial.dialogue.runs import Run

Place: TypeAlias = Mapping[str, float | int | str]
"""A place on the axes of a study, by the name of the axis."""
STEPS = "training_steps"
"""The environment steps that the training of a policy took, search and rollouts, mean over seeds."""


class Record(NamedTuple):
    """One row of a cell.

    Attributes:
        row: a policy.
        at: where it is on the axes that the measure adds, such as the turn.
        outcomes: by seed and scene; of one seed where the row does not depend on it.
        scenes: their ids.
        training_steps: environment steps of the policy's training by seed; None where they are not known.
    """

    row: str
    at: Place
    outcomes: Sequence[Sequence[Outcome]]
    scenes: Sequence[str]
    training_steps: Sequence[float] | None = None


def evaluated(run: Run) -> list[Record]:
    """The rows of a run's evaluation."""
    results = json.loads((run.folder / "results.json").read_text(encoding="utf-8"))
    return [
        Record(row, {}, list(by_seed.values()), results["held_out_scenes"], training_steps(run, row))
        for row, by_seed in results["by_scene"].items()
    ]


def training_steps(run: Run, row: str) -> list[float] | None:
    """The environment steps of the training behind a row, by seed, where the policies' folders know them."""
    method = sampled_row(row)
    if method not in run.config.training.methods:
        return None
    found = [_facts(run.policy(seed, method)).get("environment_steps") for seed in run.config.seeds]
    known = [float(steps) for steps in found if steps is not None]
    return known if len(known) == len(found) else None


def estimates(record: Record, num_seeds: int) -> dict[str, Estimate | None]:
    """By measure, the mean with Student's interval over seeds, or over scenes where the study has one seed."""
    found: dict[str, Estimate | None] = {}
    for measure in record.outcomes[0][0]:
        samples = _samples(record, measure, num_seeds)
        found[measure] = None if samples is None else Estimate.of(samples)
    steps = record.training_steps
    return {**found, STEPS: None if steps is None else Estimate.of(steps)}


def difference(record: Record, reference: Record, measure: str) -> Estimate | None:
    """The mean difference to the reference with Student's interval over pairs: the same seeds, else the same scenes.

    None where the scenes are others, or the measure is not known.
    """
    if record is reference or record.scenes != reference.scenes:
        return None
    seeds = max(len(record.outcomes), len(reference.outcomes))
    pairs = []
    for one in (record, reference):
        column = [[outcome.get(measure) for outcome in scenes] for scenes in one.outcomes]
        # A row that does not depend on the seed is the same for each.
        pairs.append(column * (seeds if len(column) == 1 else 1))
    if len(pairs[0]) != len(pairs[1]) or any(None in scenes for column in pairs for scenes in column):
        return None
    by_seed = [
        [float(a) - float(b) for a, b in zip(*scenes, strict=True) if a is not None and b is not None]
        for scenes in zip(*pairs, strict=True)
    ]
    return Estimate.of(by_seed[0] if seeds == 1 else [sum(scenes) / len(scenes) for scenes in by_seed])


def reference_of(record: Record, records: Iterable[Record], row: str | None) -> Record | None:
    """The first record of the row, or of the record's own, at the same place."""
    wanted = row or record.row
    return next((other for other in records if other.row == wanted and other.at == record.at), None)


def without_repeats(records: Sequence[tuple[str, Record]]) -> list[tuple[str, Record]]:
    """Records by cell, where a row that came out alike in an earlier cell, such as the exact flow, is left out."""
    kept: list[tuple[str, Record]] = []
    for cell, record in records:
        if not any(record == earlier for _, earlier in kept):
            kept.append((cell, record))
    return kept


def as_json(records: Sequence[Record]) -> list[dict[str, Any]]:
    """The records as JSON holds them."""
    return [record._asdict() for record in records]


def from_json(path: Path) -> list[Record]:
    """The records of a file."""
    return [Record(**values) for values in json.loads(path.read_text(encoding="utf-8"))]


def _samples(record: Record, measure: str, num_seeds: int) -> list[float] | None:
    rows = record.outcomes[0] if num_seeds == 1 else [mean_outcome(scenes) for scenes in record.outcomes]
    found = [outcome[measure] for outcome in rows]
    return None if None in found else [value for value in found if value is not None]


def _facts(folder: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((folder / "dialogue.json").read_text(encoding="utf-8"))["facts"]
    return facts
