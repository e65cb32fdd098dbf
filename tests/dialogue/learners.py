"""Small language-model policies on any inventory, training steps of theirs on search trees, and chats with them."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tiny_model import tiny_model
from transformers import set_seed

from gflowdial.dialogue import Inventory, Task, Template
from gflowdial.dialogue.chat import chat
from gflowdial.dialogue.encoding import DialogueEncoder, DialogueTexts
from gflowdial.dialogue.environment import DialogueState
from gflowdial.dialogue.policies import LearnedPolicy
from gflowdial.dialogue.speakers import DescribingAgent, Speaker
from gflowdial.estimators.language_model import LanguageModelPolicy
from gflowdial.search import SearchTree
from gflowdial.training.methods import Method
from gflowdial.training.trainer import FlowTrainer, FlowTrainingArguments
from gflowdial.training.trees import Condition


def untrained(inventory: Inventory) -> LearnedPolicy:
    """A policy whose weights are always the same."""
    model, tokenizer = tiny_model()
    encoder = DialogueEncoder(tokenizer, inventory, DialogueTexts(Template(), "Agent", "Partner"))
    set_seed(0)
    return LearnedPolicy(LanguageModelPolicy.with_lora(model, encoder.names, rank=4, alpha=8).eval(), encoder)


def trainer(
    policy: LearnedPolicy,
    trees: list[SearchTree[DialogueState]],
    method: Method,
    folder: Path,
    conditions: Callable[[torch.Generator], Sequence[Condition]] | None = None,
    validation: Sequence[SearchTree[DialogueState]] = (),
    **settings: Any,
) -> FlowTrainer:
    """A trainer of ``policy`` on ``trees``, one step by default."""
    defaults = {
        "output_dir": str(folder),
        "max_steps": 1,
        "per_device_train_batch_size": len(trees),
        "learning_rate": 1e-2,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
    }
    return FlowTrainer(
        policy.model,
        FlowTrainingArguments(**{**defaults, **settings}),
        method.loss,
        trees,
        tokens=policy.encoder.tree_tokens,
        branch=policy.encoder.branch,
        temperature=0.25,
        untried=method.untried,
        read_leaves=method.read_leaves,
        conditions=conditions,
        validation=validation,
    )


def loss_of(made: FlowTrainer) -> float:
    """The loss on all trees."""
    with torch.no_grad():
        return float(made.compute_loss(made.model.eval(), made.data_collator(made.trees)))


def talk(
    task: Task,
    policy: LearnedPolicy,
    lines: str,
    speaker: Speaker | None = None,
    *,
    ranks_by_value: bool = False,
    top_k: int = 1,
    locale: str = "international",
) -> str:
    """What a chat prints when a person says ``lines`` in the task's first scene."""
    scene = task.scenes()[0]
    manner = speaker or Speaker(DescribingAgent(policy.encoder.inventory), "Replies are canned.")
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as out:
        said.write(lines)
        said.seek(0)
        chat(
            task,
            policy,
            manner,
            lambda text: replace(scene, opening=text),
            ranks_by_value=ranks_by_value,
            top_k=top_k,
            locale=locale,
            lines=said,
            out=out,
        )
        out.seek(0)
        return out.read()
