"""Every loss under ``torch.compile(fullgraph=True)``: the values and gradients of eager code."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def run(backend: str, *names: str) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{HERE}:{HERE.parents[1]}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "compiled_losses.py"), backend, *names]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-4000:]


def test_subtb_compiles() -> None:
    run("aot_eager", "subtrajectory balance")


def test_subtb_compiles_a_few_times_for_many_batches() -> None:
    run("many", "36", "4", "subtrajectory balance")


@pytest.mark.slow
def test_every_loss_compiles_a_few_times_for_hundreds_of_batches() -> None:
    run("many", "200", "6")


@pytest.mark.slow
def test_every_loss_compiles() -> None:
    run("aot_eager")


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="Inductor needs a C++ compiler on the CPU")
def test_inductor_agrees() -> None:
    run("inductor", "detailed balance", "subtrajectory balance")
