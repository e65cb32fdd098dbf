"""The tasks of one file, end to end from a folder that holds nothing else: every stage, alone and again."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
from one_file_tasks import METHODS, TASKS, folder_of, run, settings
from refusals import contents, refused, settings_file

from gflowdial.dialogue.roles import CONTINUES
from gflowdial.dialogue.runs import Run
from gflowdial.dialogue.setting import Setting
from gflowdial.dialogue.values import Dialogue
from gflowdial.search import read_trees_file
from gflowdial.training.trainer import FlowTrainer

EXACT = ("exact_flow", "exact_flow_greedy", "best")
OF_DISTRIBUTIONS = ("total_variation", "kl", "good_conversations", "certificate")


@pytest.fixture(params=TASKS, scope="module")
def task(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def home(task: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working directory: a task's file, its settings, and a finished run."""
    with folder_of(task, tmp_path_factory.mktemp(task)) as folder:
        settings_file(folder, settings(task))
        assert {path.name for path in folder.iterdir()} == {f"{task}.py", "mini.yaml"}
        assert run("run", "--config", "mini.yaml", "--task", f"{task}:TASK", "--output", "finished") == 0
        yield folder


@pytest.fixture
def finished(home: Path) -> Path:
    return home / "finished"


@pytest.fixture
def results(finished: Path) -> dict[str, Any]:
    return json.loads((finished / "results.json").read_text())


@pytest.fixture
def begin(task: str, tmp_path: Path) -> tuple[object, ...]:
    """The options that begin the same run in another folder."""
    return ("--config", "mini.yaml", "--task", f"{task}:TASK", "--output", tmp_path / "run")


def assert_same(folder: Path, finished: Path) -> None:
    """Every file of a run is that of another, but for the time and the machine."""
    found, expected = contents(folder), contents(finished)
    assert found.keys() == expected.keys()
    for name, content in expected.items():
        assert found[name] == content, name


@pytest.mark.slow
def test_the_same_seeds_give_the_same_files_stage_by_stage(
    finished: Path, tmp_path: Path, begin: tuple[object, ...]
) -> None:
    assert run("search", *begin) == 0
    assert run("train", "--output", tmp_path / "run") == 0
    assert run("evaluate", "--output", tmp_path / "run") == 0
    assert_same(tmp_path / "run", finished)


