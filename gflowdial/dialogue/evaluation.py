"""The third stage: what the policies make of scenes that no training has seen, beside some that it has."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gflowdial.dialogue import labels
from gflowdial.dialogue.cards import add_results
from gflowdial.dialogue.jobs import run_jobs
from gflowdial.dialogue.learning import method_of
from gflowdial.dialogue.outcomes import Outcome, mean_outcome
from gflowdial.dialogue.play import Episode
from gflowdial.dialogue.progress import Report
from gflowdial.dialogue.report import Estimate, Evaluated, as_data, as_table
from gflowdial.dialogue.rows import (
    HELD_OUT,
    TRAINING,
    Cell,
    depends_on_seed,
    enumerated_scenes,
    evaluate_policy,
    greedy,
    is_search,
    policy_rows,
    row_names,
    scenes_of,
)
from gflowdial.dialogue.runs import Run, RunError
from gflowdial.dialogue.setting import Setting


def evaluate_all(run: Run, setting: Setting, report: Report, name: str = "results") -> tuple[str, Path]:
    """Evaluate every policy, write the results, and return the tables and their path.

    Args:
        run: with trained policies.
        setting: of the run, perhaps with other settings of the evaluation.
        report: told what was done.
        name: of the results; those of other names stay beside them.

    Raises:
        RunError: a policy is not trained yet, or the run has results of this name already.
    """
    config = setting.config
    run.check_no_results(name)
    for seed in config.seeds:
        for method in config.training.methods:
            if not run.policy(seed, method).is_dir():
                raise RunError(f"{run.policy(seed, method)} is missing: train first")
    evaluate = labels.evaluate if config.experiment == "labels" else _conversations
    rows, title, caption, facts, written, training_rows = evaluate(run, setting, report)
    table = as_table(rows, title, caption)
    if training_rows is not None:
        facts["training_rows"] = as_data(training_rows)
        seen = f"The same in {len(facts['training_scenes'])} training scenes"
        table = (
            as_table(training_rows, seen, "Where these rows are as far from the target, it is under-fitting.") + table
        )
    if config.evaluation.write_dialogues:
        lines = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in written)
        (run.folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    methods = {method: method_of(setting, method) for method in config.training.methods}
    objectives = {
        method: {"untried": how.untried, "read_leaves": how.read_leaves, "ranks_by_value": how.ranks_by_value}
        for method, how in methods.items()
    }
    settings = {key: getattr(config, key).model_dump(mode="json") for key in ("training", "evaluation")}
    results = {"seeds": config.seeds, **settings, "objectives": objectives, **facts, "rows": as_data(rows)}
    path = run.write_results(results, table, name)
    for method in config.training.methods:
        shown = {column: rows[row] for column, row in (("sampled", method), ("greedy", greedy(method))) if row in rows}
        for seed in config.seeds:
            add_results(run.policy(seed, method), shown, f"{title}. {caption}")
    return table, path


def _conversations(run: Run, setting: Setting, report: Report) -> Evaluated:
    config = setting.config
    scenes = scenes_of(setting)
    jobs = [
        (name, seed)
        for name in policy_rows(setting)
        for seed in (config.seeds if depends_on_seed(name) else config.seeds[:1])
    ]
    cells: dict[str, dict[str, dict[int, Cell]]] = {part: {name: {} for name in row_names(setting)} for part in scenes}
    report("policies", 0, len(jobs))
    arguments = [(run.folder, config, seed, name) for name, seed in jobs]
    for done, (index, found) in enumerate(
        run_jobs(evaluate_policy, arguments, config.compute, shared=enumerated_scenes(setting)), 1
    ):
        name, seed = jobs[index]
        for (part, row), cell in found.items():
            cells[part][row][seed] = cell
        report(f"{name}, seed {seed}", done, len(jobs))
    # Jobs are done in any order; the results must not show it.
    cells = {
        part: {name: dict(sorted(by_seed.items())) for name, by_seed in rows.items() if by_seed}
        for part, rows in cells.items()
    }
    rows, training_rows = (
        {
            name: _row([cell.outcomes for cell in by_seed.values()], len(config.seeds), setting)
            for name, by_seed in cells[part].items()
        }
        for part in (HELD_OUT, TRAINING)
    )
    held_out, temperature = cells[HELD_OUT], config.training.temperature
    number = len(setting.scenes.train)
    title = f"{len(scenes[HELD_OUT])} held-out scenes ({number} for training), target R = exp(G/{temperature:g})"
    interval, over = _intervals(len(config.seeds))
    facts = {
        "experiment": "conversation",
        "temperature": temperature,
        "held_out_scenes": [scene.id for scene in scenes[HELD_OUT]],
        "training_scenes": [scene.id for scene in scenes[TRAINING]],
        "by_scene": {
            name: {str(seed): cell.outcomes for seed, cell in by_seed.items()} for name, by_seed in held_out.items()
        },
        "dropped_turns": {
            name: sum(cell.dropped_turns for cell in by_seed.values()) for name, by_seed in held_out.items()
        },
        "interval": interval,
    }
    written = [
        _line(episode, name, seed)
        for name, by_seed in held_out.items()
        for seed, cell in by_seed.items()
        for episode in cell.played
    ]
    return Evaluated(rows, title, f"{_how(setting)}. {over}", facts, written, training_rows)


def _how(setting: Setting) -> str:
    """How the rows were computed."""
    episodes = f"{setting.config.evaluation.episodes} conversations a scene"
    if not setting.is_enumerable:
        return f"Means of {episodes}"
    exact = f"Exact over all conversations of at most {setting.environment.max_turns} turns"
    own = "; NAME@τ is measured against its own target" if any("@" in row for row in row_names(setting)) else ""
    search = f"; mcts_N plays {episodes}" if any(map(is_search, row_names(setting))) else ""
    return exact + search + own


def _intervals(num_seeds: int) -> tuple[str, str]:
    """What the intervals are, for the results and for the caption."""
    if num_seeds > 1:
        over = f"± is Student's 95% interval over {num_seeds} seeds; rows without it do not depend on the seed."
        return "Student's t, 95%, over seeds", over
    over = "± is Student's 95% interval over scenes, of one seed; low–high is Wilson's, for shares."
    return "95% over scenes: Wilson's for shares, else Student's t", over


def _row(by_seed: list[list[Outcome]], num_seeds: int, setting: Setting) -> dict[str, Estimate | None]:
    """Means over scenes, with intervals over seeds; a run of one seed has them over scenes instead."""
    samples = by_seed[0] if num_seeds == 1 else [mean_outcome(scenes) for scenes in by_seed]
    shares = set(setting.task.ends.values()) if num_seeds == 1 else set()
    row: dict[str, Estimate | None] = {}
    for measure in samples[0]:
        column = [value for outcome in samples if (value := outcome[measure]) is not None]
        estimate = Estimate.of_shares if measure in shares else Estimate.of
        row[measure] = estimate(column) if len(column) == len(samples) else None
    return row


def _line(episode: Episode, name: str, seed: int) -> dict[str, Any]:
    turns = [asdict(turn) for turn in episode.dialogue.turns]
    scene, status = episode.dialogue.scene.id, episode.state.status
    return {
        "policy": name,
        "seed": seed,
        "scene": scene,
        "return": episode.episode_return,
        "status": status,
        "turns": turns,
    }
