"""The second stage: a policy for every seed and method."""

from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import torch

from gflowdial.dialogue.config import ConfigError
from gflowdial.dialogue.environment import DialogueState
from gflowdial.dialogue.jobs import one_of_several, run_jobs
from gflowdial.dialogue.language_models import device_of, train_tiny, train_tokenizer
from gflowdial.dialogue.learning import Watched, examples, method_of, train_policy, watched_scenes
from gflowdial.dialogue.play import Episode, play
from gflowdial.dialogue.policies import PriorPolicy
from gflowdial.dialogue.progress import Report
from gflowdial.dialogue.runs import Run, whole
from gflowdial.dialogue.searching import SeedJob
from gflowdial.dialogue.setting import Setting
from gflowdial.dialogue.values import Scene
from gflowdial.estimators.packing import prefix_lengths
from gflowdial.search import SearchTree


def train_all(run: Run, report: Report) -> None:
    """Train what is not trained yet, ``compute.jobs`` policies at a time.

    Raises:
        ConfigError: there are no labels to learn from, or a prefix is too long.
        RunError: there are no search trees to train on, or not one for every training scene.
        TreeFileError: a file of trees is broken.
    """
    config = run.config
    setting = Setting.of(run)
    policies = [(s, m) for s in config.seeds for m in config.training.methods if not run.policy(s, m).is_dir()]
    watched = None
    # Whatever is wrong with the input shows before the first hour of training, and before anything is written.
    seeds = config.seeds if config.experiment == "conversation" else config.seeds[:1]
    no_tokenizer = config.model.kind == "tiny" and setting.task.tokenizer is None and not setting.own_tokenizer.is_dir()
    if config.experiment == "conversation" or not no_tokenizer:
        watched = _check(run, seeds, lengths=not no_tokenizer, watches=bool(policies) and not no_tokenizer)
    if no_tokenizer:
        whole(setting.own_tokenizer, partial(_train_tokenizer, setting))
        watched = _check(run, seeds, lengths=True, watches=bool(policies))
    # One language model for all seeds, as a pretrained one would be.
    base = [(config.seeds[0], None)] if config.model.kind == "tiny" and not run.base.is_dir() else []
    jobs: list[tuple[int, str | None]] = [*base, *policies]
    # A policy waits for the one that it starts from, or for the language model, where these are not there yet.
    after = dict.fromkeys(range(1, len(jobs)), 0) if base else {}
    starts = [(seed, config.training.of(name).start if name else None) for seed, name in jobs]
    after |= {index: jobs.index(start) for index, start in enumerate(starts) if start[1] and start in jobs}
    report("language model" if base else "policies", 0, len(jobs))
    arguments = [(run.folder, *job) for job in jobs]
    trained = run_jobs(train_one, arguments, config.compute, shared=watched, after=after)
    for done, (index, _) in enumerate(trained, 1):
        seed, name = jobs[index]
        report(f"{name}, seed {seed}" if name else "language model", done, len(jobs))


def check_examples(_: None, folder: Path, seed: int, lengths: bool) -> None:
    """Read what the policies of a seed learn from, and say what is wrong with it; see `train_all`."""
    run = Run.open(folder)
    setting = Setting.of(run)
    found = examples(run, setting, seed)
    if lengths:
        _check_lengths(found, setting)


def watch(_: None, folder: Path) -> Watched | None:
    """See `watched_scenes`."""
    return watched_scenes(Setting.of(Run.open(folder)))


def _check(run: Run, seeds: Sequence[int], *, lengths: bool, watches: bool) -> Watched | None:
    """Check what the policies of all seeds learn from; the watched scenes are made beside it."""
    checks = [(check_examples, run.folder, seed, lengths) for seed in seeds]
    jobs: list[tuple[Any, ...]] = [*([(watch, run.folder)] if watches else []), *checks]
    done: dict[int, Watched | None] = dict(run_jobs(one_of_several, jobs, run.config.compute))
    return done[0]


def train_one(watched: Watched | None, folder: Path, seed: int, name: str | None) -> None:
    """Train a policy of a seed; without a name the language model of all."""
    train_base(None, folder, seed) if name is None else train_policy(watched, folder, seed, name)


def base_job(run: Run) -> SeedJob | None:
    """The training of the small language model, where it can be done now: it needs the tokenizer and no trees."""
    setting = Setting.of(run)
    known = setting.task.tokenizer is not None or setting.own_tokenizer.is_dir()
    return train_base if run.config.model.kind == "tiny" and known and not run.base.is_dir() else None


def train_base(_: None, folder: Path, seed: int) -> None:
    """Train the small language model on transcripts of the prior's own conversations."""
    run = Run.open(folder)
    setting = Setting.of(run)
    model = run.config.model
    assert model.kind == "tiny"
    transcripts = [setting.encoder.transcript(episode.dialogue) for episode in _prior_episodes(setting, seed)]
    device = device_of(run.config.compute)
    whole(run.base, partial(train_tiny, model, setting.encoder.tokenizer, transcripts, seed, device=device))


def _prior_episodes(setting: Setting, seed: int) -> list[Episode]:
    """Conversations of the prior in the training scenes."""
    model = setting.config.model
    assert model.kind == "tiny"
    train = setting.scenes.train
    played = play(setting.environment, PriorPolicy(setting.roles.prior), train, model.transcripts_per_scene, seed)
    return [episode for episodes in played for episode in episodes]


def _train_tokenizer(setting: Setting, folder: Path) -> None:
    """A tokenizer for the words of the task, from conversations of the prior."""
    dialogues = (episode.dialogue for episode in _prior_episodes(setting, setting.config.seeds[0]))
    # Often, so that every name becomes a token.
    names = [setting.task.template.move, *(f" {name}" for name in setting.inventory.names)] * 20
    known = {each.name for each in fields(Scene)}
    own = [each.name for each in fields(setting.task.scene) if each.name not in known]
    values = (getattr(scene, name) for scene in setting.scenes.train for name in own)
    # The words of scenes stand apart, so that scenes which have them in another combination have the same tokens.
    words = {word for value in values if isinstance(value, str) for word in value.split()}
    train_tokenizer([*setting.texts.of(dialogues), *names], words).save_pretrained(folder)


def _check_lengths(found: Sequence[SearchTree[DialogueState]], setting: Setting) -> None:
    training = setting.config.training
    read_leaves = any(method_of(setting, name).read_leaves for name in training.methods)
    for tree in found:
        length = prefix_lengths(tree.forest.parent.tolist(), setting.encoder.tree_tokens(tree))
        read = torch.ones_like(tree.ended) if read_leaves else tree.forest.num_children > 0
        needed = max((n for n, is_read in zip(length, read.tolist(), strict=True) if is_read), default=0)
        needed += len(setting.encoder.branch)
        if needed > training.max_tokens:
            raise ConfigError(
                f"training.max_tokens: a prefix to be read has {needed} tokens, more than {training.max_tokens}; "
                "raise it, or make the dialogues shorter"
            )
