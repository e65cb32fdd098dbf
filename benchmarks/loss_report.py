"""The tables and the plot of `benchmarks.loss`, from its results."""

from typing import Any

from benchmarks.plots import Panel, plot
from benchmarks.provenance import write_table
from benchmarks.tables import table

DECAYS = (1.0, 0.9)

NAMES = {
    "gflowdial": "gflowdial",
    "torchgfn": "torchgfn",
    "dense": "dense [B, T, T]",
    "matrix": "matrix [T, T]",
    "loop": "loop",
    "padded": "padded, by hand",
    "pairs": "pairs listed",
}


def write(results: dict[str, Any]) -> None:
    """The tables that docs/speed.md includes, and its plot."""
    parts = [f"**{title}**\n\n{table}" for title, table in tables(results).items()]
    text = "\n\n".join(parts)
    write_table("loss", text)
    plot("loss", panels(results))
    print(text)


def tables(results: dict[str, Any]) -> dict[str, str]:
    chains, trees = results["chains"], results["trees"]
    found = {}
    for decay in DECAYS:
        rows = [row for row in chains if row["objective"] == "SubTB" and row["decay"] == decay]
        found[f"SubTB, λ = {decay:g}, {results['batch']} equal chains: ms, and how many times ours."] = times(rows, "T")
    for objective in ("TB", "DB"):
        found[f"{objective}, the same."] = times([row for row in chains if row["objective"] == objective], "T")
    for kind, title in {
        "ragged": "SubTB, λ = 0.9, 64 chains of T/2 to 3T/2 actions.",
        "search": "SubTB, λ = 0.9, 64 search trees, by simulations; the others take every path as a trajectory.",
        "deep": "SubTB, λ = 0.9, 64 deep trees of T + 1 nodes.",
    }.items():
        found[title] = times([row for row in trees if row["trees"] == kind], "size")
    for decay in DECAYS:
        rows = [row for row in results["memory"] if row["decay"] == decay]
        found[f"Peak extra MiB, λ = {decay:g}: the first pass, with all that it caches · the next."] = peaks(rows)
    for title, rows in {
        "64 equal chains": [row for row in chains if row["objective"] == "SubTB" and row["decay"] != 1],
        "search trees": [row for row in trees if row["trees"] == "search"],
    }.items():
        what = f"What bounds SubTB with λ = 0.9, {title}: an estimate from what it launches and moves"
        found[f"{what}, beside what it takes."] = bounds(rows)
    return found


def times(rows: list[dict[str, Any]], size: str) -> str:
    """Median (quartiles) and the ratio to ours, a row for each size."""
    forms = [form for form in NAMES if any(form in row["forms"] for row in rows)]

    def cell(form: str, row: dict[str, Any]) -> str:
        if form not in row["forms"]:
            return "–"
        found = row["forms"][form]
        spread = f"{found['ms']:.3g} ({found['first quartile']:.3g}–{found['third quartile']:.3g})"
        return spread if form == "gflowdial" else f"{spread} · ×{found['ratio']:.3g}"

    return table(
        [size, *(NAMES[form] for form in forms)],
        [[str(row[size]), *(cell(form, row) for form in forms)] for row in rows],
    )


def peaks(rows: list[dict[str, Any]]) -> str:
    found = {(row["kind"], row["form"], row["decay"], row["size"]): row for row in rows}
    columns = list(dict.fromkeys(key[:3] for key in found))
    sizes = sorted({key[3] for key in found})

    def cell(column: tuple[str, str, float], size: int) -> str:
        row = found.get((*column, size))
        return f"{row['first MiB']:.3g} · {row['next MiB']:.3g}" if row else "–"

    head = [NAMES[form] if kind == "chains" else f"{NAMES[form]}, {kind}" for kind, form, _ in columns]
    return table(["T", *head], [[str(size), *(cell(column, size) for column in columns)] for size in sizes])


def bounds(rows: list[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        b, measured = row["bounds"], row["forms"]["gflowdial"]["ms"]
        estimate, moved = b["launch ms"] + b["bytes ms"], b["MB"] / measured
        lines.append(
            [
                str(row["T"] if "T" in row else row["size"]),
                f"{b['launches']} × {b['launch us']:.2f} µs = {b['launch ms']:.3f}",
                f"{b['MB']:.2f} MB ÷ {b['GB/s']:.0f} GB/s = {b['bytes ms']:.3f}",
                f"{estimate:.3f}",
                f"{measured:.3f}",
                f"{estimate / measured:.0%}",
                f"{moved:.1f} GB/s, {moved / b['GB/s']:.0%}",
            ]
        )
    head = ["size", "launches, ms", "bytes, ms", "sum, ms", "measured, ms", "share", "bandwidth achieved"]
    return table(head, lines)


def panels(results: dict[str, Any]) -> list[Panel]:
    """Time and memory of SubTB over trajectory length, all forms, λ = 0.9."""
    rows = [row for row in results["chains"] if row["objective"] == "SubTB" and row["decay"] != 1]
    cases = [row for row in results["memory"] if row["kind"] == "chains" and row["decay"] != 1]
    time = {
        label: [(row["T"], row["forms"][form]["ms"]) for row in rows if form in row["forms"]]
        for form, label in NAMES.items()
    }
    memory = {
        # Less than a page is no measurement.
        label: [(row["size"], row["first MiB"]) for row in cases if row["form"] == form and row["first MiB"] > 0.01]
        for form, label in NAMES.items()
    }
    length = "actions per trajectory, T"
    return [Panel(length, "ms, forward and backward", time), Panel(length, "peak extra MiB", memory)]
