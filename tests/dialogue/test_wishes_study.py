"""A run with wishes in miniature, and the study of one policy beside policies for single temperatures."""

from dataclasses import replace
from pathlib import Path

import pytest
from refusals import settings_file
from test_studies import SETTINGS

from gflowdial.dialogue.config import load_config
from gflowdial.dialogue.studies import STUDIES
from gflowdial.dialogue.studies.running import run_study
from gflowdial.dialogue.studies.wishes import temperatures_between


def test_temperatures_have_equal_ratios() -> None:
    assert temperatures_between(0.02, 0.32) == pytest.approx([0.02, 0.04, 0.08, 0.16, 0.32])
    assert temperatures_between(0.1, 0.1, 1) == [0.1]


def test_one_policy_is_read_at_each_temperature(tmp_path: Path) -> None:
    training = {"methods": ["subtrajectory_balance"], "epochs": 1, "learning_rate": 0.01}
    settings = {**SETTINGS, "seeds": [0], "training": training, "wishes": {"temperatures": [0.05, 0.8]}}
    config = load_config(settings_file(tmp_path, settings))
    study = STUDIES["wishes"]
    assert [cell.name for cell in study.cells(config)] == ["once", *(f"for-{t}" for t in (0.05, 0.1, 0.2, 0.4, 0.8))]
    assert study.cells(load_config(settings_file(tmp_path, {**settings, "wishes": None})))[1].name == "for-0.02"
    two = replace(study, cells=lambda settings: study.cells(settings)[:2])
    found = run_study(two, config, tmp_path / "study")
    once, alone = found["once"], found["for-0.05"]
    assert isinstance(once, list), once
    assert isinstance(alone, list), alone
    rows = {(record.row, record.at.get("temperature")) for record in once}
    temperatures = (0.05, 0.1, 0.2, 0.4, 0.8)
    for row in ("subtrajectory_balance", "subtrajectory_balance_greedy", "exact_flow"):
        assert {(row, t) for t in temperatures} <= rows
    assert {("uniform", None), ("lm_prior", None), ("mcts_2", None)} <= rows
    exact = {record.at["temperature"]: record.outcomes[0] for record in once if record.row == "exact_flow"}
    assert all(scene["total_variation"] == pytest.approx(0, abs=1e-9) for scene in exact[0.2])
    returns = [sum(float(scene["expected_return"] or 0) for scene in exact[t]) for t in temperatures]
    assert returns == sorted(returns, reverse=True)
    sampled = {record.at["temperature"]: record.outcomes for record in once if record.row == "subtrajectory_balance"}
    assert sampled[0.05] != sampled[0.8]
    flows = [record for record in alone if record.row == "exact_flow"]
    assert [record.at["temperature"] for record in flows] == [0.05]
