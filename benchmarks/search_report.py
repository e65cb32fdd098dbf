"""The tables and the plot of `benchmarks.search`, from its results."""

from typing import Any

from benchmarks.plots import Panel, plot
from benchmarks.provenance import write_table
from benchmarks.tables import table


def write(results: dict[str, Any]) -> None:
    """The tables that docs/speed-search.md includes, and its plot."""
    parts = {
        "Trees per minute, in lockstep over so many scenes, with and without prefix reuse.": lockstep(results),
        "Seconds a tree, by role, and by passes that read prompts and passes that write.": seconds(results),
        "Tokens per second, and the share of the time that the estimate explains.": bounds(results),
        "The search alone: simulations per second of one core, with a role that answers at once.": instant(results),
    }
    text = "\n\n".join(f"**{title}**\n\n{table}" for title, table in parts.items())
    write_table("search", text)
    plot("search", panels(results))
    print(text)


def name(row: dict[str, Any]) -> str:
    if row["scenes"] == 1:
        return "one call at a time" + (", reuse" if row["reuse"] else "")
    return f"{row['scenes']} scenes" + (", reuse" if row["reuse"] else "")


def lockstep(results: dict[str, Any]) -> str:
    return table(
        ["", "trees/min", "× one call at a time", "tokens read a tree", "outside of roles", "store, MiB", "same trees"],
        [
            [
                name(row),
                f"{row['trees per minute']:.3g}",
                f"{row['times one call at a time']:.2g}",
                f"{row['read']['tokens'] / row['trees']:,.0f}",
                f"{row['share outside of roles']:.2%}",
                f"{row['store MiB']:,.0f}",
                f"{row['same trees']} of {row['compared']}",
            ]
            for row in results["lockstep"]
        ],
    )


def seconds(results: dict[str, Any]) -> str:
    roles = ("prior", "supporter", "seeker", "rewarder")

    def cells(row: dict[str, Any]) -> list[str]:
        parts = [row["seconds of roles"][role] for role in roles]
        parts += [row["read"]["seconds"], row["write"]["seconds"], row["seconds"]]
        return [f"{part / row['trees']:.2f}" for part in parts]

    head = ["", *roles, "reading", "writing", "all"]
    return table(head, [[name(row), *cells(row)] for row in results["lockstep"]])


def bounds(results: dict[str, Any]) -> str:
    rates = results["machine"]

    def cells(found: dict[str, float]) -> list[str]:
        return [f"{found['tokens'] / found['seconds']:,.0f}", f"{found['estimate'] / found['seconds']:.0%}"]

    head = ["", "read", "explained", "written", "explained"]
    rows = [[name(row), *cells(row["read"]), *cells(row["write"])] for row in results["lockstep"]]
    note = f"Measured here: {rates['operations/s'] / 1e9:,.0f} GFLOP/s and {rates['bytes/s'] / 1e9:.0f} GB/s."
    return f"{table(head, rows)}\n\n{note}"


def instant(results: dict[str, Any]) -> str:
    return table(
        ["trees", "simulations a tree", "simulations/s (least–most)"],
        [
            [
                str(row["trees"]),
                f"{row['simulations']:,}",
                f"{row['per second']:,.0f} ({row['least']:,.0f}–{row['most']:,.0f})",
            ]
            for row in results["instant"]
        ],
    )


def panels(results: dict[str, Any]) -> list[Panel]:
    """Seconds a tree over scenes; microseconds a simulation over trees and over simulations."""
    rows, instant_rows = results["lockstep"], results["instant"]
    trees = {
        label: [(row["scenes"], row["seconds"] / row["trees"]) for row in rows if row["reuse"] == reuse]
        for label, reuse in (("each prompt read whole", False), ("prefixes reused", True))
    }
    alone = {
        "over trees, 10 simulations": [
            (row["trees"], 1e6 / row["per second"]) for row in instant_rows if row["simulations"] == 10
        ],
        "over simulations, 1 tree": [
            (row["simulations"], 1e6 / row["per second"]) for row in instant_rows if row["trees"] == 1
        ],
    }
    return [
        Panel("scenes in lockstep", "seconds a tree", trees),
        Panel("trees, or simulations", "µs a simulation, the search alone", alone),
    ]
