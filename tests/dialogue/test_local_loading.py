"""Language models by name: folders, dtypes, and what is said of those that cannot be loaded."""

import json
from pathlib import Path

import pytest
import torch
from tiny_model import tiny_model

from gflowdial.dialogue.local import LocalModel, ModelError, load_language_model
from gflowdial.dialogue.local.model import Prompt


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    model, tokenizer = tiny_model()
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def test_a_folder_loads(folder: Path) -> None:
    model, tokenizer = load_language_model(str(folder))
    assert model.dtype == torch.float32
    prompts = [Prompt("s", "I lost my job.")]
    assert LocalModel(model, tokenizer).write(prompts, 8) == LocalModel(*tiny_model()).write(prompts, 8)


@pytest.mark.parametrize(("dtype", "wanted"), [("bfloat16", torch.bfloat16), ("auto", torch.float32)])
def test_roles_run_in_the_models_dtype(folder: Path, dtype: str, wanted: torch.dtype) -> None:
    model, tokenizer = load_language_model(str(folder), dtype=dtype)
    assert model.dtype == wanted
    local = LocalModel(model, tokenizer)
    prompts = [Prompt("s", "I lost my job."), Prompt("s", "My dog died last week."), Prompt("s", "Hi.")]
    assert local.write(prompts, 6) == [local.write([prompt], 6)[0] for prompt in prompts]
    assert local.read(prompts, local.probe(["Strategy:"], [" Question", " Others"])).dtype == "float64"
    assert local.prefixes.bytes_used > 0


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_roles_run_on_the_models_device(folder: Path, dtype: str) -> None:
    local = LocalModel(*load_language_model(str(folder), device=torch.device("cuda"), dtype=dtype))
    prompts = [Prompt("s", "I lost my job."), Prompt("s", "My dog died last week.")]
    probe = local.probe(["Strategy:"], [" Question", " Others", " Other thing"])
    read = local.read(prompts, probe)
    assert read.shape == (2, 1, 3)
    assert local.write(prompts, 6, temperature=1.0) == [
        local.write([prompt], 6, temperature=1.0)[0] for prompt in prompts
    ]
    if dtype == "float32":
        here = LocalModel(*load_language_model(str(folder)))
        assert local.write(prompts, 6) == here.write(prompts, 6)
        assert abs(read - here.read(prompts, probe)).max() < 1e-2


def test_what_cannot_be_loaded_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"^no language model 'nowhere': give 'smollm2', a folder"):
        load_language_model("nowhere")
    with pytest.raises(ModelError, match=" holds no language model and tokenizer"):
        load_language_model(str(tmp_path))
    for dtype in ("float33", "nn"):
        with pytest.raises(ModelError, match=f"dtype is '{dtype}': give 'auto', 'float32'"):
            load_language_model(str(folder), dtype=dtype)
    with pytest.raises(ModelError, match="device is 'cuda:99', which cannot be used"):
        load_language_model(str(folder), device="cuda:99")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "own.py").write_text("raise SystemExit('code of the model was run')")
    with pytest.raises(ModelError, match="holds no language model"):
        load_language_model(str(tmp_path))
