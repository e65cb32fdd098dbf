"""Trees count alike, however they are divided among processes, batches that are accumulated and passes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import two_processes
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from two_processes import by_rollouts, on_trees

from gflowdial.training.methods import method, method_names
from gflowdial.training.processes import Share
from gflowdial.training.trainer import FlowTrainer


@given(trees=st.integers(1, 50), count=st.integers(1, 9))
def test_each_tree_is_one_process_own_and_counts_alike(trees: int, count: int) -> None:
    shares = [Share(index, count) for index in range(count)]
    numbers = list(range(trees))
    assert [number for share in shares for number in numbers[share.of(trees)]] == numbers
    for share in shares:
        read = share.read(numbers)
        assert read, "every process takes part in the exchange"
        own = len(numbers[share.of(trees)])
        # DDP divides by the number of processes: each tree of the batch has the weight 1/trees.
        assert share.weight(trees) / count / len(read) == pytest.approx(1 / trees if own else 0)


def test_a_process_alone_does_as_without_others() -> None:
    alone = Share(0, 1)
    assert alone.weight(7) == 1.0
    assert alone.read([3, 4]) == alone.gathered([3, 4]) == [3, 4]
    assert alone.of_first({"a": 1}) == {"a": 1}


def weights(trainer: FlowTrainer) -> dict[str, Tensor]:
    trainer.train()
    return dict(trainer.model.named_parameters())


QUICK = ("behaviour_cloning", "afpo_released_second", "subtrajectory_balance", "rloo")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in method_names()]
)
def test_batches_of_unequal_size_accumulate_to_the_gradient_of_one(tmp_path: Path, name: str) -> None:
    """Nine trees as 4 + 4 + 1, and as 9."""
    make = by_rollouts if method(name).on_policy else on_trees
    settings = {"max_steps": 1, "learning_rate": 1.0}
    at_once = make(name, tmp_path, per_device_train_batch_size=9, **settings)
    in_parts = make(name, tmp_path, per_device_train_batch_size=4, gradient_accumulation_steps=3, **settings)
    before = {key: parameter.detach().clone() for key, parameter in at_once.model.named_parameters()}
    whole, parts = weights(at_once), weights(in_parts)
    moved = max(float((whole[key] - before[key]).detach().abs().max()) for key in before)
    assert moved > 1e-3
    for key, parameter in whole.items():
        torch.testing.assert_close(
            parts[key], parameter, atol=1e-4 * moved, rtol=1e-5, msg=lambda text: f"{name} {text}"
        )
    one, other = (
        {key: value for key, value in trainer.state.log_history[0].items() if key.startswith("loss")}
        for trainer in (at_once, in_parts)
    )
    assert one == pytest.approx(other, rel=1e-5, abs=1e-6)
    assert one.pop("loss") == pytest.approx(sum(one.values()), rel=1e-5) or not one


def test_rollouts_of_a_step_do_not_depend_on_how_it_is_divided(tmp_path: Path) -> None:
    at_once = by_rollouts("trajectory_balance", tmp_path, per_device_train_batch_size=9, max_steps=1)
    in_parts = by_rollouts(
        "trajectory_balance", tmp_path, per_device_train_batch_size=4, gradient_accumulation_steps=3, max_steps=1
    )
    at_once.train()
    in_parts.train()
    assert [each.tree.states for each in at_once.trees] == [each.tree.states for each in in_parts.trees]


@pytest.mark.slow
def test_two_processes_end_as_one_does_for_every_method(tmp_path: Path) -> None:
    script = two_processes.__file__
    root = Path(script).parents[2]
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        script,
        str(tmp_path),
    ]
    surroundings = os.environ | {
        "PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(launch, cwd=root, env=surroundings, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-5000:]
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    alone = two_processes.trained(tmp_path)
    assert set(method_names()) < set(alone) == set(first) == set(second)
    for name, found in alone.items():
        for key, values in found.items():
            assert torch.equal(first[name][key], second[name][key]), (name, key)
            torch.testing.assert_close(
                first[name][key], values, atol=1e-5, rtol=1e-4, msg=lambda text, at=(name, key): f"{at}: {text}"
            )
