"""Three steps of every method on trees; as a script, what one of several processes of `torchrun` ends with.

::

    PYTHONPATH=.:tests torchrun --nproc-per-node=2 tests/training/two_processes.py FOLDER
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from letters import BRANCH, Letters, acting, tokens
from random_trees import ACTIONS, encoded_tree
from small_llama import small_llama
from torch import Tensor

from gflowdial.estimators.language_model import LanguageModelPolicy
from gflowdial.search import SearchTree
from gflowdial.training.methods import method, method_names
from gflowdial.training.rollouts import Rollouts
from gflowdial.training.trainer import FlowTrainer, FlowTrainingArguments

BATCH = 4
# Batches of 4, 4 and 1 tree: in the last one a process has no tree of its own.
TREES = [encoded_tree(seed, 4 + seed % 5) for seed in range(9)]
TOKENS = {id(each.tree): each.tokens for each in TREES}


def policy() -> LanguageModelPolicy:
    made = LanguageModelPolicy.with_lora(small_llama(0), range(10, 10 + ACTIONS), rank=4, alpha=8)
    with torch.no_grad():
        # At the reference itself a hinge on the distance from it has the gradient of rounding.
        for parameter in made.parameters():
            parameter += 0.1 * torch.randn_like(parameter) * parameter.requires_grad
    return made


def arguments(folder: Path, **settings: Any) -> FlowTrainingArguments:
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    defaults = {
        "output_dir": str(folder),
        "max_steps": 3,
        "per_device_train_batch_size": BATCH // processes,
        # Adam would make a full step of what is nothing but rounding.
        "optim": "sgd",
        "learning_rate": 0.1,
        "lr_scheduler_type": "constant",
        "save_strategy": "no",
        "logging_steps": 1.0,
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 0,
    }
    if processes > 1:
        defaults["ddp_backend"] = "gloo"
    return FlowTrainingArguments(**(defaults | settings))


def on_trees(name: str, folder: Path, **settings: Any) -> FlowTrainer:
    chosen = method(name, kl_weight=0.5)
    return FlowTrainer(
        policy(),
        arguments(folder, **settings),
        chosen.loss,
        [each.tree for each in TREES],
        tokens=lambda tree: TOKENS[id(tree)],
        branch=BRANCH,
        temperature=0.25,
        untried=chosen.untried,
        read_leaves=chosen.read_leaves,
        validation=[each.tree for each in TREES[:3]],
    )


def by_rollouts(name: str, folder: Path, **settings: Any) -> FlowTrainer:
    chosen, model = method(name), policy()

    return FlowTrainer(
        model,
        arguments(folder, **settings),
        chosen.loss,
        [SearchTree.begin([(20 + root,)], ACTIONS) for root in range(9)],
        tokens=tokens,
        branch=BRANCH,
        temperature=0.25,
        rollouts=Rollouts(Letters(turns=2), acting(model), number=2, seed=3, replay=2),
        on_policy=chosen.on_policy,
        steps_per_rollout=chosen.steps_per_rollout,
    )


def trainers(folder: Path) -> dict[str, FlowTrainer]:
    """A trainer for each method, with rollouts of the policy where it is on policy, and a few in which trees grow."""
    found = {}
    for name in method_names():
        found[name] = (by_rollouts if method(name).on_policy else on_trees)(name, folder)
    found["growing"] = by_rollouts("trajectory_balance", folder, num_train_epochs=2.0, max_steps=-1)
    found["in passes"] = on_trees("subtrajectory_balance", folder, tokens_per_pass=40)
    found["accumulated"] = on_trees("detailed_balance", folder, gradient_accumulation_steps=2, max_steps=2)
    return found


def trained(folder: Path) -> dict[str, dict[str, Tensor]]:
    """By method, what is trained of a policy after its steps; the losses that are logged; the loss on validation."""
    found = {}
    for name, trainer in trainers(folder).items():
        trainer.train()
        weights = {n: p.detach().clone() for n, p in trainer.accelerator.unwrap_model(trainer.model).named_parameters()}
        logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        weights["logged"] = torch.tensor(logged)
        if trainer.rollouts is None:
            weights["eval_loss"] = torch.tensor(trainer.evaluate()["eval_loss"])
        else:
            weights["environment_steps"] = torch.tensor(trainer.environment_steps)
        found[name] = weights
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.save(trained(Path(sys.argv[1])), Path(sys.argv[1]) / f"{os.environ['RANK']}.pt")
