"""One policy is trained: on trees that may grow, over rounds, watched on validation scenes."""

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import EarlyStoppingCallback, PrinterCallback, set_seed

from gflowdial.dialogue.config import at_temperature
from gflowdial.dialogue.curves import draw_history
from gflowdial.dialogue.environment import DialogueEnvironment, DialogueState
from gflowdial.dialogue.language_models import device_of
from gflowdial.dialogue.outcomes import EnumeratedScene, mean_outcome, policy_log_pf
from gflowdial.dialogue.policies import LearnedPolicy
from gflowdial.dialogue.rows import enumerated_scene
from gflowdial.dialogue.runs import Run, partial_folder, whole
from gflowdial.dialogue.searching import read_run_trees, read_validation_trees, search_config
from gflowdial.dialogue.setting import Setting
from gflowdial.dialogue.trees import recorded_tree
from gflowdial.dialogue.values import Dialogue
from gflowdial.dialogue.wishes import drawn_conditions
from gflowdial.search import SearchTree, search, tree_seed, unite
from gflowdial.training.methods import Method, method
from gflowdial.training.rollouts import Rollouts
from gflowdial.training.trainer import FlowTrainer, FlowTrainingArguments, steps_of
from gflowdial.training.trees import Condition

Trees = list[SearchTree[DialogueState]]
Watched = Mapping[str, Sequence[EnumeratedScene]]
"""By part, "train" and "eval", scenes with all conversations."""

_WATCHED = {"train": 3, "eval": 8}
"""How many scenes of a part are played through at an evaluation, at most. Those of validation choose the weights."""
HISTORY = "history.json"


def train_policy(watched: Watched | None, folder: Path, seed: int, name: str) -> None:
    """Train and save one policy, its log and the curves.

    Args:
        watched: see `watched_scenes`.
        folder: of the run.
        seed: of the policy.
        name: of its method.
    """
    run = Run.open(folder)
    config, training = run.config, run.config.training.of(name)
    setting = Setting(config.model_copy(update={"training": training}), run.folder)
    set_seed(seed)
    policy, how = setting.untrained(run), method_of(setting, name)
    temperature = at_temperature(name, training.temperature)[1]
    conversation = config.experiment == "conversation"
    trees, validation = examples(run, setting, seed), _validation(run, setting, seed)
    history: list[dict[str, Any]] = []
    if training.start is not None:
        policy.model.load_weights(run.policy(seed, training.start))
    measure = _measure(setting.environment, policy, watched, temperature) if watched and training.evaluations else None
    work = partial_folder(run.policy(seed, name)).with_suffix(".work")
    steps = sum(map(steps_of, trees)) if conversation and not how.on_policy else 0
    for number in range(training.rounds):
        if number and not how.on_policy:
            searched = _search_again(setting, policy, trees, seed, number)
            steps += sum(map(steps_of, searched))
            trees = [unite([old, new]) for old, new in zip(trees, searched, strict=True)]
        rollouts = _rollouts(setting, policy, [seed, number]) if conversation else None
        trainer = _trainer(setting, policy, how, temperature, trees, validation, measure, rollouts, seed, work)
        # The parent prints its summary where its own bar is off; the stage has a bar already.
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        trees = [each.tree for each in trainer.trees]
        history += [
            {**_timeless(entry), "round": number, "environment_steps": steps + entry.get("environment_steps", 0)}
            for entry in trainer.state.log_history
        ]
        steps += trainer.environment_steps
    shutil.rmtree(work, ignore_errors=True)
    facts = _facts(run, setting, seed, name)
    if conversation:
        facts["environment_steps"] = steps
    with_base = config.model.kind == "tiny"

    def save(target: Path) -> None:
        policy.save_pretrained(target, facts=facts, with_base=with_base)
        (target / HISTORY).write_text(json.dumps(history, indent=1) + "\n", encoding="utf-8")
        draw_history(history, target / "history.svg")

    whole(run.policy(seed, name), save)


