"""What `benchmarks.environments` found, as the tables and the plot of the docs."""

from typing import Any

from benchmarks.plots import Panel, plot
from benchmarks.provenance import write_table
from benchmarks.tables import table

GROWN = "hypergrid 4D, side 16"
"""The environment of the table of growth; the plot has all."""


def write_report(content: dict[str, Any]) -> str:
    """Write the tables and the plot; returns the table of ratios."""
    compared = ratios(content["environments"])
    write_table("environments", compared)
    write_table("environments_growth", growth(content["growth"][GROWN]))
    plot("environments", [panel(content, name) for name in content["environments"]])
    return compared


def ratios(compared: dict[str, list[dict[str, Any]]]) -> str:
    """Steps per second, and how many times as fast as each peer."""
    libraries, peers = ("gflowdial", "torchgfn", "gfnx"), ("torchgfn", "gfnx")
    head = ("environment", "batch", *libraries, "× torchgfn", "× gfnx")
    lines = [
        [
            environment,
            str(row["batch"]),
            *(f"{row[library]['steps per second']['median']:.3g}" for library in libraries),
            *(times_as_fast(row[f"times {peer}"]) for peer in peers),
        ]
        for environment, rows in compared.items()
        for row in rows
    ]
    return table(head, lines)


def times_as_fast(found: dict[str, float]) -> str:
    return f"{found['median']:.2g} ({found['first quartile']:.2g}–{found['third quartile']:.2g})"


def growth(rows: list[dict[str, float]]) -> str:
    """What a step of gflowdial costs, by batch, beside what its parts would cost by themselves."""
    head = (
        "batch",
        "ms",
        "arithmetic alone, ms",
        "bytes alone, ms",
        "sum, ms",
        "kernels",
        "states",
        "distinct",
        "arithmetic without sharing, ms",
        "peak MiB",
    )
    lines = [
        [
            f"{row['batch']:,}",
            f"{row['ms']:,.1f}",
            f"{row['arithmetic ms']:,.1f}",
            f"{row['bytes ms']:,.1f}",
            f"{estimate(row):,.1f}",
            f"{row['launches']:,}",
            f"{row['states']:,}",
            f"{row['distinct states']:,}",
            f"{row['arithmetic ms without sharing']:,.1f}",
            f"{row['peak MiB']:,.0f}",
        ]
        for row in rows
    ]
    return table(head, lines)


def estimate(row: dict[str, float]) -> float:
    """Milliseconds of a step, from what its parts would cost by themselves."""
    return row["arithmetic ms"] + row["bytes ms"]


def panel(content: dict[str, Any], environment: str) -> Panel:
    """Milliseconds a step over the batch: the libraries beside each other, gflowdial alone beyond them."""
    compared, alone = content["environments"][environment], content["growth"][environment]
    curves = {
        library: [(row["batch"], 1e3 / row[library]["steps per second"]["median"]) for row in compared]
        for library in ("gflowdial", "torchgfn", "gfnx")
    }
    largest = compared[-1]["batch"]
    curves["gflowdial"] += [(row["batch"], row["ms"]) for row in alone if row["batch"] > largest]
    curves["arithmetic + bytes alone"] = [(row["batch"], estimate(row)) for row in alone if row["batch"] > 1]
    return Panel(f"batch, {environment}", "ms a step", curves)
