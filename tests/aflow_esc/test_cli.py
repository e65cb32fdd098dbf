"""Input that cannot be used: exit code 2, one message, no traceback, and nothing written or changed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import refusals
from miniature import LABELS, SETTINGS, config_file, run

from gflowdial.dialogue.cli import main

Corrupt = Callable[[str], str]


def refused(capsys: pytest.CaptureFixture[str], folder: Path, message: str, command: str, *arguments: object) -> None:
    """The command ends with 2 and the message, and leaves everything in ``folder`` as it is."""
    refusals.refused(capsys, folder, message, lambda: run(command, *arguments))


def section(name: str, **changes: Any) -> dict[str, Any]:
    return {name: {**SETTINGS[name], **changes}}


@pytest.mark.parametrize("command", ["search", "run"])
@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (section("training", epoch=1), "training.epoch: no such key; did you mean 'epochs'?"),
        ({"inventory": "nobody's"}, "inventory: no inventory \"nobody's\" in task 'emotional support'; choose one of "),
        ({"inventory": "esconv"}, "inventory: the simulated roles know the inventory 'aflow' only"),
        ({"task": "examples.nowhere:TASK"}, "there is no module 'examples.nowhere' here or among the installed"),
        ({"task": "examples.aflow_esc.task:TUSK"}, "has no Task of the name 'TUSK'"),
        ({"task": "examples.aflow_esc.task"}, "must read module:object"),
        ({"task": ":TASK"}, "must read module:object"),
        ({"task": ".task:TASK"}, "must read module:object"),
        (section("roles", kind="human"), "roles.kind: 'human' is none of simulated, local"),
        (section("roles", world_sead=1), "roles.world_sead: no such key; did you mean 'world_seed'?"),
        (section("roles", max_turn=1), "roles.max_turn: no such key; did you mean 'max_turns'?"),
        (section("roles", world_seed="x"), "roles.world_seed: Input should be a valid integer"),
        (section("roles", max_turns=6), "roles.max_turns: 6 turns are too many"),
        ({"roles": {"kind": "local", "max_new_token": 9}}, "roles.max_new_token: no such key; did you mean 'max_new_"),
        ({"roles": {"kind": "local", "max_new_tokens": 0}}, "roles.max_new_tokens: Input should be greater than or eq"),
        ({"roles": {"kind": "local", "draws": 0}}, "roles.draws: Input should be greater than or equal to 1"),
        ({"roles": {"kind": "local", "temperature": -1}}, "roles.temperature: Input should be greater than or equal"),
        ({"roles": {"kind": "local", "model": "nowhere"}}, "roles.model: no language model 'nowhere': give "),
        (section("compute", device="cuda:77"), "compute.device: 'cuda:77' cannot be used here"),
        (section("data", limit=2), "data.held_out: 2 scenes are too few"),
        (section("data", held_out=0.001), "data.held_out: 10 scenes are too few"),
        (section("data", source="nowhere.txt"), "nowhere.txt: cannot be read"),
        ({"roles": None}, "roles is missing"),
        ({"model": {"kind": "pretrained", "name": "nowhere"}}, "model.name: no language model 'nowhere': give "),
        ({"model": {"kind": "pretrained", "name": "tests"}}, "model.name: tests holds no language model and tokenizer"),
        ({"experiment": "labels", "roles": None}, "recorded dialogues"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_unusable_settings(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str, sections: dict[str, Any], message: str
) -> None:
    config = config_file(tmp_path, **sections)
    refused(capsys, tmp_path, message, command, "--config", config, "--output", tmp_path / "run")


def test_a_missing_config(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    missing = tmp_path / "none.yaml"
    refused(capsys, tmp_path, "there is no config file", "run", "--config", missing, "--output", tmp_path / "run")


def test_a_broken_config(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("seeds: [0\nexperiment: x")
    refused(capsys, tmp_path, "is no YAML", "run", "--config", broken, "--output", tmp_path / "run")


def test_no_config_at_all(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for command in ("search", "run"):
        refused(capsys, tmp_path, f"{command} begins a run: give --config", command, "--output", tmp_path / "run")


def test_options_that_would_be_ignored(capsys: pytest.CaptureFixture[str], finished: Path) -> None:
    message = "--task, --set, --resume, --strict and --trees go with --config"
    options = ["--set", "training.epochs=9"], ["--resume"], ["--strict"], ["--trees", finished], ["--task", "a:B"]
    for option in options:
        refused(capsys, finished, message, "train", "--output", finished, *option)


@pytest.mark.parametrize("command", ["search", "train", "run"])
def test_a_folder_that_holds_a_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, finished: Path, command: str
) -> None:
    config = config_file(tmp_path)
    message = f"{finished} already holds a run or other files: name another --output, or add --resume"
    refused(capsys, finished, message, command, "--config", config, "--output", finished)


def test_a_folder_that_holds_something_else(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = config_file(tmp_path)
    refused(capsys, tmp_path, "already holds a run or other files", "run", "--config", config, "--output", tmp_path)
    refused(capsys, tmp_path, "holds no run", "run", "--config", config, "--output", tmp_path, "--resume")


def test_a_folder_that_cannot_be_made(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = config_file(tmp_path)
    refused(capsys, tmp_path, "cannot be made", "run", "--config", config, "--output", config / "run")


def test_resuming_with_other_settings(capsys: pytest.CaptureFixture[str], tmp_path: Path, finished: Path) -> None:
    config = config_file(tmp_path, seeds=[0])
    arguments = ("--config", config, "--output", finished, "--resume")
    refused(capsys, finished, "was begun with other settings", "run", *arguments)


def test_results_are_kept(capsys: pytest.CaptureFixture[str], tmp_path: Path, finished: Path) -> None:
    refused(capsys, finished, "has results 'results' already", "evaluate", "--output", finished)
    arguments = ("--config", config_file(tmp_path), "--output", finished, "--resume")
    refused(capsys, finished, "has results 'results' already", "run", *arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--set", "training.epochs=2"],
            "override 'training.epochs=2': an evaluation of a run changes evaluation.…",
        ),
        (
            ["--set", "seeds=[0]"],
            "override 'seeds=[0]': an evaluation of a run changes evaluation.… and compute.…",
        ),
        (["--set", "evaluation.episode=2"], "evaluation.episode: no such key; did you mean 'episodes'?"),
        (["--set", "compute.jobs=0"], "compute.jobs: Input should be greater than or equal to 1"),
        (["--name", "../results"], "--name: '../results' is no name of a file"),
        (["--name", "seed-0/trees"], "--name: 'seed-0/trees' is no name of a file"),
        (["--name", ""], "--name: '' is no name of a file"),
    ],
)
def test_an_evaluation_that_would_change_the_run(
    capsys: pytest.CaptureFixture[str], finished: Path, options: list[str], message: str
) -> None:
    arguments = [*(["--name", "again"] if "--name" not in options else []), *options]
    refused(capsys, finished, message, "evaluate", "--output", finished, *arguments)


@pytest.mark.parametrize("command", ["train", "evaluate", "chat"])
def test_a_folder_without_a_run(capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str) -> None:
    refused(capsys, tmp_path, "holds no run (config.yaml is missing)", command, "--output", tmp_path / "none")


def searched(finished: Path, folder: Path) -> Path:
    """A copy of the run as it was after the search."""
    for file in ("config.yaml", "origin.json", "seed-0/trees.jsonl", "seed-1/trees.jsonl"):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(finished / file, folder / file)
    return folder


def test_training_before_the_search(capsys: pytest.CaptureFixture[str], tmp_path: Path, finished: Path) -> None:
    folder = searched(finished, tmp_path / "run")
    shutil.rmtree(folder / "seed-1")
    refused(capsys, folder, "seed-1/trees.jsonl is missing: search first", "train", "--output", folder)


def test_evaluating_and_chatting_before_training(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, finished: Path
) -> None:
    folder = searched(finished, tmp_path / "run")
    for seed in (0, 1):
        shutil.rmtree(folder / f"seed-{seed}")
    refused(capsys, folder, "policies/behaviour_cloning is missing: train first", "evaluate", "--output", folder)
    refused(capsys, folder, "holds no policy: train it first", "chat", "--output", folder)


def entry(name: str, value: str) -> Corrupt:
    """Put a value into this field of the second node."""

    def corrupt(line: str) -> str:
        record = json.loads(line)
        record[name][1] = "HERE"
        return json.dumps(record).replace('"HERE"', value)

    return corrupt


def hypnotised(line: str) -> str:
    record = json.loads(line)
    record["state"][1]["turns"][0][2] = "Hypnosis"
    return json.dumps(record)


@pytest.mark.parametrize(
    ("corrupt", "message"),
    [
        (entry("reward", "NaN"), "node 1: reward is nan: it must be a finite float"),
        (entry("value", "Infinity"), "node 1: value is inf: it must be a finite float"),
        (entry("visits", '"many"'), "node 1: visits is 'many': it must be a finite int"),
        (entry("action", "8"), "node 1: unknown action 8: there are 8"),
        (entry("state", "[]"), "node 1: its state needs turns as [speaker, text, move] and a status of 'continues', "),
        (hypnotised, "node 1: its move is 'Hypnosis', but its action "),
        (lambda line: line[: len(line) // 2], "invalid JSON"),
        (lambda _: "[]", "must be JSON objects"),
    ],
    ids=["NaN", "infinite", "wrong type", "unknown action", "no state", "unknown strategy", "broken line", "no tree"],
)
def test_training_on_corrupted_trees(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, finished: Path, corrupt: Corrupt, message: str
) -> None:
    folder = searched(finished, tmp_path / "run")
    path = folder / "seed-1" / "trees.jsonl"
    lines = path.read_text().splitlines()
    lines[2] = corrupt(lines[2])
    path.write_text("\n".join(lines) + "\n")
    refused(capsys, folder, f"{path}, line 3: ", "train", "--output", folder)
    refused(capsys, folder, message, "train", "--output", folder)


def test_training_on_half_a_search(capsys: pytest.CaptureFixture[str], tmp_path: Path, finished: Path) -> None:
    folder = searched(finished, tmp_path / "run")
    path = folder / "seed-1" / "trees.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:4]))
    message = "holds 4 trees, not one for each of the 8 training scenes in their order: finish the search"
    refused(capsys, folder, message, "train", "--output", folder)
    path.write_bytes(b"")
    refused(capsys, folder, "is empty: search again", "train", "--output", folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"[{", "broken JSON"),
        (b"[]", "holds no dialogues"),
        (b"\xff\xfe", "not UTF-8"),
        (b'{"a": 1}\n', "fits none of the known forms"),
        (json.dumps([{"dialog": [{"text": 3, "speaker": "usr"}]}]).encode(), "the field 'situation' is missing"),
    ],
    ids=["empty", "broken", "no dialogues", "encoding", "no form", "wrong fields"],
)
def test_an_unusable_corpus(capsys: pytest.CaptureFixture[str], tmp_path: Path, content: bytes, message: str) -> None:
    data = tmp_path / "data.json"
    data.write_bytes(content)
    config = config_file(tmp_path, LABELS, data={"source": str(data)}, roles=None)
    refused(capsys, tmp_path, message, "run", "--config", config, "--output", tmp_path / "run")
    refused(capsys, tmp_path, str(data), "run", "--config", config, "--output", tmp_path / "run")


def test_wrong_field_types_are_skipped_or_with_strict_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, corpus: Path
) -> None:
    data = tmp_path / "data.txt"
    lines = corpus.read_text().splitlines()
    spoilt = {**json.loads(lines[3]), "situation": 3}
    data.write_text("\n".join([*lines[:3], json.dumps(spoilt), *lines[4:]]))
    config = config_file(tmp_path, data={"source": str(data)})
    arguments = ("--config", config, "--output", tmp_path / "run")
    message = f"{data}, dialogue 3: the field 'situation' must be text, not a number"
    refused(capsys, tmp_path, message, "search", *arguments, "--strict")
    assert run("search", *arguments) == 0
    assert f"skipped: {message}" in capsys.readouterr().err


def test_a_corpus_without_labels_to_learn_from(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, corpus: Path
) -> None:
    data = tmp_path / "data.txt"
    data.write_text(corpus.read_text().replace('"strategy"', '"something"'))
    config = config_file(tmp_path, LABELS, data={"source": str(data)}, roles=None)
    refused(
        capsys,
        tmp_path,
        "dialogue has a labelled turn of the supporter",
        "run",
        "--config",
        config,
        "--output",
        tmp_path / "run",
    )


def test_labels_of_another_inventory(capsys: pytest.CaptureFixture[str], tmp_path: Path, corpus: Path) -> None:
    config = config_file(tmp_path, LABELS, data={"source": str(corpus)}, roles=None, inventory="extes")
    message = "inventory: the labels are esconv's; choose that or aflow, not extes"
    refused(capsys, tmp_path, message, "run", "--config", config, "--output", tmp_path / "run")


def test_a_labels_run_has_nothing_to_search(capsys: pytest.CaptureFixture[str], tmp_path: Path, corpus: Path) -> None:
    config = config_file(tmp_path, LABELS, data={"source": str(corpus)}, roles=None)
    message = "experiment: this run learns from recorded dialogues and has nothing to search"
    refused(capsys, tmp_path, message, "search", "--config", config, "--output", tmp_path / "run")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seed", 7], "choose among the run's seeds (0, 1)"),
        (["--method", "trajectory_balance"], "methods (behaviour_cloning, afpo_anchored)"),
        (["--locale", "atlantis"], "--locale: "),
    ],
)
def test_a_chat_with_nobody(
    capsys: pytest.CaptureFixture[str], finished: Path, options: list[object], message: str
) -> None:
    refused(capsys, finished, message, "chat", "--output", finished, *options)


@pytest.mark.parametrize("count", ["0", "-1", "two"])
def test_a_chat_with_too_few_strategies(capsys: pytest.CaptureFixture[str], finished: Path, count: str) -> None:
    with pytest.raises(SystemExit) as caught:
        run("chat", "--output", finished, "--top-k", count)
    assert caught.value.code == 2
    assert "give a number from 1" in capsys.readouterr().err


def searched_copy(finished: Path, tmp_path: Path) -> Path:
    """The search of ``finished``, and a folder beside it for another run."""
    (tmp_path / "other").mkdir()
    return searched(finished, tmp_path / "other")


def test_training_on_trees_of_other_settings(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, finished: Path, corpus: Path
) -> None:
    for sections, message in (
        (section("search", simulations=9), f"{finished} was searched with search ("),
        (
            section("roles", max_turns=1),
            f"{finished} was searched with roles (kind='simulated' max_turns=2), not (",
        ),
        (section("data", limit=9), f"{finished} was searched with data "),
        ({"seeds": [0, 5]}, f"{finished / 'seed-5' / 'trees.jsonl'} is missing: search first"),
        (
            {**LABELS, "data": {"source": str(corpus)}, "inventory": "aflow"},
            f"{finished} was searched with experiment ",
        ),
    ):
        arguments = ("--config", config_file(tmp_path, **sections), "--output", tmp_path / "run")
        refused(capsys, tmp_path, message, "train", *arguments, "--trees", finished)
    arguments = ("--config", config_file(tmp_path), "--output", tmp_path / "run")
    refused(capsys, tmp_path, "holds no run", "train", *arguments, "--trees", tmp_path / "nowhere")


def test_training_on_half_a_search_of_another_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, finished: Path
) -> None:
    trees = searched_copy(finished, tmp_path) / "seed-1" / "trees.jsonl"
    trees.write_text("".join(trees.read_text().splitlines(keepends=True)[:4]))
    arguments = ("--config", config_file(tmp_path), "--output", tmp_path / "run", "--trees", tmp_path / "other")
    refused(capsys, tmp_path, f"{trees} holds 4 trees, not one for each of the 8", "train", *arguments)


def test_a_run_of_no_task(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = config_file(tmp_path)
    command = ["run", "--config", str(config), "--output", str(tmp_path / "run")]
    refusals.refused(capsys, tmp_path, "task is missing: name it with --task module:object", lambda: main(command))
