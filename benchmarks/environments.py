"""Training steps per second with TB on hypergrids and bit sequences, beside torchgfn and gfnx.

The settings are those of torchgfn's own comparison of libraries: on-policy, a learned P_B that shares its trunk with
P_F, hidden width 256, two layers, Adam at 1e-3 (log Z: 0.1). Each library is driven the way its authors drive it, in an
interpreter of its own that may use one core; they take turns, block by block, after a warm-up that is not counted. On a
machine with a GPU gflowdial runs there; the peers stay on the CPU, and the results say so.

Run: python -m benchmarks environments
"""

import json
import os
import statistics
import subprocess
import sys
from dataclasses import asdict
from typing import Any

import torch

from benchmarks.environments_report import write_report
from benchmarks.environments_worker import Case
from benchmarks.measure import device, finish, load, machine, side_by_side
from benchmarks.provenance import write_results

LIBRARIES = ("gflowdial", "torchgfn", "gfnx")
ENVIRONMENTS: dict[str, dict[str, Any]] = {
    "hypergrid 2D, side 8": {"kind": "hypergrid", "dimensions": 2, "side": 8},
    "hypergrid 4D, side 16": {"kind": "hypergrid", "dimensions": 4, "side": 16},
    "8 bits in words of 1": {"kind": "bits", "length": 8, "word": 1, "modes": 2},
    "8 bits in words of 2": {"kind": "bits", "length": 8, "word": 2, "modes": 4},
}
STEPS = {16: 20, 64: 20, 256: 10, 512: 6}
"""Steps of a block, by batch; every library trains equally long, since what it samples changes as it learns."""
WARM_UP = 40
ROUNDS = 9
GROWTH_WARM_UP = 4
GROWTH_STEPS = 5
MOST_SECONDS = 1.0
"""A batch whose step takes so long, four times of which is the next, is the last; so is one that takes a tenth of the
memory."""


class Worker:
    """A library in an interpreter of its own."""

    def __init__(self, library: str) -> None:
        alone = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.environments_{library}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | alone,
        )
        self.about = self._answer()

    def ask(self, **request: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args!r} ended with {self.process.wait()}: what it wrote says why")
        found: dict[str, Any] = json.loads(line)
        return found


def compare(workers: dict[str, Worker], case: Case) -> dict[str, Any]:
    """What each library does with ``case``, and how many times as fast gflowdial is as each peer."""
    started = {name: worker.ask(case=asdict(case)) for name, worker in workers.items()}
    for worker in workers.values():
        worker.ask(steps=WARM_UP)
    steps = STEPS[case.batch]
    blocks: dict[str, list[dict[str, Any]]] = {name: [] for name in workers}
    for _ in range(ROUNDS):
        for name, worker in workers.items():
            blocks[name].append(worker.ask(steps=steps))
    return {
        "batch": case.batch,
        "load": load(),
        **{name: summary(started[name], found, steps) for name, found in blocks.items()},
        **{
            f"times {peer}": spread([b["cost"] / a["cost"] for a, b in zip(blocks["gflowdial"], found, strict=True)])
            for peer, found in blocks.items()
            if peer != "gflowdial"
        },
    }


def summary(started: dict[str, Any], blocks: list[dict[str, Any]], steps: int) -> dict[str, Any]:
    return {
        "steps per second": spread([steps / block["cost"] for block in blocks]),
        "steps per second of wall time": spread([steps / block["seconds"] for block in blocks]),
        "actions per trajectory": statistics.mean(block["length"] for block in blocks),
        "parameters": started["parameters"],
        "seconds to start and compile": started["seconds"],
    }


def spread(values: list[float]) -> dict[str, float]:
    first, median, third = statistics.quantiles(values, n=4)
    return {"median": median, "first quartile": first, "third quartile": third}


def growth(worker: Worker, setting: dict[str, Any], rates: dict[str, float]) -> list[dict[str, float]]:
    """gflowdial alone on ever larger batches, beside what its arithmetic and its bytes would take by themselves."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**20
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties().total_memory / 2**20
    rows: list[dict[str, float]] = []
    batch = 1
    while not rows or (rows[-1]["ms"] < 1e3 * MOST_SECONDS and rows[-1]["peak MiB"] < memory / 10):
        worker.ask(case=asdict(Case(batch=batch, **setting)))
        worker.ask(steps=GROWTH_WARM_UP)
        ms = statistics.median(1e3 * worker.ask(steps=1)["cost"] for _ in range(GROWTH_STEPS))
        work = worker.ask(describe=True)
        arithmetic = 1e3 * work["operations"] / rates["operations per second"]
        rows.append(
            {
                "batch": batch,
                "ms": ms,
                "states": work["states"],
                "distinct states": work["distinct"],
                "launches": work["launches"],
                "arithmetic ms": arithmetic,
                "arithmetic ms without sharing": arithmetic * work["states"] / work["distinct"],
                "bytes ms": work["bytes"] / rates["GB/s"] / 1e6,
                "peak MiB": work["peak MiB"],
            }
        )
        batch = 16 if batch == 1 else 4 * batch
    return rows


def arithmetic_rate() -> float:
    """Float32 operations per second of a matrix product as wide as the networks; on one thread of a CPU."""
    a, b = torch.randn(1024, 256, device=device()), torch.randn(256, 256, device=device())
    finish()
    return 2 * 1024 * 256 * 256 / side_by_side({"product": lambda: a @ b}, rounds=5)["product"]["ms"] * 1e3


def main() -> None:
    torch.set_num_threads(1)
    workers = {library: Worker(library) for library in LIBRARIES}
    compared: dict[str, list[dict[str, Any]]] = {}
    for name, setting in ENVIRONMENTS.items():
        for batch in STEPS:
            found = compare(workers, Case(batch=batch, **setting))
            compared.setdefault(name, []).append(found)
            print(name, batch, *(f"{peer}: {found[peer]['steps per second']['median']:.3g}" for peer in workers))
    for peer in LIBRARIES[1:]:
        workers[peer].process.terminate()
    rates = {"operations per second": arithmetic_rate(), "GB/s": machine(2**22)["GB/s"]}
    content: dict[str, Any] = {
        "unit": "one training step on one core, timed by processor time; on a GPU, by wall time",
        "warm-up steps": WARM_UP,
        "blocks": ROUNDS,
        "steps per block": STEPS,
        "libraries": {name: worker.about for name, worker in workers.items()},
        "environments": compared,
        **rates,
        "growth": {name: growth(workers["gflowdial"], setting, rates) for name, setting in ENVIRONMENTS.items()},
    }
    workers["gflowdial"].process.terminate()
    path = write_results("environments", content, ["torchgfn", "gfnx", "jax"])
    print(f"{write_report(content)}\n\nwritten to {path}")


if __name__ == "__main__":
    main()
