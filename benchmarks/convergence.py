"""Does training with each loss reach the exact terminating distribution? Every loss, three environments, five seeds.

The estimator is a table, so that nothing but the loss and the samples stands between the policy and the target. The
table starts at random, and trees, graphs and dialogues have random rewards, both by the seed; P_B is uniform. What is
measured is exact: the total variation between where the policy ends and where it should, summed over all states.

Run: python -m benchmarks convergence
"""

import multiprocessing
import os
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.convergence_cases import CASES, EPSILON, PLACES, conditions_of_ends, normalised
from benchmarks.provenance import RESULTS, write_results, write_table
from gflowdial import oracle
from gflowdial.envs import Environment, StateGraph, enumerate_states
from gflowdial.estimators.tabular import TabularFlow
from gflowdial.metrics.distances import total_variation
from gflowdial.replay import Replay
from gflowdial.sampling import Terminals
from gflowdial.training.loop import train

SEEDS = 5
BATCH = 64
LEARNING_RATE = 0.2
"""Of Adam, falling to a hundredth along a cosine."""
BETAS = (0.9, 0.99)
"""Of Adam: a shorter memory than usual, since the first gradients are by far the largest."""
CHECKPOINTS = 25
PLOT = RESULTS.parents[1] / "docs" / "images" / "convergence.png"


