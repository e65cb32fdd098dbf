"""How long something takes beside its peers, how much memory it takes, and what it asks of the machine.

Where there is a GPU, benchmarks run on it.
"""

import ctypes
import gc
import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils._python_dispatch import TorchDispatchMode

Step = Callable[[], object]


Clock = Literal["processor", "wall"]


def device() -> torch.device:
    """Where benchmarks run: the GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def side_by_side(
    steps: Mapping[str, Step],
    *,
    clock: Clock = "processor",
    seconds: float = 0.1,
    rounds: int = 15,
    most_seconds: float = 20.0,
) -> dict[str, dict[str, float]]:
    """Milliseconds per call of each step: median, quartiles and number of calls.

    The steps, which have run before, take turns, each for ``seconds`` or one call, for ``rounds`` rounds, of which a
    step that has used up ``most_seconds`` sits out all but three. With one thread, processor time is wall time on an
    idle machine, and what else runs on it disturbs it less. On a GPU it is wall time until the GPU is done.
    """
    read = time.process_time if clock == "processor" and not torch.cuda.is_available() else time.perf_counter
    calls: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds):
        for name, step in steps.items():
            if turn < 3 or sum(calls[name]) < most_seconds:
                end = read() + seconds
                calls[name].append(_timed(step, read))
                while read() < end:
                    calls[name].append(_timed(step, read))
    return {name: _summary(times) for name, times in calls.items()}


def _timed(step: Step, read: Callable[[], float]) -> float:
    finish()
    start = read()
    step()
    finish()
    return read() - start


def finish() -> None:
    """Wait for what the GPU still has to do."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _summary(times: list[float]) -> dict[str, float]:
    first, median, third = statistics.quantiles(times, n=4)
    return {"ms": 1e3 * median, "first quartile": 1e3 * first, "third quartile": 1e3 * third, "calls": len(times)}


def peak_extra_mib(step: Step) -> float:
    """How far memory rises above where it stands, during ``step``.

    On a GPU, what tensors hold there; elsewhere the resident memory of the process (Linux with glibc).
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        step()
        return (torch.cuda.max_memory_allocated() - held) / 2**20
    ctypes.CDLL(None).malloc_trim(0)  # gives back what was freed, which would be taken again unnoticed
    Path("/proc/self/clear_refs").write_text("5")  # sets the recorded peak back to the present size
    before = _resident_mib("VmRSS")
    step()
    return _resident_mib("VmHWM") - before


def _resident_mib(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


class Work(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts, while it is entered, the kernels that run and the bytes that they read and write."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.launches = 0
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view and func is not torch.ops.aten.detach.default:
            self.launches += 1
            self.bytes += sum(x.numel() * x.element_size() for x in _tensors([args, kwargs, out]))
        return out


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def machine(items: int) -> dict[str, float]:
    """Microseconds to launch a kernel, and GB/s of a sum of two float64 vectors of ``items`` entries."""

    def add(size: int) -> Step:
        a, b, out = (torch.zeros(size, dtype=torch.float64, device=device()) for _ in range(3))
        return lambda: torch.add(a, b, out=out)

    times = side_by_side({"launch": add(1), "stream": add(items)}, rounds=5)
    launch, stream = times["launch"]["ms"], times["stream"]["ms"]
    return {"launch us": 1e3 * launch, "GB/s": 24 * items / max(stream - launch, 1e-6) / 1e6}


def load() -> float:
    """The machine's load average over the last minute."""
    return os.getloadavg()[0]
