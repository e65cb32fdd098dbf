"""Learning from the strategies of recorded dialogues, on a small made-up corpus."""

import json
import shutil
from collections import Counter
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
from miniature import LABELS, contents, run

from gflowdial.dialogue import labels as label_evaluation
from gflowdial.dialogue.config import ConfigError
from gflowdial.dialogue.label_baselines import logistic_regression
from gflowdial.dialogue.labels import agreed_outcome, row_of
from gflowdial.dialogue.learning import examples
from gflowdial.dialogue.policies import LearnedPolicy
from gflowdial.dialogue.runs import Run
from gflowdial.dialogue.setting import Setting
from gflowdial.dialogue.values import Dialogue, Scene, Turn
from gflowdial.metrics.strategy import accuracy, macro_f1, preference_bias

METHODS = LABELS["training"]["methods"]
LOGISTIC = [f"logistic_{features}{balanced}" for features in ("moves", "words") for balanced in ("", "_balanced")]


@pytest.fixture(scope="module")
def results(labelled: Path) -> dict[str, Any]:
    return json.loads((labelled / "results.json").read_text())


@pytest.fixture(scope="module")
def setting(labelled: Path) -> Setting:
    return Setting.of(Run.open(labelled))


def labels(setting: Setting, part: str) -> list[list[int]]:
    found = getattr(setting.decisions, part)
    return [[setting.inventory.index(str(d.turns[t].move)) for t in turns] for d, turns in found]


def test_every_row_is_there_with_its_interval(results: dict[str, Any]) -> None:
    learned = [name for method in METHODS for name in (method, f"{method}_balanced")]
    assert list(results["rows"]) == ["majority", "random", *LOGISTIC, "lm_prior", *learned]
    for row in results["rows"].values():
        assert list(row) == ["accuracy", "macro_f1", "preference_bias"]
        for estimate in row.values():
            assert estimate["low"] <= estimate["high"]
            assert estimate["samples"] == [pytest.approx(estimate["mean"])]


def test_the_majority_row_by_hand(results: dict[str, Any], setting: Setting) -> None:
    train = Counter(label for dialogue in labels(setting, "train") for label in dialogue)
    true = [label for dialogue in labels(setting, "held_out") for label in dialogue]
    (favourite, most), (_, second) = train.most_common(2)
    assert most > second
    row = results["rows"]["majority"]
    assert row["accuracy"]["mean"] == pytest.approx(true.count(favourite) / len(true))
    assert row["macro_f1"]["mean"] == pytest.approx(macro_f1(true, [favourite] * len(true), len(setting.inventory)))
    assert results["decisions"] == len(true)


def test_the_held_out_dialogues_are_a_fifth(results: dict[str, Any], setting: Setting) -> None:
    assert len(results["held_out_dialogues"]) == 2
    trained_on = {dialogue.scene.id for dialogue, _ in setting.decisions.train}
    assert trained_on.isdisjoint(results["held_out_dialogues"])
    assert results["problems"] == []


def test_the_run_is_repeatable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, labelled: Path) -> None:
    monkeypatch.setattr(label_evaluation, "_RESAMPLES", 30)
    folder = tmp_path / "run"
    assert run("run", "--config", labelled / "config.yaml", "--output", folder) == 0
    again = contents(folder)
    for name, content in contents(labelled).items():
        if name != "origin.json":
            assert again[name] == content, name


