"""Run the cells of a study, ``compute.jobs`` processes at a time; what is complete is not done again."""

import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from gflowdial.dialogue.config import ConfigError, RunConfig, with_overrides
from gflowdial.dialogue.evaluation import evaluate_all
from gflowdial.dialogue.jobs import run_jobs
from gflowdial.dialogue.outcomes import mean_outcome
from gflowdial.dialogue.progress import Stage, stage, unseen
from gflowdial.dialogue.rows import PRIOR
from gflowdial.dialogue.runs import Run, RunError, whole, write_json
from gflowdial.dialogue.searching import search_all
from gflowdial.dialogue.setting import Setting
from gflowdial.dialogue.studies.records import Record, as_json, from_json
from gflowdial.dialogue.studies.study import Cell, Measure, Study
from gflowdial.dialogue.training import base_job, train_all
from gflowdial.training.methods import method

_RECORDS = "records.json"
_OWN_OF_BASE = ("task", "inventory", "data", "roles", "model")
"""The settings, beside ``training.max_tokens``, that a language model trained from scratch depends on."""


def run_study(study: Study, config: RunConfig, folder: Path) -> dict[str, list[Record] | str]:
    """Do what is left of a study in its folder.

    Args:
        study: what to run.
        config: the settings that its cells override.
        folder: of the study; each cell is a run in ``cells/NAME``.

    Returns:
        By cell, its records, or why it failed: a cell that fails does not stop the others, and is tried anew when the
        study is resumed.

    Raises:
        ConfigError: a cell's settings cannot be used; this shows before the first cell begins.
    """
    cells = study.cells(config)
    configs = {cell.name: with_overrides(config, cell.overrides) for cell in cells}
    for settings in configs.values():
        # Whatever is wrong with the data shows here too.
        _ = Setting(settings).scenes
    if study.exact and not Setting(config).is_enumerable:
        raise ConfigError("roles: this study needs conversations that can all be played through: choose other roles")
    found: dict[str, list[Record] | str] = {}
    # What cells share is made by the first one; the others are done side by side.
    first, others = cells[:1], cells[1:]
    for some, jobs in ((first, 1), (others, config.compute.jobs)):
        at_once = config.compute.model_copy(update={"jobs": max(1, min(jobs, len(some)))})
        share = max(1, config.compute.jobs // at_once.jobs)
        own = [with_overrides(configs[cell.name], {"compute.jobs": share}) for cell in some]
        names = [cell.name for cell in some]
        after = {index: names.index(cell.steps_of) for index, cell in enumerate(some) if cell.steps_of in names}
        arguments = [(folder / "cells", cell, settings) for cell, settings in zip(some, own, strict=True)]
        how = (study.measure, at_once.jobs == 1)
        for index, result in run_jobs(_cell, arguments, at_once, shared=how, after=after):
            print(f"cell {len(found) + 1} of {len(cells)}: {names[index]}", flush=True)
            found[names[index]] = result
    return {cell.name: found[cell.name] for cell in cells}


def _cell(how: tuple[Measure, bool], cells: Path, cell: Cell, config: RunConfig) -> list[Record] | str:
    """The records of a cell, done now if it is not complete, or why it fails."""
    measure, shown = how
    records = cells / cell.name / _RECORDS
    if not records.is_file():
        done = [Run.open(other.parent) for other in sorted(cells.glob(f"*/{_RECORDS}"))]
        try:
            run = _begun(records.parent, _with_steps(cell, config, cells), done)
            _line(run, stage if shown else unseen)
            write_json(records, as_json(measure(run)))
        # What a method may do: diverge, refuse its input, run out of memory.
        except (ArithmeticError, RuntimeError, ValueError) as error:
            return f"{type(error).__name__}: {error}"
    return from_json(records)


def _line(run: Run, stage: Stage) -> None:
    """Search, train and evaluate, each from where it was stopped."""
    with stage("search") as report:
        search_all(run, Setting.of(run), report, base_job(run))
    with stage("train") as report:
        train_all(run, report)
    if not (run.folder / "results.json").is_file():
        with stage("evaluate") as report:
            evaluate_all(run, Setting.of(run), report)


def _begun(folder: Path, config: RunConfig, done: Sequence[Run]) -> Run:
    """The run of a cell, with the search trees and language models that cells before it have already."""
    run = Run.begin(folder, config, resume=True)
    for other in done:
        if not set(config.seeds) <= set(other.config.seeds):
            continue
        with suppress(RunError):
            other.check_searched_with(config)
            run.copy_trees(other)
        if _same_base(config, other.config):
            _copy(other.base, run.base)
            _copy(Setting.of(other).own_tokenizer, Setting.of(run).own_tokenizer)
    return run


def _same_base(one: RunConfig, other: RunConfig) -> bool:
    same_length = one.training.max_tokens == other.training.max_tokens
    # The tokenizer is made of conversations of the first seed.
    same_seed = one.seeds[0] == other.seeds[0]
    return same_length and same_seed and all(getattr(one, name) == getattr(other, name) for name in _OWN_OF_BASE)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir() and not target.exists():
        target.parent.mkdir(exist_ok=True)

        def save(folder: Path) -> None:
            shutil.copytree(source, folder, dirs_exist_ok=True)

        whole(target, save)


def _with_steps(cell: Cell, config: RunConfig, cells: Path) -> RunConfig:
    """The settings of a cell that gets as many environment steps as another one took."""
    if cell.steps_of is None:
        return config
    file = cells / cell.steps_of / _RECORDS
    if not file.is_file():
        raise RunError(f"{cell.steps_of} failed: its environment steps are not known")
    records = from_json(file)
    steps = next((record.training_steps for record in records if record.training_steps is not None), None)
    if steps is None:
        raise RunError(f"the policies of {cell.steps_of} do not know their environment steps: train them anew")
    prior = next(record for record in records if record.row == PRIOR)
    turns = _mean([mean_outcome(scenes)["turns"] for scenes in prior.outcomes])
    conversations = _mean(steps) / turns
    a_pass = len(Setting(config).scenes.train) * config.training.rollouts
    (name,) = config.training.methods
    epochs = conversations / a_pass * method(name).steps_per_rollout
    return with_overrides(config, {"training.epochs": epochs})


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known)


def begin_study(folder: Path, name: str, config: RunConfig, *, resume: bool) -> None:
    """Make the folder of a study, or check that it holds the same one.

    Raises:
        RunError: the folder holds something already, and ``resume`` is not given or the settings are others.
    """
    settings: dict[str, Any] = {"study": name, "settings": config.model_dump(mode="json")}
    file = folder / "study.json"
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if not resume:
            raise RunError(f"{folder} already holds a study or other files: name another --output, or add --resume")
        if not file.is_file():
            raise RunError(f"{folder} holds no study (study.json is missing): name another --output")
        if json.loads(file.read_text(encoding="utf-8")) != settings:
            raise RunError(f"{folder} holds a study of other settings: resume it with those, or name another --output")
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_json(file, settings)
