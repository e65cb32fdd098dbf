"""What every test stands on: no network, one thread, the same random examples each time, and a small language model."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, settings
from small_llama import small_llama
from transformers import LlamaForCausalLM

torch.set_num_threads(1)
settings.register_profile("repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("repeatable")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a CUDA device where there is none."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("no CUDA device")


@pytest.fixture(scope="session")
def tiny_llama() -> Callable[[int], LlamaForCausalLM]:
    """A fresh random Llama with 50 tokens for each call; see `small_llama`."""
    return small_llama