def test_predictions_are_written(labelled: Path, tmp_path: Path, results: dict[str, Any], setting: Setting) -> None:
    folder = shutil.copytree(labelled, tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(label_evaluation, "_RESAMPLES", 30)
        options = ("--name", "again", "--set", "evaluation.write_dialogues=true")
        assert run("evaluate", "--output", folder, *options) == 0
    again = json.loads((folder / "again.json").read_text())
    assert again["rows"] == results["rows"]
    lines = [json.loads(line) for line in (folder / "again.jsonl").read_text().splitlines()]
    true = [setting.inventory.names[label] for dialogue in labels(setting, "held_out") for label in dialogue]
    for name, row in results["rows"].items():
        mine = [line for line in lines if line["policy"] == name]
        assert [line["move"] for line in mine] == true
        assert fmean(line["move"] == line["predicted"] for line in mine) == pytest.approx(row["accuracy"]["mean"])
    assert len(lines) == len(results["rows"]) * len(true)
    assert {line["dialogue"] for line in lines} == set(results["held_out_dialogues"])


def test_the_model_card_names_data_and_results(labelled: Path, corpus: Path, results: dict[str, Any]) -> None:
    for method in METHODS:
        card = (labelled / "seed-0" / "policies" / method / "README.md").read_text()
        assert f"Data: {corpus}; licence: not stated; see where {corpus} is from" in card
        assert "no counsellor, no medical device" in card
        assert f"| accuracy | {results['rows'][method]['accuracy']['mean']:.3f} " in card


def test_the_interval_is_a_bootstrap_over_dialogues() -> None:
    stream = np.random.default_rng(0)
    true = [stream.integers(3, size=4) for _ in range(30)]
    guesses = [[np.where(stream.random(4) < 0.7, labels, 0) for labels in true] for _ in range(2)]
    row = row_of(true, guesses, 3)
    gold, flat = np.concatenate(true), [np.concatenate(guess) for guess in guesses]
    for name, measure in (
        ("accuracy", lambda g: accuracy(gold, g)),
        ("macro_f1", lambda g: macro_f1(gold, g, 3)),
        ("preference_bias", lambda g: preference_bias(gold, g, 3)),
    ):
        assert row[name].samples == pytest.approx([measure(guess) for guess in flat])
        assert row[name].mean == pytest.approx(np.mean(row[name].samples))
        assert row[name].low < row[name].mean < row[name].high
    # The standard error of a mean over dialogues, about 1.96 of which lie on either side.
    per_dialogue = np.mean([[np.mean(g == t) for g, t in zip(guess, true, strict=True)] for guess in guesses], axis=0)
    half = 1.96 * per_dialogue.std(ddof=1) / np.sqrt(len(true))
    assert (row["accuracy"].high - row["accuracy"].low) / 2 == pytest.approx(half, rel=0.15)


def test_a_policy_names_the_model_that_it_is_on(labelled: Path, setting: Setting, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(labelled / "seed-0" / "policies" / "afpo_anchored", moved)
    policy = LearnedPolicy.from_pretrained(moved)
    named = Path(policy.facts["language_model"])
    assert named.is_absolute()
    assert (named / "config.json").is_file()
    dialogue = setting.dialogues.held_out[0]
    prefix = Dialogue(dialogue.scene, dialogue.turns[:1])
    wanted = setting.learned(Run.open(labelled), 0, "afpo_anchored").log_policy([prefix])
    assert np.array_equal(policy.log_policy([prefix]), wanted)


def chat(*moves: str, words: str = "Well.") -> Dialogue:
    turns = [turn for move in moves for turn in (Turn("agent", "So.", move), Turn("partner", words))]
    return Dialogue(Scene("s", words), (Turn("partner", words), *turns))


def test_logistic_regression_sees_two_moves_and_with_words_the_last_turns() -> None:
    by_moves = [chat("A", "B"), chat("B", "A"), chat("A", "A"), chat("B", "B"), chat()] * 9
    labels = np.array([0, 1, 2, 1, 3] * 9)
    classifier = logistic_regression(by_moves, labels)
    assert classifier.predict(by_moves).tolist() == labels.tolist()
    longer = [chat("A", "B", "A", "B"), chat("B", "B", "A", "A")]
    assert classifier.predict(longer).tolist() == [0, 2]
    by_words = [chat("A", words="I am sad"), chat("A", words="I am glad")] * 9
    for words, expected in ((False, 0.5), (True, 1.0)):
        found = logistic_regression(by_words, np.array([0, 1] * 9), words=words).predict(by_words)
        assert np.mean(found == np.array([0, 1] * 9)) == expected


def test_balanced_rows_find_the_rare_move() -> None:
    prefixes = [chat("A")] * 9 + [chat("B")] * 9
    labels = np.array([0] * 9 + [1] * 3 + [0] * 6)
    assert logistic_regression(prefixes, labels).predict(prefixes).tolist() == [0] * 18
    assert logistic_regression(prefixes, labels, balanced=True).predict(prefixes).tolist() == [0] * 9 + [1] * 9


def test_the_balanced_guess_is_the_most_likely_move_over_its_share_in_training(
    labelled: Path, setting: Setting, tmp_path: Path
) -> None:
    folder = shutil.copytree(labelled, tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(label_evaluation, "_RESAMPLES", 30)
        assert run("evaluate", "--output", folder, "--name", "a", "--set", "evaluation.write_dialogues=true") == 0
    lines = [json.loads(line) for line in (folder / "a.jsonl").read_text().splitlines()]
    policy = setting.learned(Run.open(labelled), 0, "behaviour_cloning")
    counts = Counter(label for dialogue in labels(setting, "train") for label in dialogue)
    shares = np.array([max(counts[k] / counts.total(), 1e-9) for k in range(len(setting.inventory))])
    prefixes = [Dialogue(d.scene, d.turns[:t]) for d, turns in setting.decisions.held_out for t in turns]
    best = np.concatenate([(np.exp(policy.log_policy([prefix])) / shares).argmax(1) for prefix in prefixes])
    written = [line["predicted"] for line in lines if line["policy"] == "behaviour_cloning_balanced"]
    assert written == [setting.inventory.names[int(k)] for k in best]


def test_the_outcome_of_dialogues_that_a_policy_agrees_with() -> None:
    true = [np.array([0, 1]), np.array([1, 1]), np.array([2, 2]), np.array([0])]
    outcomes = [1.0, 0.0, 0.5, float("nan")]
    guesses = [np.array([0, 1]), np.array([1, 0]), np.array([0, 0]), np.array([0])]
    assert agreed_outcome(true, guesses, outcomes) == pytest.approx((1.0 * 1 + 0.5 * 0) / 1.5)
    assert agreed_outcome(true, true, outcomes) == pytest.approx(0.5)
    assert agreed_outcome(true, guesses, outcomes, np.array([1, 1, 0])) == pytest.approx(1 / 2)
    assert np.isnan(agreed_outcome(true, guesses, outcomes, np.array([2, 3])))
    row = row_of(true, [guesses], 3, outcomes)
    assert row["agreed_outcome"] is not None
    assert row["agreed_outcome"].mean == pytest.approx(2 / 3)
    assert "agreed_outcome" not in row_of(true, [guesses], 3, [float("nan")] * 4)


def recorded(folder: Path, name: str, count: int) -> Path:
    """A file of dialogues of the official form; those with even numbers are rated."""
    records = []
    for index in range(count):
        strategies = ("Question", "Information", "Others")
        dialog = [{"speaker": "seeker", "annotation": {}, "content": f"{name} {index}, I worry."}]
        for turn in range(3):
            strategy = {"strategy": strategies[(index + turn) % 3]}
            dialog += [{"speaker": "supporter", "annotation": strategy, "content": f"Tell me, {turn}."}]
            dialog += [{"speaker": "seeker", "annotation": {}, "content": "Yes."}]
        rating = {"initial_emotion_intensity": "5", "final_emotion_intensity": str(1 + index % 5)}
        survey = {"survey_score": {"seeker": rating if index % 2 == 0 else {}}}
        records.append({"emotion_type": "fear", "problem_type": "job", "situation": "s", "dialog": dialog, **survey})
    path = folder / f"{name}.json"
    path.write_text(json.dumps(records))
    return path


def of_files(setting: Setting, **sections: Any) -> Setting:
    changes = {key: getattr(setting.config, key).model_copy(update=value) for key, value in sections.items()}
    return Setting(setting.config.model_copy(update=changes))


def test_a_second_file_is_held_out_as_a_whole(setting: Setting, tmp_path: Path) -> None:
    one, two = recorded(tmp_path, "one", 10), recorded(tmp_path, "two", 4)
    both = of_files(setting, data={"source": str(one), "test": str(two), "validation": 0.2})
    assert [len(part) for part in both.dialogues] == [8, 2, 4]
    assert {d.scene.id for d in both.dialogues.held_out} == {f"two-{k}" for k in range(4)}
    again = recorded(tmp_path, "one", 4)
    with pytest.raises(ConfigError, match=r"data\.test: .* names its dialogues as data\.source does"):
        _ = of_files(setting, data={"source": str(one), "test": str(again)}).dialogues


def test_declared_parts_are_kept_and_missing_ones_are_shares(setting: Setting, tmp_path: Path) -> None:
    records = json.loads(recorded(tmp_path, "one", 10).read_text())
    path = tmp_path / "split.json"
    path.write_text(json.dumps({"test": records[:3], "train": records[3:]}))
    found = of_files(setting, data={"source": str(path), "validation": 0.3}).dialogues
    assert [d.scene.id for d in found.held_out] == ["split-0", "split-1", "split-2"]
    assert [len(found.train), len(found.validation)] == [5, 2]


def test_outcomes_are_the_returns_of_the_rated_dialogues(setting: Setting, labelled: Path, tmp_path: Path) -> None:
    path = recorded(tmp_path, "one", 20)
    rated = of_files(setting, data={"source": str(path)}, training={"outcome": True})
    trees = examples(Run(labelled, rated.config), rated, 0)
    assert 5 <= len(trees) < len(rated.dialogues.train)
    for tree in trees:
        index = int(tree.states[0].dialogue.scene.id.split("-")[1])
        assert index % 2 == 0
        assert tree.leaf_return.tolist() == [(5 - (1 + index % 5) + 4) / 8]
    plain = of_files(setting, data={"source": str(path)})
    assert {tree.leaf_return.item() for tree in examples(Run(labelled, plain.config), plain, 0)} == {1.0}


def test_outcomes_that_no_dialogue_has_are_refused(setting: Setting, corpus: Path) -> None:
    with pytest.raises(ConfigError, match=r"training\.outcome: no training dialogue has an outcome"):
        _ = of_files(setting, data={"source": str(corpus)}, training={"outcome": True}).decisions
