"""The third stage: what the policies make of scenes that no training has seen."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from examples.aflow_esc import label_evaluation
from examples.aflow_esc.config import RunConfig
from examples.aflow_esc.jobs import run_jobs
from examples.aflow_esc.methods import objective
from examples.aflow_esc.outcomes import Outcome, enumerated_outcome, mean_outcome, sampled_outcome
from examples.aflow_esc.play import play
from examples.aflow_esc.policies import DialoguePolicy, LearnedPolicy, SearchPolicy, UniformPolicy
from examples.aflow_esc.progress import Report
from examples.aflow_esc.report import Estimate, Rows, as_data, as_table
from examples.aflow_esc.roles.simulated import enumerate_tree
from examples.aflow_esc.runs import Run, RunError
from examples.aflow_esc.setting import Setting
from gflowdial.search import SearchConfig

EXACT = "exact_flow"
"""The row of the policy that samples conversations in exact proportion to exp(G/τ)."""


def evaluate_all(run: Run, setting: Setting, report: Report) -> str:
    """Evaluate every policy, write the results and return the table.

    Raises:
        RunError: a policy is not trained yet, or the run has results already.
    """
    config = run.config
    if run.has_results:
        raise RunError(f"{run.folder} has results already: they are kept; begin a new run to evaluate anew")
    for seed in config.seeds:
        for method in config.training.methods:
            if not run.policy(seed, method).is_dir():
                raise RunError(f"{run.policy(seed, method)} is missing: train first")
    if config.experiment == "labels":
        rows, title, caption, facts = label_evaluation.evaluate(run, setting, report)
    else:
        rows, title, caption, facts = _conversations(run, setting, report)
    table = as_table(rows, title, caption)
    run.write_results({"seeds": config.seeds, **facts, "rows": as_data(rows)}, table)
    return table


def _conversations(run: Run, setting: Setting, report: Report) -> tuple[Rows, str, str, dict[str, Any]]:
    config = run.config
    cells = [
        (name, seed) for name in row_names(config) for seed in (config.seeds if _varies(name) else config.seeds[:1])
    ]
    outcomes: dict[str, dict[int, list[Outcome]]] = {name: {} for name, _ in cells}
    dropped: dict[str, int] = dict.fromkeys(outcomes, 0)
    report("policies", 0, len(cells))
    arguments = [(run.folder, seed, name) for name, seed in cells]
    for done, (index, (outcome, turns)) in enumerate(run_jobs(outcomes_of, arguments, config.compute), 1):
        name, seed = cells[index]
        outcomes[name][seed] = outcome
        dropped[name] += turns
        report(f"{name}, seed {seed}", done, len(cells))
    rows = {
        name: _row([by_seed[seed] for seed in sorted(by_seed)], len(config.seeds)) for name, by_seed in outcomes.items()
    }
    train, held_out = setting.scenes
    temperature = config.training.temperature
    how = (
        f"Exact over all conversations of at most {setting.environment.max_turns} turns"
        if setting.is_enumerable
        else f"Means of {config.evaluation.episodes} conversations a scene"
    )
    mcts = f"; mcts from {config.evaluation.episodes} conversations a scene" if "mcts" in rows else ""
    seeds = len(config.seeds)
    interval = "seeds" if seeds > 1 else "scenes"
    caption = f"{how}{mcts}. ± is Student's 95% interval over " + (
        f"{seeds} seeds; rows without it do not depend on the seed." if seeds > 1 else "scenes, of one seed."
    )
    title = f"{len(held_out)} held-out scenes ({len(train)} for training), target R = exp(G/{temperature:g})"
    facts = {
        "experiment": "conversation",
        "temperature": temperature,
        "objectives": {method: asdict(objective(method, config.training)) for method in config.training.methods},
        "held_out_scenes": [scene.id for scene in held_out],
        "dropped_turns": dropped,
        "interval": f"Student's t, 95%, over {interval}",
    }
    return rows, title, caption, facts


def row_names(config: RunConfig) -> list[str]:
    """The rows of the table, in order."""
    search = ["mcts"] if config.evaluation.search_simulations else []
    exact = [EXACT] if config.roles is not None and config.roles.kind == "simulated" else []
    return ["uniform", "lm_prior", *search, *config.training.methods, *exact]


def outcomes_of(folder: Path, seed: int, name: str) -> tuple[list[Outcome], int]:
    """The outcomes of one row for one seed, scene by scene; and how many early turns the policy did not get to read
    because the prefixes were too long for it."""
    run = Run.open(folder)
    setting = Setting(run.config)
    _, held_out = setting.scenes
    policy = None if name == EXACT else _policy(run, setting, seed, name)
    if setting.is_enumerable and name != "mcts":
        trees = [enumerate_tree(scene, setting.roles, setting.environment.max_turns) for scene in held_out]
        outcomes = [enumerated_outcome([tree], policy, run.config.training.temperature) for tree in trees]
        read = [dialogue for tree in trees for dialogue in tree.dialogue]
    else:
        assert policy is not None
        played = play(setting.environment, policy, held_out, run.config.evaluation.episodes, seed)
        outcomes = [sampled_outcome([episodes]) for episodes in played]
        read = [episode.dialogue for episodes in played for episode in episodes]
    reads_tokens = isinstance(policy, LearnedPolicy)
    return outcomes, sum(map(setting.encoder.dropped_turns, read)) if reads_tokens else 0


def _policy(run: Run, setting: Setting, seed: int, name: str) -> DialoguePolicy:
    config = run.config
    match name:
        case "uniform":
            return UniformPolicy(len(setting.inventory))
        case "lm_prior":
            return LearnedPolicy(setting.untrained(run, seed).eval(), setting.encoder, reference=True)
        case "mcts":
            options = config.search
            search = SearchConfig(
                config.evaluation.search_simulations,
                options.max_depth,
                options.rollout_length,
                options.kappa,
                options.prior_weight,
            )
            return SearchPolicy(setting.environment, search, seed)
    return setting.learned(run, seed, name)


def _varies(name: str) -> bool:
    return name not in ("uniform", EXACT)


def _row(by_seed: list[list[Outcome]], num_seeds: int) -> dict[str, Estimate | None]:
    """Means over scenes, with intervals over seeds; a run of one seed has them over scenes instead."""
    samples = by_seed[0] if num_seeds == 1 else [mean_outcome(scenes) for scenes in by_seed]
    columns = zip(Outcome._fields, zip(*samples, strict=True), strict=True)
    return {name: None if None in column else Estimate.of(column) for name, column in columns}
