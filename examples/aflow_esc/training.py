"""The second stage: a policy for every seed and method."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from transformers import PrinterCallback, set_seed

from examples.aflow_esc.config import ConfigError, Method
from examples.aflow_esc.jobs import run_jobs
from examples.aflow_esc.language_models import train_tiny
from examples.aflow_esc.methods import objective
from examples.aflow_esc.play import play
from examples.aflow_esc.policies import PriorPolicy
from examples.aflow_esc.progress import Report
from examples.aflow_esc.runs import Run, RunError
from examples.aflow_esc.setting import Setting
from examples.aflow_esc.trees import TreeRecord, read
from gflowdial.training.trainer import FlowTrainer, FlowTrainingArguments
from gflowdial.training.trees import TreeExample


def train_all(run: Run, report: Report) -> None:
    """Train what is not trained yet, ``compute.jobs`` policies at a time.

    Raises:
        ConfigError: there are no labels to learn from, or a prefix is too long.
        RunError: there are no search trees to train on, or not one for every training scene.
        TreeFileError: a file of trees is broken.
    """
    config = run.config
    setting = Setting(config)
    # Whatever is wrong with the input shows before the first hour of training, and before anything is written.
    for seed in config.seeds if config.experiment == "conversation" else config.seeds[:1]:
        _check_lengths(examples(run, setting, seed), setting)
    bases = [seed for seed in config.seeds if config.model.kind == "tiny" and not run.base(seed).is_dir()]
    policies = [(s, m) for s in config.seeds for m in config.training.methods if not run.policy(s, m).is_dir()]
    total = len(bases) + len(policies)
    done = 0
    report("language model" if bases else "policies", done, total)
    for index, _ in run_jobs(train_base, [(run.folder, seed) for seed in bases], config.compute):
        done += 1
        report(f"language model, seed {bases[index]}", done, total)
    for index, _ in run_jobs(train_policy, [(run.folder, *policy) for policy in policies], config.compute):
        done += 1
        seed, method = policies[index]
        report(f"{method}, seed {seed}", done, total)


def train_base(folder: Path, seed: int) -> None:
    """Train the small language model of a seed on transcripts of the prior's own conversations."""
    run = Run.open(folder)
    setting = Setting(run.config)
    model = run.config.model
    assert model.kind == "tiny"
    train, _ = setting.scenes
    played = play(setting.environment, PriorPolicy(setting.roles.prior), train, model.transcripts_per_scene, seed)
    transcripts = [setting.encoder.transcript(episode.dialogue) for episodes in played for episode in episodes]
    _whole(run.base(seed), partial(train_tiny, model, setting.encoder.tokenizer, transcripts, seed))


def train_policy(folder: Path, seed: int, method: Method) -> None:
    """Train and save one policy."""
    run = Run.open(folder)
    setting = Setting(run.config)
    training = run.config.training
    set_seed(seed)
    policy = setting.untrained(run, seed)
    trainer = FlowTrainer(
        policy,
        FlowTrainingArguments(
            # The parent makes this folder at once; the policy's own appears when it is trained.
            output_dir=str(_partial(run.policy(seed, method))),
            num_train_epochs=training.epochs,
            per_device_train_batch_size=training.batch_size,
            learning_rate=training.learning_rate,
            head_learning_rate=training.head_learning_rate,
            tokens_per_pass=training.tokens_per_pass,
            lr_scheduler_type="cosine",
            warmup_steps=5.0,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=run.config.compute.jobs > 1 or run.config.model.kind == "tiny",
            use_cpu=not torch.cuda.is_available(),
            seed=seed,
        ),
        objective(method, training),
        examples(run, setting, seed),
        branch=setting.encoder.branch,
    )
    # The parent prints its summary where its own bar is off; the stage has a bar already.
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    _whole(run.policy(seed, method), policy.save_pretrained)


def examples(run: Run, setting: Setting, seed: int) -> list[TreeExample]:
    """What the policies of a seed learn from: its search trees, or recorded dialogues; see `train_all` for errors."""
    if run.config.experiment == "conversation":
        return [setting.encoder.example(record) for record in _trees(run, setting, seed)]
    train, _ = setting.decisions
    return [setting.encoder.recorded_example(dialogue, turns) for dialogue, turns in train]


def _trees(run: Run, setting: Setting, seed: int) -> list[TreeRecord]:
    path = run.trees(seed)
    if not path.is_file():
        raise RunError(f"{path} is missing: search first")
    records = read(path)
    train, _ = setting.scenes
    if [record.scene for record in records] != train:
        raise RunError(
            f"{path} holds {len(records)} trees, not one for each of the {len(train)} training scenes in their order: "
            "finish the search with --resume"
        )
    return records


def _check_lengths(found: Sequence[TreeExample], setting: Setting) -> None:
    training = setting.config.training
    read_leaves = any(objective(method, training).reads_leaves for method in training.methods)
    for example in found:
        length: list[int] = []
        for above, tokens in zip(example.parent, example.tokens, strict=True):
            length.append(len(tokens) + (length[above] if above >= 0 else 0))
        read = [n for n, leaf in zip(length, example.is_leaf(), strict=True) if read_leaves or not leaf]
        needed = max(read, default=0) + len(setting.encoder.branch)
        if needed > training.max_tokens:
            raise ConfigError(
                f"training.max_tokens: a prefix to be read has {needed} tokens, more than {training.max_tokens}; "
                "raise it, or make the dialogues shorter"
            )


def _whole(folder: Path, save: Callable[[Path], None]) -> None:
    """Save into a folder that appears when it is complete, so that a killed run leaves no half of one."""
    save(_partial(folder))
    _partial(folder).rename(folder)


def _partial(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.partial")
