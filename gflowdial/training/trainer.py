"""Training a language-model policy with `transformers.Trainer`. Needs the extra ``lm``."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from gflowdial.estimators.language_model import LanguageModelPolicy
from gflowdial.training.objectives import Objective, needs_reference, objective_terms
from gflowdial.training.trees import TreeBatch, TreeCollator, TreeExample

try:
    from transformers import Trainer, TrainerCallback, TrainingArguments
except ImportError as error:
    raise ImportError("the trainer needs the extra `lm`: pip install 'gflowdial[lm]'") from error

__all__ = ["FlowTrainer", "FlowTrainingArguments", "TreeDataset"]


@dataclass
class FlowTrainingArguments(TrainingArguments):
    """`transformers.TrainingArguments` with what training on trees adds.

    Attributes:
        head_learning_rate: learning rate of the policy and value heads; the adapter's where not given.
        tokens_per_pass: how many tokens the language model reads at once. A batch of more takes several passes, which
            bounds the memory and leaves the gradient as it is; a larger tree has a pass of its own.
    """

    head_learning_rate: float | None = field(default=None)
    tokens_per_pass: int = field(default=4096)


class TreeDataset(Dataset[TreeExample]):
    """Trees in memory."""

    def __init__(self, examples: Sequence[TreeExample]) -> None:
        self.trees = list(examples)

    def __len__(self) -> int:
        return len(self.trees)

    def __getitem__(self, index: int) -> TreeExample:
        return self.trees[index]


class FlowTrainer(Trainer):
    """`transformers.Trainer` on search trees: a batch is a forest, packed into as few forward passes as fit.

    Devices, mixed precision, logging, checkpoints and their resumption are the parent's; checkpoints are written by
    `LanguageModelPolicy.save_pretrained`. For an objective with a KL term the reference policy is read once, before
    training: its weights do not change.

    Args:
        policy: the policy to train.
        args: how to train.
        objective: what to train it for.
        examples: the trees; a batch holds ``per_device_train_batch_size`` of them.
        branch: the tokens after which a state is read.
        callbacks: the parent's.

    Raises:
        ValueError: if there are no examples.
    """

    def __init__(
        self,
        policy: LanguageModelPolicy,
        args: FlowTrainingArguments,
        objective: Objective,
        examples: Sequence[TreeExample],
        *,
        branch: Sequence[int],
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        if not examples:
            raise ValueError("there are no trees to train on")
        collator = TreeCollator(
            branch,
            temperature=objective.temperature,
            untried=objective.untried,
            floor=objective.floor,
            read_leaves=objective.reads_leaves,
            tokens_per_pass=args.tokens_per_pass,
        )
        self.objective, self.collator, self.examples = objective, collator, TreeDataset(examples)
        # The parent drops what the model's forward does not name; trees are not columns.
        args.remove_unused_columns = False
        super().__init__(
            model=policy, args=args, data_collator=collator, train_dataset=self.examples, callbacks=callbacks
        )

    objective: Objective
    args: FlowTrainingArguments

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """The parent's training, after the reference policy was read, if the objective needs it."""
        if needs_reference(self.objective):
            self.read_reference()
        return super().train(*args, **kwargs)

    @torch.no_grad()
    def read_reference(self) -> None:
        """Let every example carry the reference policy's log-probabilities."""
        policy = cast(LanguageModelPolicy, self.model).eval()
        device = policy.reference_head.device
        known: list[TreeExample] = []
        for part in self.collator.passes(self.examples.trees):
            batch = self.collator.collate(part)
            read = iter(policy.log_reference(batch.packed.to(device)).double().cpu().numpy())
            for example in part:
                log_reference = np.full_like(example.log_prior, np.nan)
                for node in np.flatnonzero(self.collator.reads(example)):
                    log_reference[node] = next(read)
                known.append(replace(example, log_reference=log_reference))
        self.examples.trees = known

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """The mean over all trees of the batch, in its passes; processes exchange gradients after the last."""
        passes: list[TreeBatch] = inputs["passes"]
        trees = sum(batch.forest.num_trees for batch in passes)
        total = torch.zeros((), device=self.args.device)
        for number, batch in enumerate(passes, start=1):
            waits = self.accelerator.no_sync(model) if number < len(passes) else nullcontext()
            with waits:
                part = {"passes": [batch], "share": batch.forest.num_trees / trees}
                total += super().training_step(model, part, *args, **kwargs)
        return total

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,  # noqa: ARG002 (the parent's; a loss here is a mean over trees)
    ) -> Any:
        """The sum of the objective's terms on a batch of one pass."""
        (batch,) = inputs["passes"]
        batch = batch.to(self.args.device)
        output = model(batch.packed)
        terms = objective_terms(self.objective, output, batch, batch.log_reference)
        loss = inputs.get("share", 1.0) * torch.stack(list(terms.values())).sum()
        return (loss, output) if return_outputs else loss

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The parent's optimizer, with the heads in a group of their own."""
        if self.optimizer is None:
            kind, options = self.get_optimizer_cls_and_kwargs(self.args)
            trained = [
                (name, parameter)
                for name, parameter in cast(nn.Module, model or self.model).named_parameters()
                if parameter.requires_grad
            ]
            adapter = [parameter for name, parameter in trained if "lora_" in name]
            heads = [parameter for name, parameter in trained if "lora_" not in name]
            head_rate = self.args.head_learning_rate
            self.optimizer = kind(
                [
                    {"params": adapter, "weight_decay": self.args.weight_decay},
                    {"params": heads, "weight_decay": 0.0} | ({} if head_rate is None else {"lr": head_rate}),
                ],
                **options,
            )
        return self.optimizer

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:  # noqa: ARG002
        self.accelerator.unwrap_model(self.model).save_pretrained(output_dir or self.args.output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self.accelerator.unwrap_model(model or self.model).load_weights(resume_from_checkpoint)
