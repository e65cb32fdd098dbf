"""Training a language-model policy with `transformers.Trainer`. Needs the extra ``lm``."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from gflowdial.estimators.language_model import LanguageModelPolicy
from gflowdial.losses import Loss, inputs_of, loss_on
from gflowdial.losses.reading import loss_named
from gflowdial.search.tree import SearchTree
from gflowdial.training.conditions import policy_inputs, readings
from gflowdial.training.trees import Condition, EncodedTree, TreeBatch, TreeCollator, Untried

try:
    from transformers import Trainer, TrainerCallback, TrainingArguments
except ImportError as error:
    raise ImportError("the trainer needs the extra `lm`: pip install 'gflowdial[lm]'") from error

__all__ = ["FlowTrainer", "FlowTrainingArguments"]


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


class FlowTrainer(Trainer):
    """`transformers.Trainer` on search trees: a batch is a forest, packed into as few forward passes as fit.

    Devices, mixed precision, logging, checkpoints and their resumption are the parent's; checkpoints are written by
    `LanguageModelPolicy.save_pretrained`. For a loss that reads the reference policy it is read once, before training:
    its weights do not change.

    Args:
        policy: the policy to train.
        args: how to train.
        loss: what it minimises: the name of a loss, a partial of one, a `losses.Sum`, or any function whose parameters
            are inputs that `read_trees` gives; `training.methods` has the usual ones.
        trees: search trees, or recorded dialogues as chains; one with several roots is split. A batch holds
            ``per_device_train_batch_size`` of them.
        tokens: what each node of a tree adds to its parent's prefix.
        branch: the tokens after which a state is read.
        temperature: τ of the target R = exp(G/τ), in units of the return.
        untried: what becomes of actions that were never tried; see `Untried`.
        floor: the share of ``untried="floor"``.
        read_leaves: whether leaves are read too, for losses with a free flow there.
        anchor_frontier: whether leaves that have not ended are anchored as if they had; see `TreeCollator`.
        conditions: draws the conditions of a batch, for a policy that depends on one; see `TreeCollator`.
        callbacks: the parent's.

    Raises:
        ValueError: if there are no trees, no loss has the name, or a setting is out of range.
    """

    def __init__(
        self,
        policy: LanguageModelPolicy,
        args: FlowTrainingArguments,
        loss: Loss,
        trees: Sequence[SearchTree[Any]],
        *,
        tokens: Callable[[SearchTree[Any]], list[list[int]]],
        branch: Sequence[int],
        temperature: float,
        untried: Untried = "free",
        floor: float = 0.1,
        read_leaves: bool = False,
        anchor_frontier: bool = False,
        conditions: Callable[[], Sequence[Condition]] | None = None,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        if not trees:
            raise ValueError("there are no trees to train on")
        self.loss = loss_named(loss)
        self.collator = TreeCollator(
            branch,
            temperature,
            untried,
            floor,
            read_leaves,
            anchor_frontier,
            args.tokens_per_pass,
            policy.continuations,
            conditions,
        )
        parts = [part for tree in trees for part in (tree.split() if tree.forest.num_trees > 1 else [tree])]
        self.trees = [EncodedTree(tree, tokens(tree)) for tree in parts]
        # The parent drops what the model's forward does not name; trees are not columns.
        args.remove_unused_columns = False
        super().__init__(
            model=policy,
            args=args,
            data_collator=self.collator,
            train_dataset=self.trees,
            callbacks=callbacks,
        )

    args: FlowTrainingArguments

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """The parent's training, after the reference policy was read, if the loss reads it."""
        if inputs_of(self.loss) & {"log_reference", "log_reference_policy"}:
            self.read_reference()
        return super().train(*args, **kwargs)

    @torch.no_grad()
    def read_reference(self) -> None:
        """Let every tree carry the reference policy's log-probabilities."""
        policy = cast(LanguageModelPolicy, self.model).eval()
        device = policy.reference_head.device
        known: list[EncodedTree] = []
        for part in self.collator.passes(self.trees):
            batch = self.collator.collate(part)
            reads = [int(self.collator.reads(each.tree).sum()) for each in part]
            read = torch.split(policy.log_reference(batch.packed.to(device)).cpu(), reads)
            known += [replace(each, log_reference=rows) for each, rows in zip(part, read, strict=True)]
        # The parent holds this very list.
        self.trees[:] = known

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
        """The loss on a batch of one pass."""
        (batch,) = inputs["passes"]
        batch = batch.to(self.args.device)
        output = model(*policy_inputs(batch))
        found = [weight * loss_on(self.loss, reading) for weight, reading in readings(output, batch)]
        loss = inputs.get("share", 1.0) * torch.stack(found).mean()
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
