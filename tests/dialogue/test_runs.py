"""A run's folder tells where everything came from, and keeps what it holds."""

import json
from pathlib import Path

import pytest
import torch
from examples.aflow_esc.config import RunConfig
from examples.aflow_esc.runs import Run, RunError
from miniature import SETTINGS, contents

CONFIG = RunConfig.model_validate(SETTINGS)


def test_a_begun_run_is_opened_again(tmp_path: Path) -> None:
    run = Run.begin(tmp_path / "deep" / "run", CONFIG)
    assert Run.open(run.folder) == run
    assert Run.begin(run.folder, CONFIG, resume=True) == run


def test_an_empty_folder_may_be_used(tmp_path: Path) -> None:
    assert Run.begin(tmp_path, CONFIG).folder == tmp_path


def test_the_origin_names_versions_seeds_and_revision(tmp_path: Path) -> None:
    origin = json.loads((Run.begin(tmp_path, CONFIG).folder / "origin.json").read_text())
    assert origin["seeds"] == [0, 1]
    assert origin["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert {"git_revision", "git_changes", "python", "machine"} <= origin.keys()


def test_asking_where_things_lie_makes_nothing(tmp_path: Path) -> None:
    run = Run.begin(tmp_path, CONFIG)
    before = contents(tmp_path)
    places = [run.trees(3), run.base(3), run.policy(3, "afpo_anchored")]
    assert len({place.parent.parts[len(tmp_path.parts)] for place in places}) == 1
    assert contents(tmp_path) == before


def test_results_are_written_once(tmp_path: Path) -> None:
    run = Run.begin(tmp_path, CONFIG)
    assert not run.has_results
    run.write_results({"rows": {}}, "table")
    assert run.has_results
    before = contents(tmp_path)
    with pytest.raises(RunError, match="has results already: they are kept"):
        run.write_results({"rows": {"other": 1}}, "other")
    assert contents(tmp_path) == before


def test_a_result_that_is_no_number_leaves_no_results(tmp_path: Path) -> None:
    run = Run.begin(tmp_path, CONFIG)
    with pytest.raises(ValueError, match="not JSON compliant"):
        run.write_results({"rows": float("nan")}, "table")
    assert not run.has_results
