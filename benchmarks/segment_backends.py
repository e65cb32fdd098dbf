"""Which backend of the segment reductions is faster for which operation, layout and size.

Both are timed in turn on the same input, forward and backward, in float64 as the losses use them. Needs the extra
`scatter`.

Run: python -m benchmarks segment_backends
"""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.provenance import write_results, write_table
from gflowdial import segments
from gflowdial.segments import Backend, Segments

OPERATIONS: dict[str, Callable[[Tensor, Segments, Backend], Tensor]] = {
    "sum": segments.sum,
    "mean": segments.mean,
    "max": segments.max,
    "logsumexp": segments.logsumexp,
    "softmax": segments.softmax,
}
LAYOUTS = ("offsets", "ids")
SIZES = (1_000, 30_000, 1_000_000)
ITEMS_PER_SEGMENT = 16
BACKENDS: tuple[Backend, Backend] = ("torch", "torch_scatter")
SECONDS_PER_CASE = 2.0
MOST_RUNS = 200


def make_segments(layout: str, items: int, generator: torch.Generator) -> Segments:
    """Ragged segments of `ITEMS_PER_SEGMENT` items on average: sorted by offsets, or by ids in random order."""
    count = items // ITEMS_PER_SEGMENT
    ids = torch.randint(count, (items,), generator=generator)
    if layout == "ids":
        return Segments.from_ids(ids, count)
    sizes = torch.bincount(ids, minlength=count)
    return Segments.from_offsets(torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)]))


def case(operation: str, layout: str, items: int) -> dict[str, Any]:
    """Milliseconds of one forward and backward pass with each backend: the best of many, taken in turn."""
    generator = torch.Generator().manual_seed(0)
    where = make_segments(layout, items, generator)
    values = torch.randn(items, generator=generator, dtype=torch.float64).requires_grad_()
    out_grad = torch.randn_like(OPERATIONS[operation](values, where, "torch"))
    best = dict.fromkeys(BACKENDS, float("inf"))
    end = time.perf_counter() + SECONDS_PER_CASE
    for run in range(MOST_RUNS):
        for backend in BACKENDS:
            start = time.perf_counter()
            torch.autograd.grad(OPERATIONS[operation](values, where, backend), values, out_grad)
            best[backend] = min(best[backend], time.perf_counter() - start)
        if run >= 5 and time.perf_counter() > end:
            break
    return {"operation": operation, "layout": layout, "items": items} | {
        f"{backend} ms": 1e3 * seconds for backend, seconds in best.items()
    }


def markdown(rows: list[dict[str, Any]]) -> str:
    """Milliseconds with torch · with torch_scatter · how many times faster the second is."""
    found = {(row["operation"], row["layout"], row["items"]): row for row in rows}
    columns = [(layout, items) for layout in LAYOUTS for items in SIZES]
    lines = [
        "| operation | " + " | ".join(f"{layout}, {items:,} items" for layout, items in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for operation in OPERATIONS:
        cells = [cell(found[operation, layout, items]) for layout, items in columns]
        lines.append(f"| {operation} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cell(row: dict[str, Any]) -> str:
    plain, scatter = row["torch ms"], row["torch_scatter ms"]
    return f"{plain:.3g} · {scatter:.3g} · ×{plain / scatter:.2f}"


def main() -> None:
    torch.set_num_threads(1)
    rows = [case(operation, layout, items) for operation in OPERATIONS for layout in LAYOUTS for items in SIZES]
    setup = {"items per segment": ITEMS_PER_SEGMENT, "dtype": "float64"}
    path = write_results("segment_backends", setup | {"rows": rows}, packages=["torch-scatter"])
    write_table("segment_backends", markdown(rows))
    print(f"{markdown(rows)}\n\nwritten to {path}")


if __name__ == "__main__":
    main()
