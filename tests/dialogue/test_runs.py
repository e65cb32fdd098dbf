"""A run's folder tells where everything came from, and keeps what it holds."""

import json
from pathlib import Path

import pytest
import torch
from one_file_tasks import SETTINGS
from refusals import contents

from gflowdial.dialogue.config import RunConfig
from gflowdial.dialogue.runs import Run, RunError

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
    places = [run.trees(3), run.policy(3, "subtrajectory_balance")]
    assert len({place.parent.parts[len(tmp_path.parts)] for place in places}) == 1
    assert contents(tmp_path) == before


def test_results_are_written_once(tmp_path: Path) -> None:
    run = Run.begin(tmp_path, CONFIG)
    run.check_no_results()
    assert run.write_results({"rows": {}}, "table") == tmp_path / "results.json"
    with pytest.raises(RunError, match="has results 'results' already"):
        run.check_no_results()
    before = contents(tmp_path)
    with pytest.raises(RunError, match="has results 'results' already: they are kept; give these another --name"):
        run.write_results({"rows": {"other": 1}}, "other")
    assert contents(tmp_path) == before


def test_a_result_that_is_no_number_leaves_no_results(tmp_path: Path) -> None:
    run = Run.begin(tmp_path, CONFIG)
    with pytest.raises(ValueError, match="not JSON compliant"):
        run.write_results({"rows": float("nan")}, "table")
    run.check_no_results()


def test_results_of_other_names_stand_beside_each_other(tmp_path: Path) -> None:
    run = Run.begin(tmp_path, CONFIG)
    for name in ("results", "again"):
        run.write_results({"rows": {"of": name}}, f"table of {name}", name)
    for name in ("results", "again"):
        assert json.loads((tmp_path / f"{name}.json").read_text()) == {"rows": {"of": name}}
        assert (tmp_path / f"{name}.txt").read_text() == f"table of {name}"


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("experiment", "labels"),
        ("task", "tutoring:TASK"),
        ("inventory", "other"),
        ("data", {"limit": 9}),
        ("roles", {"kind": "simulated", "max_turns": 1}),
        ("search", {"simulations": 9}),
    ],
)
def test_trees_of_other_settings_do_not_fit(tmp_path: Path, name: str, changed: object) -> None:
    run = Run.begin(tmp_path, CONFIG)
    run.check_searched_with(RunConfig.model_validate({**SETTINGS, "seeds": [1], "adapter": {"rank": 2}}))
    other = RunConfig.model_validate({**SETTINGS, name: changed})
    with pytest.raises(RunError, match=f"was searched with {name} .*: its trees do not fit; search anew"):
        run.check_searched_with(other)