def run(name: str, place: str, seed: int) -> dict[str, Any]:
    """Train once; total variation, that of the worst condition, before training and at `CHECKPOINTS` steps."""
    torch.set_num_threads(1)
    case, (build, steps, bar) = CASES[name], PLACES[place]
    steps *= case.patience
    generator = torch.Generator().manual_seed(seed)
    environment = build(generator)
    graph = enumerate_states(environment)
    conditions = conditions_of_ends(graph)
    target = normalised(case.target(environment, graph), conditions)
    estimator = random_table(environment, graph, generator)
    optimiser = torch.optim.Adam(estimator.parameters(), lr=LEARNING_RATE, betas=BETAS)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps, LEARNING_RATE / 100)
    training = train(
        environment,
        estimator,
        case.loss,
        optimiser,
        steps=steps,
        batch_size=BATCH,
        generator=generator,
        epsilon=EPSILON,
        replay=drawn_by_reward(graph) if case.from_data else None,
        replay_share=1.0,
    )

    def distance() -> float:
        return round(float(total_variation(ends(estimator, graph), target, conditions).max()), 6)

    curve = [distance()]
    for done in training:
        schedule.step()
        if (done.step + 1) % (steps // CHECKPOINTS) == 0:
            curve.append(distance())
    return {"loss": name, "environment": place, "seed": seed, "bar": bar, "total variation": curve}


def random_table(environment: Environment, graph: StateGraph, generator: torch.Generator) -> TabularFlow:
    """A table of standard normal entries, in float64."""
    table = TabularFlow(environment, graph.index, len(graph.states), num_conditions=graph.num_conditions).double()
    for entries in table.parameters():
        torch.nn.init.normal_(entries, generator=generator)
    return table


def drawn_by_reward(graph: StateGraph) -> Replay:
    """All ends, drawn in proportion to their reward: data for a loss that learns from data."""
    replay = Replay(len(graph.dag.terminals), priority="reward")
    replay.add(Terminals(graph.states[graph.dag.terminals], graph.log_reward, conditions_of_ends(graph).ids))
    return replay


@torch.no_grad()
def ends(estimator: TabularFlow, graph: StateGraph) -> Tensor:
    """Where the policy ends, exactly: log-probability per terminal."""
    log_pf = estimator.forward_policy(graph.states)[graph.dag.source, graph.action]
    return oracle.dag_terminating_distribution(graph.dag, log_pf)


def by_case(rows: list[dict[str, Any]]) -> dict[tuple[str, str], list[list[float]]]:
    """The curves of all seeds for each loss and environment, in the order of `CASES`."""
    curves: dict[tuple[str, str], list[list[float]]] = {
        (name, place): [] for name, case in CASES.items() for place in case.places
    }
    for row in rows:
        curves[row["loss"], row["environment"]].append(row["total variation"])
    return curves


def markdown(rows: list[dict[str, Any]]) -> str:
    """Total variation after training: median and worst of the seeds; environments other than the column's are named."""
    curves = by_case(rows)
    columns = ("hypergrid 8×8", "tree", "graph")
    lines = ["| loss | " + " | ".join(columns) + " |", "|---|---|---|---|"]
    for name, case in CASES.items():
        loss, *options = name.split(", ")
        cells = [", ".join([f"`{loss}`", *options])]
        for column, place in zip(columns, case.places, strict=True):
            text = cell([curve[-1] for curve in curves[name, place]], PLACES[place].bar)
            cells.append(text if place == column else f"{place}: {text}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cell(after: list[float], bar: float) -> str:
    """The median, and in brackets the worst, bold where it misses the bar."""
    middle, worst = (f"{value:.4f}" if value >= 1e-4 else "<0.0001" for value in (median(after), max(after)))
    return f"{middle} ({worst if max(after) < bar else f'**{worst}**'})"


def plot(rows: list[dict[str, Any]]) -> None:
    """One panel a loss: the median over seeds, the range of all of them, and the bars."""
    # Needs the extra `docs`; training's many processes do without.
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot
    from matplotlib.lines import Line2D

    matplotlib.rcParams.update({"font.size": 7, "axes.titlesize": 7})
    columns = 4
    figure, axes = pyplot.subplots(-(-len(CASES) // columns), columns, figsize=(10, 11), sharex=True, sharey=True)
    colours = {place: f"C{number}" for number, place in enumerate(PLACES)}
    for axis, name in zip(axes.flat, CASES, strict=False):
        axis.set_title(name)
    for panel in axes.flat[len(CASES) :]:
        panel.axis("off")
    for (name, place), curves in by_case(rows).items():
        axis = axes.flat[list(CASES).index(name)]
        steps = [100 * point / CHECKPOINTS for point in range(CHECKPOINTS + 1)]
        points = [[max(value, 1e-6) for value in values] for values in zip(*curves, strict=True)]
        axis.semilogy(steps, [median(values) for values in points], color=colours[place], linewidth=1)
        low, high = [min(values) for values in points], [max(values) for values in points]
        axis.fill_between(steps, low, high, color=colours[place], alpha=0.2, linewidth=0)
    for axis in axes.flat[: len(CASES)]:
        for bar in sorted({bar for _, _, bar in PLACES.values()}):
            axis.axhline(bar, color="grey", linewidth=0.5, linestyle="--")
    figure.supxlabel("share of training, %")
    figure.supylabel("total variation to the target")
    handles = [Line2D([], [], color=colour, label=place) for place, colour in colours.items()]
    figure.legend(handles=handles, loc="lower right", ncols=2)
    figure.tight_layout()
    PLOT.parent.mkdir(exist_ok=True)
    figure.savefig(PLOT, dpi=110)


def main() -> None:
    jobs = [(name, place, seed) for name, case in CASES.items() for place in case.places for seed in range(SEEDS)]
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        rows = pool.starmap(run, jobs, chunksize=1)
    torch.set_num_threads(1)
    met = {
        f"{name}, {place}": all(curve[-1] < PLACES[place].bar for curve in curves)
        for (name, place), curves in by_case(rows).items()
    }
    setup = {
        "seeds": SEEDS,
        "batch": BATCH,
        "epsilon": EPSILON,
        "learning rate": LEARNING_RATE,
        "betas": BETAS,
        "steps": {place: steps for place, (_, steps, _) in PLACES.items()},
        "patience": {name: case.patience for name, case in CASES.items() if case.patience > 1},
    }
    path = write_results("convergence", setup | {"all bars met": all(met.values()), "met": met, "rows": rows})
    write_table("convergence", markdown(rows))
    plot(rows)
    print(f"{markdown(rows)}\n\nwritten to {path} and {PLOT}")


if __name__ == "__main__":
    main()
