"""How well policies predict the moves that people chose in held-out dialogues, gold history given."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gflowdial.dialogue.label_baselines import logistic_regression
from gflowdial.dialogue.policies import LearnedPolicy
from gflowdial.dialogue.progress import Report
from gflowdial.dialogue.report import Estimate, Evaluated
from gflowdial.dialogue.runs import Run
from gflowdial.dialogue.setting import Setting
from gflowdial.dialogue.values import Dialogue
from gflowdial.metrics.strategy import measures_of_confusions

_RESAMPLES = 1000

Labels = list[NDArray[np.int64]]
"""The actions of every dialogue."""


def evaluate(run: Run, setting: Setting, report: Report) -> Evaluated:
    """Rows, title, caption, facts and single predictions of the label table."""
    config = setting.config
    parts, decided = setting.dialogues, setting.decisions
    dialogues = [dialogue for dialogue, _ in decided.held_out]
    true, simple = simple_predictions(setting)
    predictions: dict[str, list[Labels]] = {**simple, "lm_prior": []}
    # The language model as it is does not depend on the seed.
    cells = [("lm_prior", config.seeds[0]), *((m, s) for m in config.training.methods for s in config.seeds)]
    for done, (name, seed) in enumerate(cells):
        report(f"{name}, seed {seed}", done, len(cells))
        if name == "lm_prior":
            policy = LearnedPolicy(setting.untrained(run).model.eval(), setting.encoder, reference=True)
        else:
            policy = setting.learned(run, seed, name)
        found = [policy.log_policy(_prefixes([each])) for each in decided.held_out]
        predictions.setdefault(name, []).append([log_policy.argmax(axis=1) for log_policy in found])
        if name != "lm_prior":
            predictions.setdefault(f"{name}_balanced", []).append(balanced_guesses(setting, found))
    report("done", len(cells), len(cells))
    outcomes = [setting.outcomes.get(dialogue.scene.id, np.nan) for dialogue in dialogues]
    rows = {name: row_of(true, by_seed, len(setting.inventory), outcomes) for name, by_seed in predictions.items()}
    decisions = sum(map(len, true))
    title = f"{decisions} moves of people in {len(true)} held-out dialogues ({len(decided.train)} for training)"
    caption = (
        f"Gold history; a turn of several utterances has its first label. ± spans the 95% bootstrap interval over "
        f"dialogues ({_RESAMPLES} resamples), means over {len(config.seeds)} seed(s). logistic: scikit-learn's "
        f"logistic regression on the previous two moves, with words also on the last two turns. balanced: as if each "
        f"move were equally frequent. {_learned_from(setting)}"
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
        "held_out_words_in_training": len(_words(parts.held_out) & _words(parts.train)),
        "rated_dialogues": int(np.isfinite(outcomes).sum()),
        "problems": [str(p) for corpus in (setting.corpus, setting.test_corpus) if corpus for p in corpus.problems],
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


def _learned_from(setting: Setting) -> str:
    """What the methods' objective holds, in one sentence."""
    if setting.config.training.outcome:
        return "The return of a recorded dialogue is its rated outcome; behaviour cloning does not see it."
    return "The methods see labels alone, no outcome: behaviour cloning is cross-entropy to what people chose."


def _words(dialogues: Sequence[Dialogue]) -> set[tuple[str, ...]]:
    """What is said in each dialogue, to find the same one in two parts."""
    return {tuple(turn.text for turn in dialogue.turns) for dialogue in dialogues}


def _gold(setting: Setting, dialogue: Dialogue, turns: Sequence[int]) -> NDArray[np.int64]:
    return np.array([setting.inventory.index(dialogue.turns[turn].move or "") for turn in turns], dtype=np.int64)


def _prefixes(decided: Sequence[tuple[Dialogue, list[int]]]) -> list[Dialogue]:
    return [Dialogue(dialogue.scene, dialogue.turns[:turn]) for dialogue, turns in decided for turn in turns]


