"""Training over rounds, with rollouts, full tuning and validation: what is kept, counted and logged."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from gflowdial.dialogue.cli import main
from gflowdial.dialogue.config import ConfigError, load_config
from gflowdial.dialogue.environment import DialogueState
from gflowdial.dialogue.outcomes import EnumeratedScene, policy_log_pf
from gflowdial.dialogue.runs import Run
from gflowdial.dialogue.searching import read_run_trees
from gflowdial.dialogue.setting import Setting
from gflowdial.search import enumerate_tree
from gflowdial.training.trainer import steps_of

TRAINING = {
    "methods": ["subtrajectory_balance", "log_partition_variance@0.3", "rloo"],
    "each": {"log_partition_variance@0.3": {"start": "subtrajectory_balance"}},
    "tuning": "full",
    "epochs": 2,
    "batch_size": 2,
    "learning_rate": 1e-3,
    "rollouts": 2,
    "replay": 4,
    "replay_priority": 2,
    "rounds": 2,
    "evaluations": 2,
    "max_tokens": 256,
}


def settings(**training: Any) -> dict[str, Any]:
    return {
        "task": "small_world:TASK",
        "experiment": "conversation",
        "seeds": [0],
        "data": {"held_out": 0.3, "validation": 0.3},
        "roles": {"kind": "hashed", "max_turns": 2},
        "search": {"simulations": 6, "max_depth": 2, "rollout_length": 1, "keep_rollouts": True},
        "model": {"kind": "tiny", "hidden_size": 16, "layers": 1, "heads": 2, "transcripts_per_scene": 1, "epochs": 1},
        "training": {**TRAINING, **training},
        "evaluation": {"episodes": 1, "search_simulations": []},
        "compute": {"jobs": 1, "threads": 1},
    }


def trained(folder: Path, **training: Any) -> Run:
    (folder / "run.yaml").write_text(yaml.safe_dump(settings(**training)))
    assert main(["run", "--config", str(folder / "run.yaml"), "--output", str(folder / "run")]) == 0
    return Run.open(folder / "run")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained(tmp_path_factory.mktemp("learning"))


def history(run: Run, method: str) -> list[dict[str, float]]:
    return json.loads((run.policy(0, method) / "history.json").read_text())


def facts(run: Run, method: str) -> dict[str, Any]:
    return json.loads((run.policy(0, method) / "dialogue.json").read_text())["facts"]


def test_the_log_tells_losses_and_exact_figures_over_all_rounds(run: Run) -> None:
    for method in run.config.training.methods:
        entries = history(run, method)
        assert {entry["round"] for entry in entries} == {0, 1}
        evaluated = [entry for entry in entries if "eval_total_variation" in entry]
        assert all(("eval_loss" in entry) == (method != "rloo") for entry in evaluated)
        assert len(evaluated) >= 4
        for entry in evaluated:
            assert {"eval_expected_return", "eval_total_variation", "train_expected_return"} < entry.keys()
            assert 0 <= entry["eval_total_variation"] <= 1
        steps = [entry["environment_steps"] for entry in entries]
        assert steps == sorted(steps)
        assert facts(run, method)["environment_steps"] >= steps[-1]
        assert (run.policy(0, method) / "history.svg").read_text().startswith("<?xml")


def test_steps_are_those_of_searches_and_rollouts(run: Run) -> None:
    on_policy = history(run, "rloo")
    # Each of 2 rounds has 2 epochs, in each of which 2 rollouts of at most 2 turns start from every training scene.
    scenes = len(Setting.of(run).scenes.train)
    assert 0 < on_policy[-1]["environment_steps"] <= 2 * 2 * 2 * 2 * scenes
    searched = sum(steps_of(tree) for tree in read_run_trees(run, Setting.of(run), 0))
    assert facts(run, "subtrajectory_balance")["environment_steps"] > searched
    assert on_policy[-1]["environment_steps"] == facts(run, "rloo")["environment_steps"]


def test_a_policy_keeps_the_weights_of_the_least_total_variation(run: Run) -> None:
    """On validation scenes; the exact figure of the saved policy is the least of the last round's log."""
    setting = Setting.of(run)
    last = [e for e in history(run, "subtrajectory_balance") if "eval_loss" in e and e["round"] == 1]
    best = min(entry["eval_total_variation"] for entry in last)
    policy = setting.learned(run, 0, "subtrajectory_balance")
    found = []
    for scene in setting.scenes.validation[:4]:
        tree = enumerate_tree(setting.environment, [DialogueState.begin(scene)])
        exact = EnumeratedScene.of(setting.environment, tree, run.config.training.temperature)
        found.append(exact.outcome(policy_log_pf(setting.environment, tree, policy))["total_variation"])
    assert sum(found) / len(found) == pytest.approx(best, abs=1e-5)


