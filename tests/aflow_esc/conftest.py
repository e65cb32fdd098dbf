"""Finished miniature runs that tests look at; a test that changes one works on a copy."""

import json
from pathlib import Path
from typing import Any

import pytest
from miniature import LABELS, config_file, run

from examples.aflow_esc import tokenizer
from gflowdial.dialogue import labels


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a conversation run."""
    folder = tmp_path_factory.mktemp("conversation")
    assert run("run", "--config", config_file(folder), "--output", folder / "run") == 0
    return folder / "run"


def record(index: int) -> dict[str, Any]:
    """A dialogue of the one-dialogue-a-line form: three answers, whose strategies depend on the number."""
    names = ("Question", "Information", "Providing Suggestions", "Others")
    dialog = [{"text": f"Hello, I am worried about my job, number {index}.", "speaker": "usr"}]
    for turn in range(3):
        dialog += [
            {"text": f"I hear you, {turn}.", "speaker": "sys", "strategy": names[(index + turn) % 4]},
            {"text": f"Yes, and {turn} more things.", "speaker": "usr"},
        ]
    return {"emotion_type": "anxiety", "problem_type": "job", "situation": f"Job {index}.", "dialog": dialog}


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten made-up dialogues, one a line."""
    path = tmp_path_factory.mktemp("corpus") / "made-up.txt"
    path.write_text("".join(json.dumps(record(index)) + "\n" for index in range(10)))
    return path


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory, finished: Path, corpus: Path) -> Path:
    """The folder of a label run, with few resamples."""
    folder = tmp_path_factory.mktemp("labels")
    model = {"kind": "pretrained", "name": str(with_tokenizer(finished / "language_model", folder))}
    config = config_file(folder, LABELS, data={"source": str(corpus)}, model=model, roles=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(labels, "_RESAMPLES", 30)
        assert run("run", "--config", config, "--output", folder / "run") == 0
    return folder / "run"


def with_tokenizer(model: Path, folder: Path) -> Path:
    """A copy of the model's folder that holds the bundled tokenizer too."""
    copied = folder / "language_model"
    copied.mkdir()
    for source in (model, Path(str(tokenizer.__file__)).parent):
        for file in (*source.glob("*.json"), *source.glob("*.safetensors")):
            (copied / file.name).write_bytes(file.read_bytes())
    return copied
