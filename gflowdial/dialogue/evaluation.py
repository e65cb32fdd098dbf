"""The third stage: what the policies make of scenes that no training has seen."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from gflowdial.dialogue import labels
from gflowdial.dialogue.cards import add_results
from gflowdial.dialogue.config import RunConfig
from gflowdial.dialogue.environment import DialogueState
from gflowdial.dialogue.jobs import run_jobs
from gflowdial.dialogue.outcomes import Outcome, enumerated_outcome, mean_outcome, sampled_outcome
from gflowdial.dialogue.play import Episode, play
from gflowdial.dialogue.policies import DialoguePolicy, LearnedPolicy, SearchPolicy, UniformPolicy
from gflowdial.dialogue.progress import Report
from gflowdial.dialogue.report import Estimate, Rows, as_data, as_table
from gflowdial.dialogue.runs import Run, RunError
from gflowdial.dialogue.searching import search_config
from gflowdial.dialogue.setting import Setting
from gflowdial.dialogue.training import method_of
from gflowdial.search import SearchTree, enumerate_tree

EXACT = "exact_flow"
"""The row of the policy that samples conversations in exact proportion to exp(G/τ)."""
_SAMPLED = ("mcts",)
"""Rows that are played, also where conversations can be enumerated."""


class Cell(NamedTuple):
    """What one row of the table is for one seed.

    Attributes:
        outcomes: by scene.
        dropped_turns: early turns that the policy did not get to read because the prefixes were too long for it.
        played: the conversations that were played, as JSON values.
    """

    outcomes: list[Outcome]
    dropped_turns: int
    played: list[dict[str, Any]]


def evaluate_all(run: Run, setting: Setting, report: Report, name: str = "results") -> tuple[str, Path]:
    """Evaluate every policy, write the results, and return the table and their path.

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
    rows, title, caption, facts, written = evaluate(run, setting, report)
    table = as_table(rows, title, caption)
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
        for seed in config.seeds:
            values = {measure: str(value) for measure, value in rows[method].items() if value is not None}
            add_results(run.policy(seed, method), values, f"{title}. {caption}")
    return table, path


def _conversations(
    run: Run, setting: Setting, report: Report
) -> tuple[Rows, str, str, dict[str, Any], list[dict[str, Any]]]:
    config = setting.config
    train, held_out = setting.scenes.train, setting.scenes.held_out
    names = [
        (name, seed) for name in row_names(setting) for seed in (config.seeds if _varies(name) else config.seeds[:1])
    ]
    cells: dict[str, dict[int, Cell]] = {name: {} for name, _ in names}
    report("policies", 0, len(names))
    arguments = [(run.folder, config, seed, name) for name, seed in names]
    jobs = run_jobs(evaluate_cell, arguments, config.compute, shared=_enumerated(setting))
    for done, (index, cell) in enumerate(jobs, 1):
        name, seed = names[index]
        cells[name][seed] = cell
        report(f"{name}, seed {seed}", done, len(names))
    # Jobs are done in any order; the results must not show it.
    cells = {name: dict(sorted(found.items())) for name, found in cells.items()}
    by_seed = {name: [cell.outcomes for cell in found.values()] for name, found in cells.items()}
    rows = {name: _row(outcomes, len(config.seeds), setting) for name, outcomes in by_seed.items()}
    temperature = config.training.temperature
    how = (
        f"Exact over all conversations of at most {setting.environment.max_turns} turns"
        if setting.is_enumerable
        else f"Means of {config.evaluation.episodes} conversations a scene"
    )
    mcts = f"; mcts from {config.evaluation.episodes} conversations a scene" if "mcts" in rows else ""
    seeds = len(config.seeds)
    if seeds > 1:
        interval = "Student's t, 95%, over seeds"
        over = f"± is Student's 95% interval over {seeds} seeds; rows without it do not depend on the seed."
    else:
        interval = "95% over scenes: Wilson's for shares, else Student's t"
        over = "± is Student's 95% interval over scenes, of one seed; low–high is Wilson's, for shares."
    title = f"{len(held_out)} held-out scenes ({len(train)} for training), target R = exp(G/{temperature:g})"
    facts = {
        "experiment": "conversation",
        "temperature": temperature,
        "held_out_scenes": [scene.id for scene in held_out],
        "by_scene": {name: {str(seed): cell.outcomes for seed, cell in found.items()} for name, found in cells.items()},
        "dropped_turns": {name: sum(cell.dropped_turns for cell in found.values()) for name, found in cells.items()},
        "interval": interval,
    }
    played = [line for found in cells.values() for cell in found.values() for line in cell.played]
    return rows, title, f"{how}{mcts}. {over}", facts, played


def row_names(setting: Setting) -> list[str]:
    """The rows of the table, in order."""
    search = ["mcts"] if setting.config.evaluation.search_simulations else []
    exact = [EXACT] if setting.is_enumerable else []
    return ["uniform", "lm_prior", *search, *setting.config.training.methods, *exact]


def evaluate_cell(
    trees: Sequence[SearchTree[DialogueState]] | None,
    folder: Path,
    config: RunConfig,
    seed: int,
    name: str,
) -> Cell:
    """One row of the table for one seed; ``trees`` are the enumerated held-out scenes, if they can be."""
    run, setting, evaluation = Run.open(folder), Setting(config, folder), config.evaluation
    held_out = setting.scenes.held_out
    environment, temperature = setting.environment, config.training.temperature
    policy = None if name == EXACT else _policy(run, setting, seed, name)
    exact = trees is not None and name not in _SAMPLED
    played: list[list[Episode]] = []
    if policy is not None and (not exact or evaluation.write_dialogues):
        played = play(environment, policy, held_out, evaluation.episodes, seed)
    if exact:
        assert trees is not None
        outcomes = [enumerated_outcome(environment, tree, policy, temperature) for tree in trees]
        read = [state.dialogue for tree in trees for state in tree.states]
    else:
        outcomes = [sampled_outcome(environment, episodes) for episodes in played]
        read = [episode.dialogue for episodes in played for episode in episodes]
    dropped = sum(map(setting.encoder.dropped_turns, read)) if isinstance(policy, LearnedPolicy) else 0
    lines = [_line(episode, name, seed) for episodes in played for episode in episodes]
    return Cell(outcomes, dropped, lines if evaluation.write_dialogues else [])


def _enumerated(setting: Setting) -> list[SearchTree[DialogueState]] | None:
    """The enumerated held-out scenes, once for all rows; None where they cannot be."""
    if not setting.is_enumerable:
        return None
    held_out = setting.scenes.held_out
    return [enumerate_tree(setting.environment, [DialogueState.begin(scene)]) for scene in held_out]


def _policy(run: Run, setting: Setting, seed: int, name: str) -> DialoguePolicy:
    match name:
        case "uniform":
            return UniformPolicy(len(setting.inventory))
        case "lm_prior":
            untrained = setting.untrained(run, seed)
            return LearnedPolicy(untrained.model.eval(), untrained.encoder, reference=True)
        case "mcts":
            config = search_config(setting, setting.config.evaluation.search_simulations)
            return SearchPolicy(setting.environment, config, seed)
    return setting.learned(run, seed, name)


def _varies(name: str) -> bool:
    return name not in ("uniform", EXACT)


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
