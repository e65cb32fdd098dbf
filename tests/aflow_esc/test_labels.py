"""Learning from the strategies of recorded dialogues, on a small made-up corpus."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from examples.aflow_esc.config import load_config
from examples.aflow_esc.label_evaluation import _row
from examples.aflow_esc.setting import Setting
from miniature import LABELS, contents, run

from examples.aflow_esc import label_evaluation
from gflowdial.metrics.strategy import accuracy, macro_f1, preference_bias

METHODS = LABELS["training"]["methods"]


@pytest.fixture(scope="module")
def results(labelled: Path) -> dict[str, Any]:
    return json.loads((labelled / "results.json").read_text())


@pytest.fixture(scope="module")
def setting(labelled: Path) -> Setting:
    return Setting(load_config(labelled / "config.yaml"))


def labels(setting: Setting, part: int) -> list[list[int]]:
    return [[setting.inventory.index(str(d.turns[t].strategy)) for t in turns] for d, turns in setting.decisions[part]]


def test_every_row_is_there_with_its_interval(results: dict[str, Any]) -> None:
    assert list(results["rows"]) == ["majority", "random", "lm_prior", *METHODS]
    for row in results["rows"].values():
        assert list(row) == ["accuracy", "macro_f1", "preference_bias"]
        for estimate in row.values():
            assert estimate["low"] <= estimate["high"]
            assert estimate["samples"] == [pytest.approx(estimate["mean"])]


def test_the_majority_row_by_hand(results: dict[str, Any], setting: Setting) -> None:
    train = Counter(label for dialogue in labels(setting, 0) for label in dialogue)
    true = [label for dialogue in labels(setting, 1) for label in dialogue]
    (favourite, most), (_, second) = train.most_common(2)
    assert most > second
    row = results["rows"]["majority"]
    assert row["accuracy"]["mean"] == pytest.approx(true.count(favourite) / len(true))
    assert row["macro_f1"]["mean"] == pytest.approx(macro_f1(true, [favourite] * len(true), len(setting.inventory)))
    assert results["decisions"] == len(true)


def test_the_held_out_dialogues_are_a_fifth(results: dict[str, Any], setting: Setting) -> None:
    assert len(results["held_out_dialogues"]) == 2
    trained_on = {dialogue.scene.id for dialogue, _ in setting.decisions[0]}
    assert trained_on.isdisjoint(results["held_out_dialogues"])
    assert results["problems"] == []


def test_the_run_is_repeatable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, labelled: Path) -> None:
    monkeypatch.setattr(label_evaluation, "_RESAMPLES", 30)
    folder = tmp_path / "run"
    assert run("run", "--config", labelled / "config.yaml", "--output", folder) == 0
    again = contents(folder)
    for name, content in contents(labelled).items():
        if name != "origin.json" and not name.endswith("README.md"):
            assert again[name] == content, name


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