def method_of(setting: Setting, name: str) -> Method:
    """A method under the run's settings; of METHOD@τ the first part."""
    training = setting.config.training.of(name)
    return method(
        at_temperature(name, training.temperature)[0],
        untried=training.untried,
        decay=training.decay,
        kl_weight=training.kl_weight,
        ranking_weight=training.ranking_weight,
    )


def examples(run: Run, setting: Setting, seed: int) -> Trees:
    """What the policies of a seed learn from: its search trees, or recorded dialogues; see `train_all` for errors."""
    if run.config.experiment == "conversation":
        return read_run_trees(run, setting, seed)
    return _recorded(setting, setting.decisions.train)


def _conditions(setting: Setting) -> Callable[[torch.Generator], list[Condition]] | None:
    wished, wishes = setting.config.wishes, setting.wishes
    return drawn_conditions(setting.task, wishes, wished.per_step) if wished and wishes else None


def _validation(run: Run, setting: Setting, seed: int) -> Trees:
    if not run.config.training.evaluations:
        return []
    if run.config.experiment == "conversation":
        return read_validation_trees(run, setting, seed) if setting.scenes.validation else []
    return _recorded(setting, setting.decisions.validation)


def _timeless(entry: dict[str, float]) -> dict[str, float]:
    """A log entry without what differs from one training to the next."""
    return {name: value for name, value in entry.items() if not name.endswith(("_runtime", "_per_second"))}


def _recorded(setting: Setting, decided: Sequence[tuple[Dialogue, list[int]]]) -> Trees:
    """Recorded dialogues as chains, whose return is 1 or their outcome."""
    outcomes = setting.outcomes if setting.config.training.outcome else {}
    return [
        recorded_tree(dialogue, turns, setting.inventory, outcomes.get(dialogue.scene.id, 1.0))
        for dialogue, turns in decided
    ]


def _trainer(
    setting: Setting,
    policy: LearnedPolicy,
    how: Method,
    temperature: float,
    trees: Trees,
    validation: Trees,
    measure: Callable[[], dict[str, float]] | None,
    rollouts: Rollouts[DialogueState] | None,
    seed: int,
    work: Path,
) -> FlowTrainer:
    config, training = setting.config, setting.config.training
    evaluated = bool(training.evaluations and (validation or measure))
    keeps_best = evaluated and bool(validation) and (measure is not None or not how.on_policy)
    every: dict[str, Any] = {"eval_strategy": "no", "logging_strategy": "no"}
    if evaluated:
        steps = math.ceil(math.ceil(len(trees) / training.batch_size) * training.epochs)
        every = dict.fromkeys(("eval_steps", "logging_steps"), float(math.ceil(steps / training.evaluations)))
        every |= {"eval_strategy": "steps", "logging_strategy": "steps"}
    return FlowTrainer(
        policy.model,
        FlowTrainingArguments(
            output_dir=str(work),
            num_train_epochs=training.epochs,
            per_device_train_batch_size=training.batch_size,
            learning_rate=training.learning_rate,
            head_learning_rate=training.head_learning_rate,
            tokens_per_pass=training.tokens_per_pass,
            lr_scheduler_type="cosine",
            warmup_steps=5.0,
            save_strategy="best" if keeps_best else "no",
            save_only_model=True,
            save_total_limit=1,
            load_best_model_at_end=keeps_best,
            # A loss falls with its flows too; what a policy is measured by is better where it is known.
            metric_for_best_model=_best(how, measure is not None) if keeps_best else None,
            greater_is_better=how.on_policy if keeps_best else None,
            report_to=[],
            disable_tqdm=config.compute.jobs > 1 or config.model.kind == "tiny",
            use_cpu=device_of(config.compute).type == "cpu",
            seed=seed,
            **every,
        ),
        how.loss,
        trees,
        tokens=setting.encoder.tree_tokens,
        branch=setting.encoder.branch,
        temperature=temperature,
        untried=how.untried,
        floor=training.floor,
        read_leaves=how.read_leaves,
        anchor_frontier=how.anchor_frontier,
        validation=validation,
        measure=measure,
        rollouts=rollouts,
        on_policy=how.on_policy,
        steps_per_rollout=how.steps_per_rollout,
        conditions=_conditions(setting),
        callbacks=[EarlyStoppingCallback(training.patience)] if keeps_best and training.patience else None,
    )


