"""Studies in miniature: cells are done once, a killed study goes on to the same files, and its table is the cells'."""

import json
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import contents, refused, settings_file
from scipy.stats import ttest_rel

from gflowdial.dialogue.cli import main
from gflowdial.dialogue.config import ConfigError, RunConfig, load_config, with_overrides
from gflowdial.dialogue.report import Estimate
from gflowdial.dialogue.runs import Run
from gflowdial.dialogue.studies import STUDIES, Cell, Plot, Study
from gflowdial.dialogue.studies.records import Record, difference, evaluated, from_json
from gflowdial.dialogue.studies.report import caption, write_study
from gflowdial.dialogue.studies.running import run_study
from gflowdial.training.methods import method_names
from gflowdial.training.trainer import FlowTrainer

SETTINGS: dict[str, Any] = {
    "experiment": "conversation",
    "task": "small_world:TASK",
    "seeds": [0, 1],
    "data": {"held_out": 0.3},
    "roles": {"kind": "hashed", "max_turns": 2},
    "search": {"simulations": 6, "max_depth": 2, "rollout_length": 1},
    "model": {"kind": "tiny", "hidden_size": 16, "layers": 1, "heads": 2, "transcripts_per_scene": 1, "epochs": 1},
    "adapter": {"rank": 2, "alpha": 4},
    "training": {"methods": ["behaviour_cloning"], "epochs": 1, "learning_rate": 0.01},
    "evaluation": {"episodes": 1, "search_simulations": [2]},
    "compute": {"threads": 1},
}
QUIET = {"evaluation.search_simulations": []}
STUDY = Study(
    "Does it depend on the temperature or on the search?",
    lambda _: [
        Cell("base", at={"temperature": 0.1}),
        Cell("warm", {"training.temperature": 0.5, **QUIET}, {"temperature": 0.5}),
        Cell("deep", {"search.simulations": 12, **QUIET}, {"temperature": 0.1}),
    ],
    ("expected_return", "total_variation"),
    Plot(("expected_return", "total_variation"), x="temperature"),
)


def config(folder: Path, **sections: Any) -> RunConfig:
    return load_config(settings_file(folder, {**SETTINGS, **sections}))


def whole(study: Study, settings: RunConfig, folder: Path) -> str:
    return write_study("small", study, settings, run_study(study, settings, folder), folder)


