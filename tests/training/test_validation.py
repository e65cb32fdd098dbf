"""Evaluation on validation trees and on others, early stopping, and the best checkpoint."""

from pathlib import Path

import pytest
import torch
from transformers import EarlyStoppingCallback
from two_processes import TREES, on_trees

from gflowdial.search import SearchTree
from gflowdial.training.trainer import FlowTrainer

WHOLE = [each.tree for each in TREES]


def loss_of(trainer: FlowTrainer, trees: list[SearchTree[int]]) -> float:
    """The mean loss over trees, in one pass."""
    encoded = [each for each in TREES if any(each.tree is tree for tree in trees)]
    with torch.no_grad():
        return float(trainer.compute_loss(trainer.model.eval(), trainer.data_collator(trainer.with_reference(encoded))))


@pytest.mark.parametrize("name", ["afpo", "relative_trajectory_balance"])
def test_the_loss_of_trees_that_are_handed_in(tmp_path: Path, name: str) -> None:
    trainer = on_trees(name, tmp_path, tokens_per_pass=40)
    wide = on_trees(name, tmp_path)
    first, rest = WHOLE[:3], WHOLE[3:]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(loss_of(wide, first), rel=1e-5)
    assert trainer.evaluate(rest)["eval_loss"] == pytest.approx(loss_of(wide, rest), rel=1e-5)
    found = trainer.evaluate({"near": first, "far": rest}, metric_key_prefix="test")
    assert {key: value for key, value in found.items() if "loss" in key} == pytest.approx(
        {"test_near_loss": loss_of(wide, first), "test_far_loss": loss_of(wide, rest)}, rel=1e-5
    )
    assert abs(found["test_near_loss"] - found["test_far_loss"]) > 1e-2
    assert [key for entry in trainer.state.log_history for key in entry if "loss" in key] == [
        "eval_loss",
        "eval_loss",
        "test_near_loss",
        "test_far_loss",
    ]


def test_nothing_to_evaluate_is_refused(tmp_path: Path) -> None:
    trainer = on_trees("afpo", tmp_path)
    trainer.validation.clear()
    with pytest.raises(ValueError, match="there is nothing to evaluate: give trees"):
        trainer.evaluate()


def test_training_stops_early_and_ends_with_the_best_weights(tmp_path: Path) -> None:
    trainer = on_trees(
        "detailed_balance",
        tmp_path,
        max_steps=40,
        learning_rate=0.3,
        eval_strategy="steps",
        eval_steps=2.0,
        save_strategy="steps",
        save_steps=2.0,
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
    )
    trainer.add_callback(EarlyStoppingCallback(early_stopping_patience=2))
    trainer.train()
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert trainer.state.global_step == 2 * len(losses) < 40
    best = min(losses)
    assert losses.index(best) == len(losses) - 3, "two evaluations without a better one"
    assert trainer.evaluate()["eval_loss"] == pytest.approx(best, rel=1e-5)
    assert losses[-1] > best
