"""Environment steps until on-policy learners of a dialogue policy reach the return that RLOO ends with.

A tiny language-model policy learns from its own conversations alone, on emotional support and on haggling. At twenty
points of the training its exact return on validation scenes is computed. Two kinds of learners: policy gradients on
fresh conversations (RLOO, turn credit), and balance losses on the growing trees of all conversations so far.

Run: python -m benchmarks on_policy
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t

from benchmarks.provenance import write_results, write_table
from benchmarks.tables import table
from gflowdial.dialogue.config import RunConfig
from gflowdial.dialogue.learning import HISTORY
from gflowdial.dialogue.runs import Run
from gflowdial.dialogue.searching import search_all
from gflowdial.dialogue.setting import Setting
from gflowdial.dialogue.training import train_all

SEEDS = [0, 1, 2, 3, 4]
TASKS = {"emotional support": "examples.aflow_esc.task:TASK", "haggling": "examples.haggling:TASK"}
LEARNERS = {
    "RLOO": ("rloo", {}),
    "turn credit, λ = 0.9": ("policy_gradient", {}),
    "SubTB on growing trees": ("subtrajectory_balance", {"replay": 32}),
    "VarGrad on growing trees": ("log_partition_variance", {"replay": 32}),
}
"""By name, the method and the settings of training that it has for itself."""


def config_of(task: str) -> RunConfig:
    """The settings of one task: few scenes, one simulation a scene in place of a search."""
    training: dict[str, Any] = {
        "methods": [method for method, _ in LEARNERS.values()],
        "each": {method: own for method, own in LEARNERS.values() if own},
        "tuning": "full",
        "epochs": 12,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "rollouts": 8,
        "evaluations": 20,
        "max_tokens": 512,
    }
    return RunConfig.model_validate(
        {
            "task": task,
            "experiment": "conversation",
            "seeds": SEEDS,
            "data": {"source": "generated", "scenes": 130, "validation": 0.1},
            "roles": {"kind": "simulated", "max_turns": 4},
            "search": {"simulations": 1, "max_depth": 4, "rollout_length": 3, "keep_rollouts": True},
            "model": {"kind": "tiny"},
            "training": training,
            "compute": {"jobs": 1, "threads": 1},
        }
    )


def learn(task: str, folder: Path) -> dict[str, list[list[tuple[int, float]]]]:
    """By learner and seed, the environment steps and the exact return on validation scenes at each evaluation."""
    config = config_of(task)
    setting = Setting(config)
    run = Run.begin(folder, config.model_copy(update={"inventory": setting.inventory.name}))
    search_all(run, Setting.of(run), lambda *_: None)
    train_all(run, lambda what, done, total: print(f"{task}: {done} of {total} ({what})", flush=True))
    curves: dict[str, list[list[tuple[int, float]]]] = {}
    for name, (method, _) in LEARNERS.items():
        for seed in SEEDS:
            history = json.loads((run.policy(seed, method) / HISTORY).read_text())
            points = [
                (e["environment_steps"], e["eval_expected_return"]) for e in history if "eval_expected_return" in e
            ]
            curves.setdefault(name, []).append(points)
    return curves


def steps_to(points: list[tuple[int, float]], bar: float) -> float:
    """The environment steps at which a curve first is at ``bar``, between its points linearly; infinite if never."""
    before = (0, -np.inf)
    for steps, value in points:
        if value >= bar:
            share = 1.0 if before[1] == -np.inf else (bar - before[1]) / (value - before[1])
            return before[0] + share * (steps - before[0])
        before = (steps, value)
    return np.inf


def interval(values: list[float]) -> str:
    """The mean with Student's 95% interval, of finite values."""
    if not np.isfinite(values).all():
        return f"not reached by {int((~np.isfinite(values)).sum())} of {len(values)} seeds"
    half = t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{np.mean(values):.3g} ±{half:.2g}"


def main() -> None:
    rows, content = [], {}
    for name, task in TASKS.items():
        with tempfile.TemporaryDirectory() as folder:
            curves = learn(task, Path(folder) / "run")
        content[name] = curves
        bars = [points[-1][1] for points in curves["RLOO"]]
        budget = [points[-1][0] for points in curves["RLOO"]]
        for learner, by_seed in curves.items():
            reached = [steps_to(points, bar) / b for points, bar, b in zip(by_seed, bars, budget, strict=True)]
            last = [points[-1][1] for points in by_seed]
            rows.append(
                [
                    name,
                    learner,
                    interval([float(points[-1][0]) for points in by_seed]),
                    interval(last),
                    interval(reached) if learner != "RLOO" else "1",
                ]
            )
    head = ["task", "learner", "environment steps", "return at the end", "share of RLOO's steps to RLOO's return"]
    markdown = table(head, rows)
    print(markdown)
    write_results("on_policy", {"seeds": SEEDS, "curves": content})
    write_table("on_policy", markdown)
