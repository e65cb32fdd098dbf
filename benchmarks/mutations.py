"""Mutation score of the checkers: planted faults that each finds, and unusual sound implementations that it passes.

Every check runs with its default settings. A check of something faulty must raise an AssertionError, one of something
sound must not; a language model that the library refuses when a policy takes it counts as found.

Run: python -m benchmarks mutations
"""

import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.mutants import (
    environments,
    estimators,
    losses,
    samplers,
    search_environments,
    sound_environments,
    tasks,
)
from benchmarks.provenance import write_results, write_table
from benchmarks.tables import table
from gflowdial.testing import (
    check_environment,
    check_estimator,
    check_loss,
    check_search_environment,
    check_task,
    from_padded,
)

Checks = dict[str, dict[str, Callable[[], Any]]]
"""By checker and specimen, the check."""


def _of(check: Callable[..., Any], specimens: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """One check of each specimen; a class is instantiated first."""

    def one(specimen: Any) -> Callable[[], Any]:
        return lambda: check(specimen() if isinstance(specimen, type) else specimen)

    return {name: one(specimen) for name, specimen in specimens.items()}


def _named(*classes: type) -> dict[str, type]:
    return {made.__name__: made for made in classes}


def _estimator(estimator: Any) -> None:
    check_estimator(estimator, estimators.GRID)


def _search(world: Any) -> None:
    check_search_environment(world, world.roots)


def faulty() -> Checks:
    """Everything with a planted fault."""
    from benchmarks.mutants import language_models

    return {
        "check_loss": _of(check_loss, losses.faults()),
        "check_environment": _of(check_environment, _named(*environments.FAULTS, *environments.MORE_FAULTS)),
        "check_estimator": _of(_estimator, _named(*estimators.FAULTS, *estimators.MORE_FAULTS)),
        "check_search_environment": _of(_search, search_environments.WORLDS),
        "check_task": _of(check_task, tasks.FAULTS),
        "check_language_model": language_models.FAULTS,
        **samplers.FAULTS,
    }


def sound() -> Checks:
    """Everything unusual without a fault."""
    from benchmarks.mutants import language_models

    padded = {"padded tensors": lambda: check_loss(from_padded(losses.of_padded))}
    return {
        "check_loss": {**_of(check_loss, losses.SOUND), **padded},
        "check_environment": _of(check_environment, _named(environments.Grid, *sound_environments.SOUND)),
        "check_estimator": _of(_estimator, _named(estimators.Linear, *estimators.SOUND)),
        "check_search_environment": _of(_search, search_environments.SOUND),
        "check_task": _of(check_task, tasks.SOUND),
        "check_language_model": language_models.SOUND,
        **samplers.SOUND,
    }


def verdict(check: Callable[[], Any]) -> dict[str, Any]:
    """What a check says, and the seconds of processor time that it took."""
    start, said = time.process_time(), ""
    try:
        check()
    except AssertionError as broken:
        said = str(broken).splitlines()[0] if str(broken) else "an assertion"
    except ValueError as refused:
        said = f"refused: {refused}"
    return {"said": said, "seconds": round(time.process_time() - start, 3)}


def main() -> None:
    torch.set_num_threads(1)
    found = {checker: {name: verdict(check) for name, check in checks.items()} for checker, checks in faulty().items()}
    passed = {checker: {name: verdict(check) for name, check in checks.items()} for checker, checks in sound().items()}
    rows, survivors, alarms, faults, specimens = [], [], [], 0, 0
    for checker, verdicts in found.items():
        alive = [name for name, said in verdicts.items() if not said["said"]]
        false = [name for name, said in passed[checker].items() if said["said"]]
        survivors += [f"{checker}: {name}" for name in alive]
        alarms += [f"{checker}: {name}" for name in false]
        seconds = sorted(said["seconds"] for said in passed[checker].values())
        share = f"{len(verdicts) - len(alive)} of {len(verdicts)}"
        faults, specimens = faults + len(verdicts), specimens + len(passed[checker])
        middle, slowest = seconds[len(seconds) // 2], seconds[-1]
        rows.append([f"`{checker}`", share, f"{len(false)} of {len(seconds)}", f"{middle:.1f}", f"{slowest:.1f}"])
    score = 1 - len(survivors) / faults
    total = f"{faults - len(survivors)} of {faults} ({score:.1%})"
    rows.append(["all", total, f"{len(alarms)} of {specimens}", "", ""])
    head = ["checker", "faults found", "false alarms", "seconds per check of something sound: median", "longest"]
    markdown = table(head, rows)
    markdown += (
        f"\n\nFaults that survive: {'; '.join(survivors) or 'none'}. False alarms: {'; '.join(alarms) or 'none'}."
    )
    content = {"score": score, "survivors": survivors, "false alarms": alarms, "faulty": found, "sound": passed}
    path = write_results("mutations", content, packages=("hypothesis",))
    write_table("mutations", markdown)
    print(f"{markdown}\n\nwritten to {path}")


if __name__ == "__main__":
    main()