def test_a_method_at_a_temperature_has_a_target_of_its_own(run: Run) -> None:
    assert facts(run, "log_partition_variance@0.3")["temperature"] == 0.3
    assert facts(run, "subtrajectory_balance")["temperature"] == 0.1
    rows = json.loads((run.folder / "results.json").read_text())["rows"]
    setting = Setting.of(run)
    policy, found = setting.learned(run, 0, "log_partition_variance@0.3"), []
    for scene in setting.scenes.held_out:
        tree = enumerate_tree(setting.environment, [DialogueState.begin(scene)])
        exact = EnumeratedScene.of(setting.environment, tree, 0.3)
        found.append(exact.outcome(policy_log_pf(setting.environment, tree, policy))["total_variation"])
    assert rows["log_partition_variance@0.3"]["total_variation"]["mean"] == pytest.approx(sum(found) / len(found))


def test_a_policy_goes_on_from_the_one_that_it_starts_from(tmp_path: Path) -> None:
    """With a rate of almost 0 it stays where it starts."""
    name = "log_partition_variance@0.3"
    run = trained(
        tmp_path,
        methods=[name, "subtrajectory_balance"],
        each={name: {"start": "subtrajectory_balance", "learning_rate": 1e-12}},
        rollouts=0,
        rounds=1,
    )
    setting = Setting.of(run)
    scenes = [DialogueState.begin(scene).dialogue for scene in setting.scenes.held_out]
    one, other = (setting.learned(run, 0, method).log_policy(scenes) for method in run.config.training.methods)
    np.testing.assert_allclose(one, other, atol=1e-5)
    assert abs(one - setting.untrained(run).log_policy(scenes)).max() > 1e-3


def test_full_tuning_trains_all_weights_and_keeps_the_first_as_reference(run: Run) -> None:
    policy = Setting.of(run).learned(run, 0, "subtrajectory_balance").model
    moved = [
        not torch.equal(now, before)
        for now, before in zip(
            policy.language_model.model.layers.parameters(),
            policy.reference_model.model.layers.parameters(),
            strict=True,
        )
    ]
    assert all(moved)


def test_same_seed_same_files(run: Run, tmp_path: Path) -> None:
    again = trained(tmp_path)
    files = sorted(path.relative_to(run.folder) for path in run.folder.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again.folder) for path in again.folder.rglob("*") if path.is_file())
    for path in files:
        if path.name not in ("origin.json", "README.md", "policy.json"):
            assert (run.folder / path).read_bytes() == (again.folder / path).read_bytes(), path


@pytest.mark.parametrize("name", ["subtrajectory_balance@", "subtrajectory_balance@cold", "subtrajectory_balance@0"])
def test_a_wrong_temperature_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings(methods=[name])))
    with pytest.raises(ConfigError, match="METHOD@τ with a number above 0"):
        load_config(tmp_path / "run.yaml")


def test_a_method_may_have_settings_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings(each={"rloo": {"epochs": 7, "rollouts": 3}})))
    training = load_config(tmp_path / "run.yaml").training
    assert (training.of("rloo").epochs, training.of("rloo").rollouts) == (7, 3)
    assert training.of("subtrajectory_balance") == training


@pytest.mark.parametrize(
    ("each", "message"),
    [
        ({"grpo": {"epochs": 1}}, "'grpo' is none of the methods"),
        ({"rloo": {"epoch": 1}}, "epoch"),
        ({"rloo": {"epochs": -1}}, "greater than 0"),
        ({"rloo": {"tuning": "adapter"}}, "is the same for all methods"),
        ({"rloo": {"start": "grpo"}}, "name another of the methods"),
        ({"rloo": {"start": "rloo"}}, "name another of the methods, and no circle"),
    ],
)
def test_wrong_settings_of_a_method_are_refused(each: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings(each=each)))
    with pytest.raises(ConfigError, match=message):
        load_config(tmp_path / "run.yaml")
