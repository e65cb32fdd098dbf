"""The bundled tokenizer is what its builder builds, keeps every text, and names strategies in one token."""

import json

import pytest

from examples.aflow_esc.simulated import all_phrases
from examples.aflow_esc.strategies import AFLOW, ESCONV, EXTES
from examples.aflow_esc.task import TASK
from examples.aflow_esc.tokenizer.build import corpus
from gflowdial.dialogue.config import ComputeConfig
from gflowdial.dialogue.language_models import load_tokenizer, train_tokenizer
from gflowdial.dialogue.model_config import TinyModelConfig

assert TASK.tokenizer is not None
TOKENIZER = load_tokenizer(TinyModelConfig(kind="tiny"), TASK.tokenizer, ComputeConfig())


def tokens(text: str) -> list[int]:
    return list(TOKENIZER(text, add_special_tokens=False)["input_ids"])


def test_the_shipped_tokenizer_is_the_built_one() -> None:
    shipped, built = (json.loads(each.backend_tokenizer.to_str()) for each in (TOKENIZER, train_tokenizer(corpus())))
    assert shipped["model"] == built["model"]
    assert len(TOKENIZER) <= 2048


@pytest.mark.parametrize(
    "text", ["Plain words.", "\nSeeker: café, 日本語 🙂\u2028 \t end", " " * 9, "<strange> & \x00"]
)
def test_every_text_survives(text: str) -> None:
    assert TOKENIZER.decode(tokens(text)) == text


def test_every_strategy_is_one_token() -> None:
    names = [name for inventory in (AFLOW, ESCONV, EXTES) for name in inventory.names]
    assert all(len(tokens(f" {name}")) == 1 for name in names)


def test_the_simulated_phrases_are_short() -> None:
    lengths = [len(tokens(f" {phrase}")) for phrase in all_phrases()]
    assert sum(lengths) / len(lengths) < 4
