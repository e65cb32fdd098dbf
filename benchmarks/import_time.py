"""What `import gflowdial` costs beside `import torch`, in fresh interpreters that alternate.

Run: python -m benchmarks import_time
"""

import subprocess
import sys
from statistics import median

from benchmarks.provenance import write_results, write_table

RUNS = 10
BAR = 1.15


def seconds(module: str) -> float:
    """How long a new interpreter takes to import ``module``."""
    clock = f"from time import perf_counter as now; start = now(); import {module}; print(now() - start)"
    return float(subprocess.run([sys.executable, "-c", clock], capture_output=True, text=True, check=True).stdout)


def main() -> None:
    for module in ("torch", "gflowdial"):
        seconds(module)  # fills the disk cache, for both alike
    pairs = [(seconds("torch"), seconds("gflowdial")) for _ in range(RUNS)]
    torch_times, library_times = zip(*pairs, strict=True)
    ratio = median(library_times) / median(torch_times)
    result = {
        "seconds": {"torch": torch_times, "gflowdial": library_times},
        "median": {"torch": median(torch_times), "gflowdial": median(library_times)},
        "ratio of medians": ratio,
        "median of paired ratios": median(library / alone for alone, library in pairs),
        "bar": BAR,
    }
    path = write_results("import_time", result)
    table = "\n".join(
        [
            "| `import torch` | `import gflowdial` | ratio |",
            "|---|---|---|",
            f"| {median(torch_times):.3f} s | {median(library_times):.3f} s | {ratio:.3f} |",
        ]
    )
    write_table("import_time", table)
    print(f"{table}\n\nThe bar is {BAR}. Written to {path}")


if __name__ == "__main__":
    main()
