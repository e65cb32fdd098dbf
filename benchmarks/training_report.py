"""The tables and the plot of `benchmarks.training`, from its results."""

from typing import Any

from benchmarks.plots import Panel, plot
from benchmarks.provenance import write_table
from benchmarks.tables import table


def write(results: dict[str, Any]) -> None:
    """The tables that docs/speed-training.md includes, and its plot."""
    text = "\n\n".join(f"**{title}**\n\n{found}" for title, found in tables(results).items())
    write_table("training", text)
    plot("training", panels(results))
    print(text)


def tables(results: dict[str, Any]) -> dict[str, str]:
    return {
        f"A step on a tree of 40 nodes with {results['leaves']} leaves and {results['prefixes']} prefixes on its "
        "paths.": _schemes(results),
        "Peak memory of a step in a process of its own, weights included.": _memory(results["memory"]),
        "A step with the reference remembered, by nodes, by trees of 40 nodes in one pass, and by model.": _growth(
            results["growth"]
        ),
    }


def _schemes(results: dict[str, Any]) -> str:
    rows = results["schemes"]
    ours = rows["tree"]
    remembered = rows["tree, reference remembered"]["ms"]
    lines = [
        [
            name,
            f"{row['tokens']:,} · ×{row['tokens'] / ours['tokens']:.3g}",
            f"{row['ms'] / 1e3:.3g} ({row['first quartile'] / 1e3:.3g}–{row['third quartile'] / 1e3:.3g})",
            f"×{row['ratio']:.3g}",
            f"×{row['ms'] / remembered:.3g}",
            f"{row['readings apart']:.0e} · {row['gradient apart']:.0e}",
        ]
        for name, row in rows.items()
    ]
    for name in ("unpadded", "padded"):
        tokens = results[f"tokens {name}"]
        label = {"unpadded": "every prefix, no padding", "padded": "every prefix, padded to 512"}[name]
        lines.append([label, f"{tokens:,} · ×{tokens / ours['tokens']:.3g}", "–", "–", "–", "–"])
    head = ["scheme", "tokens · × tree", "s", "× tree", "× remembered", "readings · gradient apart"]
    return table(head, lines)


def _memory(rows: list[dict[str, Any]]) -> str:
    ours = next(row["MiB"] for row in rows if row["scheme"] == "tree")
    lines = [[row["scheme"], f"{row['MiB']:,.0f}", f"×{row['MiB'] / ours:.2g}"] for row in rows]
    return table(["scheme", "MiB", "× tree"], lines)


def _growth(rows: list[dict[str, Any]]) -> str:
    def seconds(row: dict[str, Any]) -> float:
        return float(row["GFLOP"] / row["GFLOP/s of a product"])

    lines = [
        [
            row["model"],
            str(row["trees"]),
            str(row["nodes"]),
            f"{row['tokens']:,}",
            f"{row['ms'] / 1e3:.3g}",
            f"{1e3 * row['tokens'] / row['ms']:,.0f}",
            f"{row['MiB']:,.0f}",
            f"{row['GFLOP']:,.0f} ÷ {row['GFLOP/s of a product']:,.0f} = {seconds(row):.3g}",
            f"{row['GFLOP/s'] / row['GFLOP/s of a product']:.0%}",
        ]
        for row in rows
    ]
    head = ["model", "trees", "nodes", "tokens", "s", "tokens/s", "peak MiB", "GFLOP ÷ GFLOP/s, s", "share"]
    return table(head, lines)


def panels(results: dict[str, Any]) -> list[Panel]:
    """Time and memory over tokens, and time over the model's size."""
    rows = results["growth"]
    first = rows[0]["model"]
    curves = {
        "one tree of 10 to 320 nodes": [row for row in rows if row["model"] == first and row["trees"] == 1],
        "1 to 8 trees of 40 nodes": [row for row in rows if row["model"] == first and row["nodes"] == 40],
    }
    models = [row for row in rows if row["model"] != first]
    return [
        Panel(
            "tokens in a pass",
            "s a step",
            {label: [(row["tokens"], row["ms"] / 1e3) for row in found] for label, found in curves.items()},
        ),
        Panel(
            "tokens in a pass",
            "peak MiB",
            {label: [(row["tokens"], row["MiB"]) for row in found] for label, found in curves.items()},
        ),
        Panel(
            "parameters of the model",
            "s a step",
            {
                "a tree of 40 nodes": [(row["parameters"], row["ms"] / 1e3) for row in models],
                "its products at full speed": [
                    (row["parameters"], row["GFLOP"] / row["GFLOP/s of a product"]) for row in models
                ],
            },
        ),
    ]
