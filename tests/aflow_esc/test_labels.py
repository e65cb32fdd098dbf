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
from gflowdial.dialogue.labels import _row
from gflowdial.dialogue.policies import LearnedPolicy
from gflowdial.dialogue.runs import Run
from gflowdial.dialogue.setting import Setting
from gflowdial.dialogue.values import Dialogue
from gflowdial.metrics.strategy import accuracy, macro_f1, preference_bias

METHODS = LABELS["training"]["methods"]


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
    assert list(results["rows"]) == ["majority", "random", "lm_prior", *METHODS]
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
    row = _row(true, guesses, 3)
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