def simple_predictions(setting: Setting) -> tuple[Labels, dict[str, list[Labels]]]:
    """People's moves in the held-out dialogues, and by row what is predicted of them without a language model.

    Logistic regression is left out where all training labels are alike.
    """
    decided, num_actions = setting.decisions, len(setting.inventory)
    labels = np.concatenate([_gold(setting, *each) for each in decided.train])
    true = [_gold(setting, *each) for each in decided.held_out]
    found: dict[str, list[Labels]] = {
        "majority": [[np.full_like(gold, np.bincount(labels).argmax()) for gold in true]],
        "random": [_random(true, num_actions, seed) for seed in setting.config.seeds],
    }
    if len(set(labels.tolist())) < 2:
        return true, found
    prefixes, asked = _prefixes(decided.train), _prefixes(decided.held_out)
    ends = np.cumsum([len(each) for each in true])[:-1]
    for words in (False, True):
        for balanced in (False, True):
            name = f"logistic_{'words' if words else 'moves'}{'_balanced' if balanced else ''}"
            classifier = logistic_regression(prefixes, labels, words=words, balanced=balanced)
            found[name] = [np.split(classifier.predict(asked), ends)]
    return true, found


def balanced_guesses(setting: Setting, log_policy: Sequence[NDArray[np.float64]]) -> Labels:
    """The best guesses where each move counts alike, as macro-F1 counts them: argmax of π(a|s) over the share of a.

    The share is that among the training moves. The policy itself stays the distribution of people's moves, which class
    weights in its training would distort.

    Args:
        setting: of the run.
        log_policy: log π at the moves of each dialogue, ``[moves, actions]``.

    Source: logit adjustment, Menon et al., arXiv 2007.07314.
    """
    labels = np.concatenate([_gold(setting, *each) for each in setting.decisions.train])
    shares = np.bincount(labels, minlength=len(setting.inventory)) / len(labels)
    return [(found - np.log(np.maximum(shares, 1e-9))).argmax(axis=1) for found in log_policy]


def _random(true: Labels, num_actions: int, seed: int) -> Labels:
    stream = np.random.default_rng(seed)
    return [stream.integers(num_actions, size=len(labels)) for labels in true]


def row_of(
    true: Labels, by_seed: Sequence[Labels], num_actions: int, outcomes: Sequence[float] = ()
) -> dict[str, Estimate | None]:
    """Every measure with its bootstrap interval: dialogues are drawn with replacement, the same for all seeds."""
    stream = np.random.default_rng(0)
    draws = np.array([np.arange(len(true)), *stream.integers(len(true), size=(_RESAMPLES, len(true)))])
    times_drawn = np.array([np.bincount(draw, minlength=len(true)) for draw in draws])
    confusions = np.zeros((len(by_seed), len(true), num_actions, num_actions), dtype=np.int64)
    for seed, guesses in enumerate(by_seed):
        for dialogue, (gold, guess) in enumerate(zip(true, guesses, strict=True)):
            np.add.at(confusions[seed, dialogue], (gold, guess), 1)
    values = measures_of_confusions(np.einsum("nd,sdij->nsij", times_drawn, confusions))
    if np.isfinite(outcomes).any():
        agreed = [[agreed_outcome(true, guesses, outcomes, draw) for guesses in by_seed] for draw in draws]
        values = np.concatenate([values, np.array(agreed)[..., None]], axis=-1)
    means = values.mean(axis=1)
    low, high = np.nanquantile(means[1:], [0.025, 0.975], axis=0)
    names = ("accuracy", "macro_f1", "preference_bias", "agreed_outcome")[: values.shape[2]]
    return {
        name: Estimate(means[0, k], low[k], high[k], tuple(values[0, :, k].tolist())) for k, name in enumerate(names)
    }


def agreed_outcome(
    true: Labels, predicted: Labels, outcomes: Sequence[float], draw: NDArray[np.int64] | None = None
) -> float:
    """The mean outcome of dialogues, each weighted by the share of its moves that are those predicted.

    ``Σ_d w_d o_d / Σ_d w_d`` over the rated dialogues; a policy that agrees with all people alike has their mean
    outcome. It is an association, not the value of the policy: a dialogue that goes well for other reasons, and in
    which people choose moves that are easy to predict, raises it. The importance-weighted value would need the
    probability with which people chose their moves, and has a few dialogues' weight at this length.

    Args:
        true: people's moves, by dialogue.
        predicted: the policy's.
        outcomes: of each dialogue; NaN where it is not rated.
        draw: which dialogues count, perhaps several times; None: all once.
    """
    weights = np.array([np.mean(gold == guess) for gold, guess in zip(true, predicted, strict=True)])
    weights = np.where(np.isfinite(outcomes), weights, 0.0)
    weighted = weights * np.nan_to_num(outcomes)
    drawn = np.arange(len(true)) if draw is None else draw
    total = float(weights[drawn].sum())
    return float(weighted[drawn].sum() / total) if total > 0 else float("nan")