def files(folder: Path) -> dict[str, bytes]:
    """The contents of all files but those that name the time and the machine."""
    return {name: data for name, data in contents(folder).items() if not name.endswith("origin.json")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study."""
    folder = tmp_path_factory.mktemp("study")
    whole(STUDY, config(folder), folder / "study")
    return folder / "study"


@pytest.fixture
def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


@pytest.mark.parametrize("trained", [pytest.param(0, marks=pytest.mark.slow), 3])
def test_a_killed_study_goes_on_without_redoing_cells(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path, trained: int
) -> None:
    train, calls = FlowTrainer.train, []

    def counted(self: FlowTrainer, *arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == trained + 1:
            raise KeyboardInterrupt
        return train(self, *arguments, **options)

    monkeypatch.setattr(FlowTrainer, "train", counted)
    settings = config(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        whole(STUDY, settings, tmp_path / "study")
    done = tmp_path / "study" / "cells" / "base" / "records.json"
    assert done.is_file() == (trained >= 2)
    whole(STUDY, settings, tmp_path / "study")
    # Two seeds of three cells, and the one that was cut off.
    assert len(calls) == 2 * 3 + 1
    assert files(tmp_path / "study") == files(folder)
    # A finished study does nothing again.
    whole(STUDY, settings, tmp_path / "study")
    assert len(calls) == 2 * 3 + 1
    assert files(tmp_path / "study") == files(folder)


def test_the_table_is_that_of_the_cells(folder: Path, results: dict[str, Any]) -> None:
    shown = {(line["cell"], line["row"]): line for line in results["lines"]}
    for cell, overrides in results["cells"].items():
        run = Run.open(folder / "cells" / cell)
        assert run.config == with_overrides(load_config(settings_file(folder.parent, SETTINGS)), overrides)
        rows = json.loads((run.folder / "results.json").read_text())["rows"]
        for row, values in rows.items():
            line = shown.get((cell, row)) or shown["base", row]
            for measure, estimate in values.items():
                assert line["values"][measure] == estimate, (cell, row, measure)
    # What is alike in all cells is shown once.
    assert ("deep", "uniform") not in shown
    assert ("warm", "exact_flow") in shown
    text = (folder / "results.md").read_text()
    for line in results["lines"]:
        given = line["values"]["expected_return"]
        value = Estimate(given["mean"], given["low"], given["high"], tuple(given["samples"]))
        assert f"| {line['row'].replace('_', ' ')} |" in text
        assert str(value) in text


def test_differences_are_to_the_first_cell_in_pairs(folder: Path, results: dict[str, Any]) -> None:
    (line,) = [line for line in results["lines"] if (line["cell"], line["row"]) == ("deep", "behaviour_cloning")]
    returns = {}
    for cell in ("base", "deep"):
        rows = json.loads((folder / "cells" / cell / "results.json").read_text())["rows"]
        returns[cell] = rows["behaviour_cloning"]["expected_return"]["samples"]
    by_hand = ttest_rel(returns["deep"], returns["base"]).confidence_interval(0.95)
    assert line["difference"]["mean"] == pytest.approx(fmean(returns["deep"]) - fmean(returns["base"]))
    assert (line["difference"]["low"], line["difference"]["high"]) == pytest.approx((by_hand.low, by_hand.high))


def test_cells_share_what_is_the_same(folder: Path) -> None:
    cells = folder / "cells"
    trees, model = "seed-1/trees.jsonl", "language_model/model.safetensors"
    assert (cells / "base" / trees).read_bytes() == (cells / "warm" / trees).read_bytes()
    assert (cells / "base" / trees).read_bytes() != (cells / "deep" / trees).read_bytes()
    assert (cells / "base" / model).read_bytes() == (cells / "deep" / model).read_bytes()


def test_cells_side_by_side_give_the_same_records(tmp_path: Path, folder: Path) -> None:
    settings = config(tmp_path, compute={"threads": 1, "jobs": 2})
    whole(STUDY, settings, tmp_path / "study")
    for name in ("base", "warm", "deep"):
        of_cell = Path("cells", name, "records.json")
        assert (tmp_path / "study" / of_cell).read_bytes() == (folder / of_cell).read_bytes()


@pytest.mark.slow
def test_a_shared_language_model_is_the_one_that_would_be_trained(tmp_path: Path, folder: Path) -> None:
    alone = replace(STUDY, cells=lambda settings: STUDY.cells(settings)[1:2])
    whole(alone, config(tmp_path), tmp_path / "study")
    assert files(tmp_path / "study" / "cells" / "warm") == files(folder / "cells" / "warm")


@pytest.mark.slow
def test_a_cell_that_fails_is_recorded_and_tried_again(tmp_path: Path, folder: Path) -> None:
    failing = True

    def measure(run: Run) -> list[Record]:
        if failing and run.folder.name == "base":
            raise ValueError("it diverged")
        return evaluated(run)

    study, settings = replace(STUDY, measure=measure), config(tmp_path)
    text = whole(study, settings, tmp_path / "study")
    found = json.loads((tmp_path / "study" / "results.json").read_text())
    assert found["failures"] == {"base": "ValueError: it diverged"}
    assert "`base` failed: ValueError: it diverged" in text
    assert {line["cell"] for line in found["lines"]} == {"warm", "deep"}
    failing = False
    whole(study, settings, tmp_path / "study")
    assert files(tmp_path / "study") == files(folder)


def test_what_is_simulated_is_said(tmp_path: Path, results: dict[str, Any]) -> None:
    assert (
        "Simulated: agent, partner and judge are rules with fixed phrases; no person took part." in results["caption"]
    )
    assert "2 held-out scenes" in results["caption"]
    assert "over 2 seeds" in results["caption"]
    assert "of one seed" in caption(STUDY, config(tmp_path, seeds=[0]))


def test_wrong_overrides_show_before_the_first_cell(tmp_path: Path) -> None:
    study = replace(STUDY, cells=lambda _: [Cell("base"), Cell("wrong", {"training.epochz": 2})])
    with pytest.raises(ConfigError, match=r"training\.epochz: no such key; did you mean 'epochs'"):
        run_study(study, config(tmp_path), tmp_path / "study")
    assert not (tmp_path / "study").exists()


OUTCOMES = st.integers(1, 4).flatmap(
    lambda scenes: st.lists(
        st.tuples(*[st.lists(st.floats(-1, 1), min_size=scenes, max_size=scenes)] * 2), min_size=1, max_size=4
    )
)


@given(OUTCOMES)
def test_a_paired_difference_is_the_mean_of_differences(pairs: list[tuple[list[float], list[float]]]) -> None:
    scenes = [str(number) for number in range(len(pairs[0][0]))]
    one, other = (
        Record("row", {}, [[{"a": value} for value in seed[side]] for seed in pairs], scenes) for side in (0, 1)
    )
    found = difference(one, other, "a")
    assert found is not None
    assert found.mean == pytest.approx(fmean(a - b for seed in pairs for a, b in zip(*seed, strict=True)), abs=1e-12)
    units = len(pairs) if len(pairs) > 1 else len(pairs[0][0])
    assert len(found.samples) == units
    assert (found.low is None) == (units == 1)
    # A row that is the same for all seeds is compared with each.
    constant = one._replace(outcomes=one.outcomes[:1])
    again = difference(other, constant, "a")
    assert again is not None
    assert len(again.samples) == units
    # Other scenes, or a measure that one does not have, cannot be paired.
    assert difference(one, other._replace(scenes=["elsewhere"] * len(one.scenes)), "a") is None
    assert difference(one, other, "b") is None


def command(folder: Path, *more: object, settings: dict[str, Any] = SETTINGS, name: str = "turns") -> int:
    path = settings_file(folder, settings)
    return main(["study", name, "--config", str(path), "--output", str(folder / "study"), *map(str, more)])


def test_the_command_writes_a_study_and_goes_on_only_with_the_same_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(tmp_path) == 0
    shown = capsys.readouterr().out
    assert STUDIES["turns"].question in shown
    before = contents(tmp_path / "study")
    assert {"study.json", "results.json", "results.md", "plot.svg"} <= before.keys()
    assert command(tmp_path, "--resume") == 0
    assert contents(tmp_path / "study") == before
    capsys.readouterr()
    for more, message in (
        ([], "already holds a study or other files"),
        (["--resume", "--set", "seeds=[0]"], "holds a study of other settings"),
    ):
        refused(capsys, tmp_path / "study", message, lambda more=more: command(tmp_path, *more))


@pytest.mark.slow
def test_turns_and_stages_agree_with_the_evaluation(tmp_path: Path) -> None:
    settings = config(tmp_path)
    run_study(STUDIES["turns"], settings, tmp_path / "turns")
    found = run_study(STUDIES["stages"], settings, tmp_path / "stages")
    turns = from_json(tmp_path / "turns" / "cells" / "base" / "records.json")
    stages = found["base"]
    rows = {record.row: record for record in evaluated(Run.open(tmp_path / "turns" / "cells" / "base"))}
    for row in ("uniform", "lm_prior", "behaviour_cloning", "exact_flow"):
        by_turn = {record.at["turn"]: record.outcomes for record in turns if record.row == row}
        by_stage = {record.at["stage"]: record.outcomes for record in stages if record.row == row}
        for seed, scenes in enumerate(rows[row].outcomes):
            for scene, outcome in enumerate(scenes):
                each = [outcomes[seed][scene] for outcomes in by_turn.values()]
                assert sum(turn["reached"] for turn in each) == pytest.approx(outcome["turns"])
                entropy = sum(turn["reached"] * (turn["turn_entropy"] or 0) for turn in each) / outcome["turns"]
                assert entropy == pytest.approx(outcome["entropy"])
                assert by_stage["all"][seed][scene] == pytest.approx(outcome, nan_ok=True)
        # Two turns are an early and a middle one, if there are three stages.
        prior = [by_turn_scene["expected_return"] for by_turn_scene in rows["lm_prior"].outcomes[0]]
        assert [outcome["expected_return"] for outcome in by_stage["late"][0]] == pytest.approx(prior)


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_has_cells_of_their_own_with_settings_that_exist(tmp_path: Path, name: str) -> None:
    settings = config(tmp_path)
    cells = STUDIES[name].cells(settings)
    names = [cell.name for cell in cells]
    assert len(set(names)) == len(names)
    assert len({str(with_overrides(settings, cell.overrides)) for cell in cells}) == len(cells)
    for number, cell in enumerate(cells):
        assert cell.steps_of is None or cell.steps_of in names[:number]


def test_every_method_is_compared_and_search_is_played_once(tmp_path: Path) -> None:
    cells = STUDIES["methods"].cells(config(tmp_path))
    compared = [name for cell in cells for name in cell.overrides["training.methods"]]
    assert len(set(compared)) == len(compared)
    assert (
        {"behaviour_cloning", "dpo", "rloo", "trajectory_balance", "afpo_anchored"} < set(compared) < {*method_names()}
    )
    assert [bool(cell.overrides.get("evaluation.search_simulations", [1])) for cell in cells].count(True) == 1
