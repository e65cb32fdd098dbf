"""How well policies predict the moves that people chose in held-out dialogues, gold history given."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gflowdial.dialogue.policies import LearnedPolicy
from gflowdial.dialogue.progress import Report
from gflowdial.dialogue.report import Estimate, Evaluated
from gflowdial.dialogue.runs import Run
from gflowdial.dialogue.setting import Setting
from gflowdial.dialogue.values import Dialogue
from gflowdial.metrics.strategy import accuracy, macro_f1, preference_bias

_RESAMPLES = 1000

Labels = list[NDArray[np.int64]]
"""The actions of every dialogue."""


def evaluate(run: Run, setting: Setting, report: Report) -> Evaluated:
    """The label table, with single predictions."""
    config = setting.config
    parts = setting.dialogues
    train, held_out = ([_gold(setting, dialogue) for dialogue in part] for part in (parts.train, parts.held_out))
    kept = [index for index, labels in enumerate(held_out) if len(labels)]
    dialogues = [parts.held_out[index] for index in kept]
    true = [held_out[index] for index in kept]
    predictions: dict[str, list[Labels]] = {
        "majority": [[np.full_like(labels, _majority(train)) for labels in true]],
        "random": [_random(true, len(setting.inventory), seed) for seed in config.seeds],
        "lm_prior": [],
        **{method: [] for method in config.training.methods},
    }
    # The language model as it is does not depend on the seed.
    cells = [("lm_prior", config.seeds[0]), *((m, s) for m in config.training.methods for s in config.seeds)]
    for done, (name, seed) in enumerate(cells):
        report(f"{name}, seed {seed}", done, len(cells))
        if name == "lm_prior":
            policy = LearnedPolicy(setting.untrained(run, seed).model.eval(), setting.encoder, reference=True)
        else:
            policy = setting.learned(run, seed, name)
        predictions[name].append([_predict(setting, policy, dialogue) for dialogue in dialogues])
    report("done", len(cells), len(cells))
    rows = {name: _row(true, by_seed, len(setting.inventory)) for name, by_seed in predictions.items()}
    decisions = sum(map(len, true))
    title = f"{decisions} moves of people in {len(true)} held-out dialogues ({len(train)} for training)"
    caption = (
        f"Gold history; a turn of several utterances has its first label. ± spans the 95% bootstrap interval over "
        f"dialogues ({_RESAMPLES} resamples), means over {len(config.seeds)} seed(s)."
    )
    assert setting.corpus is not None
    names = setting.inventory.names
    facts = {
        "experiment": "labels",
        "decisions": decisions,
        **setting.corpus.facts,
        "held_out_dialogues": [dialogue.scene.id for dialogue in dialogues],
        "decisions_too_long": {
            name: sum(setting.encoder.too_long(dialogue, config.data.max_turns) for dialogue in part)
            for name, part in (("training", parts.train), ("held_out", parts.held_out))
        },
        "problems": [str(problem) for problem in setting.corpus.problems],
        "temperature": config.training.temperature,
        "interval": "bootstrap over dialogues, 95%",
        "metrics": "scikit-learn accuracy_score and f1_score; preference bias of arXiv 2402.13211",
    }
    written = [
        {"policy": name, "repeat": repeat, "dialogue": dialogue.scene.id, "move": names[a], "predicted": names[b]}
        for name, repeats in predictions.items()
        for repeat, by_dialogue in enumerate(repeats)
        for dialogue, gold, found in zip(dialogues, true, by_dialogue, strict=True)
        for a, b in zip(gold.tolist(), found.tolist(), strict=True)
    ]
    return Evaluated(rows, title, caption, facts, written)


def _gold(setting: Setting, dialogue: Dialogue) -> NDArray[np.int64]:
    turns = setting.encoder.decisions(dialogue, setting.config.data.max_turns)
    return np.array([setting.inventory.index(dialogue.turns[turn].move or "") for turn in turns], dtype=np.int64)


def _predict(setting: Setting, policy: LearnedPolicy, dialogue: Dialogue) -> NDArray[np.int64]:
    turns = setting.encoder.decisions(dialogue, setting.config.data.max_turns)
    prefixes = [Dialogue(dialogue.scene, dialogue.turns[:turn]) for turn in turns]
    best: NDArray[np.int64] = policy.log_policy(prefixes).argmax(axis=1)
    return best


def _majority(labels: Sequence[NDArray[np.int64]]) -> int:
    return int(np.bincount(np.concatenate(labels)).argmax())


def _random(true: Labels, num_actions: int, seed: int) -> Labels:
    stream = np.random.default_rng(seed)
    return [stream.integers(num_actions, size=len(labels)) for labels in true]


def _row(true: Labels, by_seed: Sequence[Labels], num_actions: int) -> dict[str, Estimate | None]:
    """Every measure with its bootstrap interval: dialogues are drawn with replacement, the same for all seeds."""
    stream = np.random.default_rng(0)
    draws = [np.arange(len(true)), *stream.integers(len(true), size=(_RESAMPLES, len(true)))]
    values = np.array([_measures(true, by_seed, draw, num_actions) for draw in draws])
    low, high = np.quantile(values[1:], [0.025, 0.975], axis=0)
    samples = [_measures(true, [labels], draws[0], num_actions) for labels in by_seed]
    return {
        name: Estimate(values[0, k], low[k], high[k], tuple(sample[k] for sample in samples))
        for k, name in enumerate(("accuracy", "macro_f1", "preference_bias"))
    }


def _measures(
    true: Labels, by_seed: Sequence[Labels], draw: NDArray[np.int64], num_actions: int
) -> tuple[float, float, float]:
    gold = np.concatenate([true[index] for index in draw])
    guesses = [np.concatenate([labels[index] for index in draw]) for labels in by_seed]
    return (
        float(np.mean([accuracy(gold, guess) for guess in guesses])),
        float(np.mean([macro_f1(gold, guess, num_actions) for guess in guesses])),
        float(np.mean([preference_bias(gold, guess, num_actions) for guess in guesses])),
    )
