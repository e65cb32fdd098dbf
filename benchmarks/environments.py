"""Training steps per second with TB on hypergrids and bit sequences, beside torchgfn and gfnx.

The settings are those of torchgfn's own comparison of libraries: on-policy, a learned P_B that shares its trunk with
P_F, hidden width 256, two layers, Adam at 1e-3 (log Z: 0.1). Each library is driven the way its authors drive it, in an
interpreter of its own that may use one core; they take turns, block by block, after a warm-up that is not counted.

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

from benchmarks.environments_worker import Case
from benchmarks.measure import load, side_by_side
from benchmarks.provenance import write_results, write_table

LIBRARIES = ("gflowdial", "torchgfn", "gfnx")
ENVIRONMENTS: dict[str, dict[str, Any]] = {
    "hypergrid 2D, side 8": {"kind": "hypergrid", "dimensions": 2, "side": 8},
    "hypergrid 4D, side 16": {"kind": "hypergrid", "dimensions": 4, "side": 16},
    "8 bits in words of 1": {"kind": "bits", "length": 8, "word": 1, "modes": 2},
    "8 bits in words of 2": {"kind": "bits", "length": 8, "word": 2, "modes": 4},
}
BATCHES = (16, 64, 256, 512)
WARM_UP = 50
ROUNDS = 9
STEPS = 20
"""Steps of a block; every library trains equally long, since what it samples changes as it learns."""
GROWTH = ("hypergrid 4D, side 16", (16, 64, 256, 1024, 4096, 16384))
GROWTH_STEPS = 5


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
        self.versions = self._answer()["versions"]

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
    blocks: dict[str, list[dict[str, Any]]] = {name: [] for name in workers}
    for _ in range(ROUNDS):
        for name, worker in workers.items():
            blocks[name].append(worker.ask(steps=STEPS))
    return {
        "batch": case.batch,
        "load": load(),
        **{name: summary(started[name], found) for name, found in blocks.items()},
        **{
            f"times {peer}": spread([b["cpu"] / a["cpu"] for a, b in zip(blocks["gflowdial"], found, strict=True)])
            for peer, found in blocks.items()
            if peer != "gflowdial"
        },
    }


def summary(started: dict[str, Any], blocks: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "steps per second": spread([STEPS / block["cpu"] for block in blocks]),
        "steps per second of wall time": spread([STEPS / block["seconds"] for block in blocks]),
        "actions per trajectory": statistics.mean(block["length"] for block in blocks),
        "parameters": started["parameters"],
        "seconds to start and compile": started["seconds"],
    }


def spread(values: list[float]) -> dict[str, float]:
    first, median, third = statistics.quantiles(values, n=4)
    return {"median": median, "first quartile": first, "third quartile": third}


def growth(worker: Worker) -> list[dict[str, float]]:
    """gflowdial alone on ever larger batches, and what the arithmetic of its states would take by itself."""
    name, batches = GROWTH
    rate = arithmetic_rate()
    rows = []
    for batch in batches:
        worker.ask(case=asdict(Case(batch=batch, **ENVIRONMENTS[name])))
        worker.ask(steps=10)
        ms = [1e3 * worker.ask(steps=1)["cpu"] for _ in range(GROWTH_STEPS)]
        work = worker.ask(describe=True)
        rows.append(
            {
                "batch": batch,
                "ms": statistics.median(ms),
                "states": work["states"],
                "distinct states": work["distinct"],
                "launches": work["launches"],
                "arithmetic ms": 1e3 * work["operations"] / rate,
                "arithmetic ms without sharing": 1e3 * work["operations"] / rate * work["states"] / work["distinct"],
                "peak MiB": work["peak MiB"],
            }
        )
    return rows


def arithmetic_rate() -> float:
    """Float32 operations per second of a matrix product as wide as the networks, on one thread."""
    a, b = torch.randn(1024, 256), torch.randn(256, 256)
    return 2 * 1024 * 256 * 256 / side_by_side({"product": lambda: a @ b}, rounds=5)["product"]["ms"] * 1e3


def markdown(results: dict[str, list[dict[str, Any]]]) -> str:
    """Steps per second, and how many times as fast as each peer."""
    lines = ["| environment | batch | " + " | ".join(LIBRARIES) + " | × torchgfn | × gfnx |", "|---" * 7 + "|"]
    for environment, rows in results.items():
        for row in rows:
            speeds = [f"{row[library]['steps per second']['median']:.3g}" for library in LIBRARIES]
            ratios = [ratio(row[f"times {peer}"]) for peer in LIBRARIES[1:]]
            lines.append(f"| {environment} | {row['batch']} | " + " | ".join(speeds + ratios) + " |")
    return "\n".join(lines)


def growth_markdown(rows: list[dict[str, float]]) -> str:
    """What a step of gflowdial costs, by batch, beside what its parts would cost by themselves."""
    lines = [
        "| batch | ms | states | distinct | kernels | arithmetic alone, ms | without sharing, ms | peak MiB |",
        "|---" * 8 + "|",
    ]
    for row in rows:
        cells = [
            f"{row['batch']:,}",
            f"{row['ms']:,.1f}",
            f"{row['states']:,}",
            f"{row['distinct states']:,}",
            f"{row['launches']:,}",
            f"{row['arithmetic ms']:,.1f}",
            f"{row['arithmetic ms without sharing']:,.1f}",
            f"{row['peak MiB']:.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def ratio(found: dict[str, float]) -> str:
    return f"{found['median']:.2g} ({found['first quartile']:.2g}–{found['third quartile']:.2g})"


def main() -> None:
    torch.set_num_threads(1)
    workers = {library: Worker(library) for library in LIBRARIES}
    results: dict[str, list[dict[str, Any]]] = {}
    for name, setting in ENVIRONMENTS.items():
        for batch in BATCHES:
            results.setdefault(name, []).append(compare(workers, Case(batch=batch, **setting)))
            print(markdown({name: results[name][-1:]}).splitlines()[-1], flush=True)
    content: dict[str, Any] = {
        "unit": "one training step on one core, timed by processor time",
        "warm-up steps": WARM_UP,
        "blocks": ROUNDS,
        "steps per block": STEPS,
        "versions": {name: worker.versions for name, worker in workers.items()},
        "environments": results,
        "growth": {"environment": GROWTH[0], "rows": growth(workers["gflowdial"])},
    }
    for worker in workers.values():
        worker.process.terminate()
    path = write_results("environments", content, ["torchgfn", "gfnx", "jax"])
    write_table("environments", markdown(results))
    write_table("environments_growth", growth_markdown(content["growth"]["rows"]))
    print(f"{markdown(results)}\n\nwritten to {path}")


if __name__ == "__main__":
    main()
