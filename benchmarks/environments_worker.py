"""What the workers of `benchmarks.environments` have in common: the cases, and the conversation with who measures."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any


@dataclass(frozen=True)
class Case:
    """One environment at one batch size, with the settings of torchgfn's own comparison of libraries."""

    kind: str
    batch: int
    dimensions: int = 0
    side: int = 0
    length: int = 0
    word: int = 0
    modes: int = 0
    hidden: int = 256
    layers: int = 2
    lr: float = 1e-3
    lr_log_z: float = 0.1


@dataclass(frozen=True)
class Session:
    """A training run under way.

    Attributes:
        advance: takes so many training steps and returns the mean number of actions of a trajectory.
        parameters: how many numbers are learned.
        describe: takes steps and counts their work.
    """

    advance: Callable[[int], float]
    parameters: int
    describe: Callable[[], dict[str, float]] | None = None


def serve(session: Callable[[Case], Session], packages: Iterable[str], *, device: str = "cpu") -> None:
    """Answer requests, one JSON object a line: ``{"case": ...}`` begins a session, ``{"steps": n}`` trains,
    ``{"describe": true}`` counts.

    The cost of steps is processor time, which what else runs on the machine disturbs less; on a GPU it is wall time.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    clock = time.process_time if device == "cpu" else time.perf_counter
    answer(device=device, versions={package: version(package) for package in packages})
    running: Session | None = None
    for line in sys.stdin:
        request: dict[str, Any] = json.loads(line)
        start, begun = time.perf_counter(), clock()
        if "case" in request:
            running = None
            running = session(Case(**request["case"]))
            running.advance(1)
            answer(seconds=time.perf_counter() - start, parameters=running.parameters)
        elif "describe" in request:
            assert running is not None
            assert running.describe is not None
            answer(**running.describe())
        else:
            assert running is not None
            length = running.advance(request["steps"])
            answer(seconds=time.perf_counter() - start, cost=clock() - begun, length=length)


def answer(**content: Any) -> None:
    print(json.dumps(content), flush=True)