def _best(how: Method, measured: bool) -> str:
    if how.on_policy:
        return "eval_expected_return"
    return "eval_total_variation" if measured else "eval_loss"


def _rollouts(setting: Setting, policy: LearnedPolicy, seed: list[int]) -> Rollouts[DialogueState] | None:
    training = setting.config.training
    if not training.rollouts and training.replay is None:
        return None
    environment = setting.environment

    def act(states: Sequence[DialogueState]) -> NDArray[np.float64]:
        dialogues = [state.dialogue for state in states]
        return environment.restrict(policy.log_policy(dialogues), dialogues)

    return Rollouts(
        environment,
        act,
        training.rollouts,
        seed=int(np.random.default_rng(seed).integers(2**32)),
        epsilon=training.epsilon,
        replay=training.replay,
        priority=training.replay_priority,
    )


def _search_again(setting: Setting, policy: LearnedPolicy, trees: Trees, seed: int, number: int) -> Trees:
    """Trees of the same scenes, searched with the policy learned so far as the prior."""
    environment = replace(setting.environment, roles=replace(setting.roles, prior=PolicyPrior(policy)))
    policy.model.eval()
    size, found = setting.config.search.batch_size, []
    for start in range(0, len(trees), size):
        roots = [tree.states[0] for tree in trees[start : start + size]]
        seeds = [tree_seed(seed, f"{root.dialogue.scene.id} round {number}") for root in roots]
        found += search(environment, roots, seeds, search_config(setting)).split()
    return found


@dataclass(frozen=True)
class PolicyPrior:
    """A policy as the prior of a search."""

    policy: LearnedPolicy

    def log_prior(self, dialogues: Sequence[Any]) -> NDArray[np.float64]:
        """See `gflowdial.dialogue.roles.Prior`."""
        return self.policy.log_policy(dialogues)


def watched_scenes(setting: Setting) -> Watched | None:
    """A few training and validation scenes with all conversations; None where training does not look at them."""
    config, scenes = setting.config, setting.scenes if setting.config.experiment == "conversation" else None
    evaluated = any(config.training.of(name).evaluations for name in config.training.methods)
    if scenes is None or not evaluated or not setting.is_enumerable:
        return None
    parts = {"train": scenes.train, "eval": scenes.validation}
    return {
        name: [enumerated_scene(setting, scene) for scene in part[: _WATCHED[name]]] for name, part in parts.items()
    }


def _measure(
    environment: DialogueEnvironment, policy: LearnedPolicy, watched: Watched, temperature: float
) -> Callable[[], dict[str, float]]:
    """What the policy makes of the watched scenes, exactly."""
    parts = {name: [scene.at(temperature) for scene in scenes] for name, scenes in watched.items()}

    def measure() -> dict[str, float]:
        found: dict[str, float] = {}
        for name, part in parts.items():
            if part:
                outcome = mean_outcome([each.outcome(policy_log_pf(environment, each.tree, policy)) for each in part])
                for key in ("expected_return", "total_variation"):
                    found[f"{name}_{key}"] = outcome[key] or 0.0
        return found

    return measure


def _facts(run: Run, setting: Setting, seed: int, name: str) -> dict[str, Any]:
    config = run.config
    facts: dict[str, Any] = {
        "task": config.task,
        "method": name,
        "temperature": at_temperature(name, config.training.temperature)[1],
        "seed": seed,
        "data": config.data.source,
        "data_licence": setting.licence,
        "safety": setting.task.safety,
    }
    if config.model.kind == "pretrained":
        base = config.model.name
        facts["language_model"] = str(Path(base).resolve()) if Path(base).is_dir() else base
    return facts
