"""The whole line in miniature: the same seeds give the same files, also when it was killed on the way."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from miniature import SETTINGS, config_file, contents, run

from gflowdial.dialogue.evaluation import row_names
from gflowdial.dialogue.runs import Run
from gflowdial.dialogue.searching import read_run_trees
from gflowdial.dialogue.setting import Setting
from gflowdial.training.trainer import FlowTrainer

METHODS = SETTINGS["training"]["methods"]
RESULTS = ("results.json", "results.txt", "seed-0/trees.jsonl", "seed-1/trees.jsonl")


@pytest.fixture(scope="module")
def results(finished: Path) -> dict[str, Any]:
    return json.loads((finished / "results.json").read_text())


def assert_same(folder: Path, finished: Path) -> None:
    for name in RESULTS:
        assert (folder / name).read_bytes() == (finished / name).read_bytes(), name
    weights = [path.relative_to(finished) for path in finished.rglob("*.safetensors")]
    # Two seeds, each with a language model, and for each method an adapter, heads, and the language model once more.
    assert len(weights) == 1 + 2 * 3 * len(METHODS)
    for path in weights:
        assert (folder / path).read_bytes() == (finished / path).read_bytes(), path


def test_the_same_seeds_give_the_same_files(tmp_path: Path, finished: Path) -> None:
    config = config_file(tmp_path)
    folder = tmp_path / "run"
    for command in (("search", "--config", config), ("train",), ("evaluate",)):
        assert run(*command, "--output", folder) == 0
    assert_same(folder, finished)


def test_a_run_killed_after_the_search_goes_on(tmp_path: Path, finished: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder, ignore=shutil.ignore_patterns("results*", "policies", "language_model"))
    # The search itself was killed while it wrote the second seed.
    trees = folder / "seed-1" / "trees.jsonl"
    trees.write_bytes(trees.read_bytes()[:-100])
    assert run("run", "--config", config_file(tmp_path), "--output", folder, "--resume") == 0
    assert_same(folder, finished)


@pytest.mark.parametrize("trained", [0, 2])
def test_a_run_killed_in_training_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, finished: Path, trained: int
) -> None:
    train, calls = FlowTrainer.train, []

    def killed(self: FlowTrainer, *arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) > trained:
            raise KeyboardInterrupt
        return train(self, *arguments, **options)

    config, folder = config_file(tmp_path), tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(FlowTrainer, "train", killed)
        assert run("run", "--config", config, "--output", folder) == 130
    assert len(list(folder.rglob("policies/[!.]*/policy.json"))) == trained
    assert run("run", "--config", config, "--output", folder, "--resume") == 0
    assert_same(folder, finished)


def test_a_finished_stage_changes_nothing_when_it_is_run_again(tmp_path: Path, finished: Path) -> None:
    config = config_file(tmp_path)
    before = contents(finished)
    assert run("search", "--config", config, "--output", finished, "--resume") == 0
    assert run("train", "--output", finished) == 0
    assert contents(finished) == before


def test_every_row_is_there_with_its_interval(finished: Path, results: dict[str, Any]) -> None:
    rows = results["rows"]
    learned = [row for method in METHODS for row in (method, f"{method}_greedy")]
    exact = ["exact_flow", "exact_flow_greedy", "best"]
    assert list(rows) == ["uniform", "lm_prior", "mcts_4", "mcts_8", *learned, *exact]
    assert list(rows) == row_names(Setting.of(Run.open(finished)))
    # Search learns nothing from the training scenes.
    assert list(results["training_rows"]) == [name for name in rows if not name.startswith("mcts")]
    measures = ["expected_return", "success", "left", "turns", "entropy", "total_variation", "kl"]
    measures += ["good_conversations", "certificate", "environment_steps"]
    for name, row in [*rows.items(), *results["training_rows"].items()]:
        assert list(row) == measures
        for measure, estimate in row.items():
            played = name.startswith("mcts") and measure in (
                "total_variation",
                "kl",
                "good_conversations",
                "certificate",
            )
            infinite = (name.endswith("greedy") or name == "best") and measure in ("kl", "certificate")
            if played or infinite:
                assert estimate is None
            elif name in ("uniform", "lm_prior", *exact):
                assert estimate["low"] is estimate["high"] is None
                assert estimate["samples"] == [estimate["mean"]]
            else:
                assert estimate["low"] <= estimate["mean"] <= estimate["high"]
                assert len(estimate["samples"]) == len(results["seeds"])


def test_the_exact_flow_is_the_ceiling_of_distance(results: dict[str, Any]) -> None:
    for rows in results["rows"], results["training_rows"]:
        distance = {name: row["total_variation"] for name, row in rows.items() if row["total_variation"]}
        assert distance["exact_flow"]["mean"] == pytest.approx(0, abs=1e-12)
        assert all(estimate["mean"] > 0.05 for name, estimate in distance.items() if name != "exact_flow")
        for name, row in rows.items():
            if row["certificate"]:
                assert row["total_variation"]["mean"] <= row["certificate"]["mean"] + 1e-12, name
            assert row["expected_return"]["mean"] <= rows["best"]["expected_return"]["mean"] + 1e-12


def test_steps_of_search_are_counted(results: dict[str, Any]) -> None:
    steps = {name: row["environment_steps"]["mean"] for name, row in results["rows"].items()}
    assert 0 < steps.pop("mcts_4") < steps.pop("mcts_8")
    assert set(steps.values()) == {0.0}


def test_training_moves_the_policy(results: dict[str, Any]) -> None:
    returns = {name: row["expected_return"]["samples"] for name, row in results["rows"].items()}
    for method in METHODS:
        assert returns[method] != returns["lm_prior"]


def test_no_scene_stands_on_both_sides(finished: Path, results: dict[str, Any]) -> None:
    run = Run.open(finished)
    searched = {tree.states[0].dialogue.scene.id for tree in read_run_trees(run, Setting.of(run), 0)}
    held_out = set(results["held_out_scenes"])
    assert searched.isdisjoint(held_out)
    assert len(searched | held_out) == SETTINGS["data"]["limit"]


def test_the_target_is_reported(finished: Path, results: dict[str, Any]) -> None:
    assert results["temperature"] == 0.1
    untried = {method: objective["untried"] for method, objective in results["objectives"].items()}
    # Behaviour cloning is normalised over all strategies, whatever was tried.
    assert untried == {"behaviour_cloning": "free", "afpo_anchored": "free"}
    assert results["training"] == Run.open(finished).config.training.model_dump(mode="json")
    assert "95%" in results["interval"]


@pytest.mark.slow
def test_two_jobs_at_once_give_the_same_results(tmp_path: Path, finished: Path) -> None:
    config = config_file(tmp_path, compute={"jobs": 2, "threads": 1})
    assert run("run", "--config", config, "--output", tmp_path / "run") == 0
    assert_same(tmp_path / "run", finished)
    # An evaluation's own settings reach the jobs: in another precision the policies are a little different.
    options = ("--name", "again", "--set", "compute.dtype=bfloat16", "--set", "evaluation.search_simulations=[]")
    assert run("evaluate", "--output", tmp_path / "run", *options) == 0
    rows = [json.loads((tmp_path / "run" / f"{name}.json").read_text())["rows"] for name in ("results", "again")]
    for name in METHODS:
        first, again = (row[name]["entropy"]["samples"] for row in rows)
        assert first != again
        assert first == pytest.approx(again, rel=0.01)
    assert rows[0]["exact_flow"] == rows[1]["exact_flow"]


def test_values_of_single_scenes_stand_in_the_results(results: dict[str, Any]) -> None:
    for name, by_seed in results["by_scene"].items():
        assert list(by_seed) == (
            ["0"] if name in ("uniform", "lm_prior", "exact_flow", "exact_flow_greedy", "best") else ["0", "1"]
        )
        for measure, estimate in results["rows"][name].items():
            means = [np.mean([scene[measure] for scene in scenes]) for scenes in by_seed.values() if estimate]
            assert (estimate["samples"] if estimate else []) == pytest.approx(means)
            assert all(len(scenes) == len(results["held_out_scenes"]) for scenes in by_seed.values())