@pytest.mark.slow
@pytest.mark.parametrize("trained", [0, 3])
def test_a_killed_run_goes_on(
    finished: Path,
    tmp_path: Path,
    begin: tuple[object, ...],
    monkeypatch: pytest.MonkeyPatch,
    trained: int,
) -> None:
    train, calls = FlowTrainer.train, []

    def killed(self: FlowTrainer, *arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) > trained:
            raise KeyboardInterrupt
        return train(self, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(FlowTrainer, "train", killed)
        assert run("run", *begin) == 130
    if not trained:
        # The search itself was killed while it wrote the second seed, before there was a tokenizer.
        trees = tmp_path / "run" / "seed-1" / "trees.jsonl"
        trees.write_bytes(trees.read_bytes()[:-100])
        for folder in ("tokenizer", "language_model"):
            shutil.rmtree(tmp_path / "run" / folder)
    assert run("run", *begin, "--resume") == 0
    for partial in (tmp_path / "run").rglob(".*.partial"):
        shutil.rmtree(partial)
    assert_same(tmp_path / "run", finished)


def test_a_finished_stage_changes_nothing_when_it_is_run_again(finished: Path, task: str) -> None:
    before = contents(finished)
    begin = ("--config", "mini.yaml", "--task", f"{task}:TASK", "--output", "finished", "--resume")
    assert run("search", *begin) == 0
    assert run("train", *begin) == 0
    assert run("train", "--output", "finished") == 0
    assert contents(finished) == before


def test_training_before_the_search_writes_nothing(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("config.yaml", "origin.json"):
        shutil.copy(finished / name, tmp_path)
    refused(capsys, tmp_path, "is missing: search first", lambda: run("train", "--output", tmp_path))


def sampled_and_greedy(methods: Sequence[str]) -> list[str]:
    return [row for method in methods for row in (method, f"{method}_greedy")]


def test_every_policy_stands_beside_the_exact_flow(task: str, results: dict[str, Any]) -> None:
    rows = results["rows"]
    assert list(rows) == ["uniform", "lm_prior", "mcts_4", *sampled_and_greedy(METHODS[task]), *EXACT]
    ends = {"haggling": ["deal", "no deal"], "tutoring": ["mastered"]}[task]
    for name, row in rows.items():
        assert list(row) == ["expected_return", *ends, "turns", "entropy", *OF_DISTRIBUTIONS, "environment_steps"]
        if name == "mcts_4":
            assert all(row[measure] is None for measure in OF_DISTRIBUTIONS)
        else:
            assert 0 <= row["expected_return"]["mean"] <= 1
            assert all(0 <= row[end]["mean"] <= 1 for end in ends)
    assert rows["exact_flow"]["total_variation"]["mean"] == pytest.approx(0, abs=1e-12)
    assert rows["exact_flow"]["expected_return"]["mean"] > rows["uniform"]["expected_return"]["mean"]
    for method in METHODS[task]:
        assert rows[method]["total_variation"]["mean"] > 1e-3
        assert rows[method]["expected_return"]["samples"] != rows["lm_prior"]["expected_return"]["samples"]


def test_values_of_single_scenes_stand_in_the_results(results: dict[str, Any]) -> None:
    scenes, rows = results["held_out_scenes"], results["rows"]
    assert results["by_scene"].keys() == rows.keys()
    for name, by_seed in results["by_scene"].items():
        assert list(by_seed) == (["0"] if name in ("uniform", "lm_prior", *EXACT) else ["0", "1"])
        for measure, estimate in rows[name].items():
            if estimate is not None:
                assert all(len(values) == len(scenes) for values in by_seed.values())
                means = [fmean(scene[measure] for scene in values) for values in by_seed.values()]
                assert estimate["samples"] == pytest.approx(means)


def test_forbidden_moves_are_never_in_a_tree(task: str, finished: Path) -> None:
    if task == "haggling":
        lines = (finished / "seed-0" / "trees.jsonl").read_text().splitlines()
        moves = [turn[2] for line in lines for state in json.loads(line)["state"] for turn in state["turns"]]
        assert "Ask" in moves
        for tree in read_trees_file(finished / "seed-0" / "trees.jsonl", lambda values, _: values):
            assert (tree.tree.log_prior[0] == -np.inf).sum() == 1


def test_an_evaluation_with_other_settings_stands_beside_the_first(
    task: str, finished: Path, tmp_path: Path, results: dict[str, Any]
) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    before = contents(folder)
    options = ("--set", "evaluation.episodes=3", "--set", "evaluation.write_dialogues=true")
    assert run("evaluate", "--output", folder, "--name", "again", *options) == 0
    again = json.loads((folder / "again.json").read_text())
    assert again["evaluation"] == {"episodes": 3, "search_simulations": [4], "write_dialogues": True}
    assert results["evaluation"] == {"episodes": 2, "search_simulations": [4], "write_dialogues": False}
    # What is exact does not depend on how many conversations are played.
    assert {**again["rows"], "mcts_4": None} == {**results["rows"], "mcts_4": None}
    after = contents(folder)
    assert {"again.json", "again.txt", "again.jsonl"} == after.keys() - before.keys()
    assert {name for name in before if before[name] != after[name]} == {
        f"seed-{seed}/policies/{method}/README.md" for seed in (0, 1) for method in METHODS[task]
    }


def test_played_dialogues_are_written(task: str, finished: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    options = ("--set", "evaluation.write_dialogues=true", "--set", "evaluation.search_simulations=[]")
    assert run("evaluate", "--output", folder, "--name", "played", *options) == 0
    found = json.loads((folder / "played.json").read_text())
    lines = [json.loads(line) for line in (folder / "played.jsonl").read_text().splitlines()]
    setting = Setting.of(Run.open(folder))
    scenes = {scene.id: scene for scene in setting.scenes.held_out}
    cells = [
        ("uniform", 0),
        ("lm_prior", 0),
        *((name, seed) for name in sampled_and_greedy(METHODS[task]) for seed in (0, 1)),
    ]
    assert [(line["policy"], line["seed"], line["scene"]) for line in lines] == [
        (name, seed, scene) for name, seed in cells for scene in found["held_out_scenes"] for _ in range(2)
    ]
    for line in lines:
        first, *turns = line["turns"]
        assert first == {"speaker": "partner", "text": scenes[line["scene"]].opening, "move": None}
        assert [turn["speaker"] for turn in turns] == ["agent", "partner"] * (len(turns) // 2)
        assert all(turn["move"] in setting.inventory.names for turn in turns[::2])
        assert line["status"] in (CONTINUES, *setting.task.ends)
        assert len(turns) == 4 or line["status"] != CONTINUES
        assert 0 <= line["return"] <= 1


def test_other_settings_train_on_the_trees_of_another_run(
    task: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training = {**settings(task)["training"], "methods": ["behaviour_cloning", "trajectory_balance"], "epochs": 2}
    if task == "tutoring":
        training["methods"] = ["behaviour_cloning"]
    changed = settings(task, training=training, seeds=[1], evaluation={"episodes": 1, "search_simulations": 0})
    config = settings_file(tmp_path, changed)
    begin = ("--config", config, "--task", f"{task}:TASK", "--output", tmp_path / "run")
    other = settings_file(tmp_path_of(tmp_path), {**changed, "search": {**changed["search"], "kappa": 0.9}})
    for command in ("train", "--trees", "finished"), ("train", "--trees", finished):
        refused(
            capsys,
            tmp_path,
            "finished was searched with search (",
            lambda command=command: run(*command, "--config", other, *begin[2:]),
        )
    before = contents(finished)
    assert run("train", *begin, "--trees", "finished") == 0
    assert run("evaluate", "--output", tmp_path / "run") == 0
    trees = tmp_path / "run" / "seed-1" / "trees.jsonl"
    assert trees.read_bytes() == (finished / "seed-1" / "trees.jsonl").read_bytes()
    assert not (tmp_path / "run" / "seed-0").exists()
    rows = json.loads((tmp_path / "run" / "results.json").read_text())["rows"]
    assert list(rows) == ["uniform", "lm_prior", *sampled_and_greedy(training["methods"]), *EXACT]
    assert contents(finished) == before


def tmp_path_of(folder: Path) -> Path:
    (folder / "other").mkdir()
    return folder / "other"


SCRIPT = """
import json, sys
from dataclasses import make_dataclass
import torch
from gflowdial.dialogue.policies import LearnedPolicy
from gflowdial.dialogue.values import Dialogue, Scene, Turn

torch.set_num_threads(1)
policy = LearnedPolicy.from_pretrained("policy")
found = []
for record in json.load(sys.stdin):
    scene = make_dataclass("Known", record["scene"], bases=(Scene,), frozen=True)(**record["scene"])
    found.append(Dialogue(scene, tuple(Turn(*turn) for turn in record["turns"])))
assert not {"haggling", "tutoring"} & sys.modules.keys()
print(json.dumps(policy.log_policy(found).tolist()))
"""


@pytest.mark.slow
def test_a_policy_folder_is_whole(task: str, home: Path, finished: Path, tmp_path: Path) -> None:
    """It gives the same policy elsewhere, in a process that knows neither the run nor the task."""
    method = METHODS[task][-1]
    shutil.copytree(finished / "seed-1" / "policies" / method, tmp_path / "policy")
    for path in (tmp_path / "policy").rglob("*.json"):
        assert str(home) not in path.read_text()
    setting = Setting.of(Run.open(finished))
    trees = read_trees_file(finished / "seed-1" / "trees.jsonl", lambda values, _: values)
    states = [(filed.tree.states[0]["scene"], filed.tree.states[1 if task == "haggling" else 2]) for filed in trees]
    records = [
        {"scene": scene, "turns": [["partner", scene["opening"]], *state["turns"]]} for scene, state in states[:4]
    ]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps(records),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        check=True,
    )
    scenes = {scene.id: scene for scene in setting.scenes.train}
    dialogues = [Dialogue.begin(scenes[record["scene"]["id"]]) for record in records]
    turn = type(dialogues[0].turns[0])
    dialogues = [
        dialogue.then(*(turn(*given) for given in record["turns"][1:]))
        for dialogue, record in zip(dialogues, records, strict=True)
    ]
    expected = setting.learned(Run.open(finished), 1, method).log_policy(dialogues)
    assert np.allclose(json.loads(done.stdout), expected, rtol=0, atol=1e-6)
    assert expected.shape == (4, len(setting.inventory))
    assert len({tuple(row) for row in expected.tolist()}) == 4


def test_the_model_card_says_what_a_policy_is(task: str, finished: Path, results: dict[str, Any]) -> None:
    setting = Setting.of(Run.open(finished))
    for method in METHODS[task]:
        card = (finished / "seed-0" / "policies" / method / "README.md").read_text()
        assert f"the task `{task}:TASK`" in card
        assert f"Trained by: {method}, seed 0" in card
        assert "τ = 0.1" in card
        assert f"Data: bundled; licence: {setting.task.licence}" in card
        assert f"## Safety\n\n{setting.task.safety}\n" in card
        for name in setting.inventory.names:
            assert f"- {name}: " in card
        assert "None yet" not in card
        measured = f"| expected return | {results['rows'][method]['expected_return']['mean']:.3f} ±"
        assert card.count(measured) == 1
        assert "2 held-out scenes (8 for training)" in card
