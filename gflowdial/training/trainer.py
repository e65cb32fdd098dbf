"""Training a language-model policy with `transformers.Trainer`. Needs the extra ``lm``."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from gflowdial.estimators.language_model import LanguageModelPolicy, PolicyOutput
from gflowdial.losses import Loss, Sum, inputs_of, loss_on
from gflowdial.losses.reading import loss_named
from gflowdial.search.tree import SearchTree
from gflowdial.training.conditions import policy_inputs, readings
from gflowdial.training.rollouts import Rollouts
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
    `LanguageModelPolicy.save_pretrained`. For a loss that reads the reference policy it is read once per tree: its
    weights do not change. With `Rollouts` the trees grow: each step the policy's own trajectories join those of the
    batch. The log has the terms of a `losses.Sum` by name, and the environment steps taken so far.

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
        conditions: draws the conditions of a batch, for a policy that depends on one. A validation draws the same ones
            each time.
        validation: trees on which ``evaluate`` computes the loss, ``eval_loss``.
        measure: further figures of the policy at an evaluation, such as its exact return, by name.
        rollouts: how the trees grow; None: they stay as they are.
        on_policy: whether a step learns from its own rollouts alone, as policy gradients must.
        steps_per_rollout: on policy, how many steps learn from the same rollouts, for a loss that reads
            ``log_behaviour``.
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
        conditions: Callable[[torch.Generator], Sequence[Condition]] | None = None,
        validation: Sequence[SearchTree[Any]] = (),
        measure: Callable[[], Mapping[str, float]] | None = None,
        rollouts: Rollouts[Any] | None = None,
        on_policy: bool = False,
        steps_per_rollout: int = 1,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        if not trees:
            raise ValueError("there are no trees to train on")
        if steps_per_rollout < 1:
            raise ValueError(f"steps_per_rollout is {steps_per_rollout}: give 1 or more")
        if on_policy and rollouts is None:
            raise ValueError("on_policy is set and there are no rollouts: say how the policy acts")
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
            conditions and partial(conditions, torch.Generator().manual_seed(args.seed)),
        )
        self.conditions = conditions
        self.tokens, self.measure, self.rollouts, self.on_policy = tokens, measure, rollouts, on_policy
        self.trees, self.validation = self._encoded(trees), self._encoded(validation)
        self.steps_per_rollout, self._rolled_out = steps_per_rollout, list[EncodedTree]()
        self.environment_steps = 0
        self._terms: dict[str, list[Tensor]] = {}
        # The parent drops what the model's forward does not name; trees are not columns.
        args.remove_unused_columns = False
        super().__init__(
            model=policy,
            args=args,
            # Trees that grow are looked up by their numbers when a step begins.
            data_collator=self.collator if rollouts is None else lambda numbers: {"numbers": numbers},
            train_dataset=self.trees if rollouts is None else range(len(self.trees)),
            eval_dataset=self.validation or None,
            callbacks=callbacks,
        )

    args: FlowTrainingArguments

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """The parent's training, after the reference policy was read, if the loss reads it."""
        self.read_reference()
        return super().train(*args, **kwargs)

    def read_reference(self) -> None:
        """Let every tree carry the reference policy's log-probabilities, if the loss reads them."""
        # The parent holds these very lists.
        self.trees[:], self.validation[:] = self.with_reference(self.trees), self.with_reference(self.validation)

    def _encoded(self, trees: Sequence[SearchTree[Any]]) -> list[EncodedTree]:
        parts = [part for tree in trees for part in (tree.split() if tree.forest.num_trees > 1 else [tree])]
        return [EncodedTree(tree, self.tokens(tree)) for tree in parts]

    @torch.no_grad()
    def with_reference(self, trees: list[EncodedTree]) -> list[EncodedTree]:
        """The trees with the reference policy's log-probabilities, if the loss reads them."""
        if not any("reference" in name for name in inputs_of(self.loss)):
            return trees
        policy = cast(LanguageModelPolicy, self.model).eval()
        device = policy.reference_head.device
        known: list[EncodedTree] = []
        for part in self.collator.passes(trees):
            batch = self.collator.collate(part)
            reads = [int(self.collator.reads(each.tree).sum()) for each in part]
            read = torch.split(policy.log_reference(batch.packed.to(device)).cpu(), reads)
            known += [replace(each, log_reference=rows) for each, rows in zip(part, read, strict=True)]
        return known

    def roll_out(self, numbers: Sequence[int]) -> list[EncodedTree]:
        """What a step learns from at these trees: rollouts of the present policy, and what is replayed beside them."""
        rollouts, step = cast(Rollouts[Any], self.rollouts), self.state.global_step
        cast(nn.Module, self.model).eval()
        before = [self.trees[number].tree for number in numbers]
        if self.on_policy:
            if step % self.steps_per_rollout == 0 or not self._rolled_out:
                fresh = rollouts.fresh(before, step)
                self.environment_steps += sum(map(steps_of, fresh))
                self._rolled_out = self.with_reference(self._encoded(fresh))
            return self._rolled_out
        if rollouts.number:
            grown = rollouts.grown(before, step)
            self.environment_steps += sum(map(steps_of, grown)) - sum(map(steps_of, before))
            for number, each in zip(numbers, self._encoded(grown), strict=True):
                self.trees[number] = each
        looked_at = []
        for old, number in zip(before, numbers, strict=True):
            each = self.trees[number]
            nodes = rollouts.drawn(old, each.tree, step)
            tokens = [each.tokens[node] for node in nodes.nonzero().squeeze(1).tolist()]
            looked_at.append(EncodedTree(each.tree.select(nodes), tokens))
        return self.with_reference(looked_at)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """The mean over all trees of the batch, in its passes; processes exchange gradients after the last."""
        if "numbers" in inputs:
            inputs = dict(self.collator(self.roll_out(inputs["numbers"])))
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
        loss = inputs.get("share", 1.0) * self._mean_loss(output, batch, log=True)
        return (loss, output) if return_outputs else loss

    def _mean_loss(self, output: PolicyOutput, batch: TreeBatch, *, log: bool = False) -> Tensor:
        """The mean over the conditions of a batch, if it has some."""
        found = []
        for weight, reading in readings(output, batch):
            if isinstance(self.loss, Sum):
                terms = self.loss.terms(reading)
                for name, term in terms.items() if log else ():
                    self._terms.setdefault(f"loss_{name}", []).append(term.detach())
                found.append(weight * torch.stack(list(terms.values())).sum())
            else:
                found.append(weight * loss_on(self.loss, reading))
        return torch.stack(found).mean()

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """The parent's log with the mean of each term since the last entry, and the environment steps so far."""
        if "loss" in logs:
            logs |= {name: float(torch.stack(values).mean()) for name, values in self._terms.items()}
            self._terms.clear()
        if self.rollouts is not None:
            logs["environment_steps"] = self.environment_steps
        super().log(logs, *args, **kwargs)

    @torch.no_grad()
    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        """The mean loss over the validation trees, and what ``measure`` tells.

        The loss of a policy gradient does not tell how good a policy is: on policy there is ``measure`` alone.
        """
        model = cast(nn.Module, self.model).eval()
        total, collator = 0.0, self.collator
        if self.conditions is not None:
            collator = replace(collator, conditions=partial(self.conditions, torch.Generator().manual_seed(0)))
        trees = [] if self.on_policy else self.validation
        for part in collator.passes(trees):
            batch = collator.collate(part).to(self.args.device)
            value = self._mean_loss(model(*policy_inputs(batch)), batch)
            total += batch.forest.num_trees * float(value)
        metrics = {f"{metric_key_prefix}_loss": total / len(trees)} if trees else {}
        metrics |= dict(self.measure()) if self.measure is not None else {}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The parent's optimizer, with the heads in a group of their own."""
        if self.optimizer is None:
            kind, options = self.get_optimizer_cls_and_kwargs(self.args)
            trained = [
                (name, parameter)
                for name, parameter in cast(nn.Module, model or self.model).named_parameters()
                if parameter.requires_grad
            ]
            # All that is trained of the language model: an adapter, or its own weights.
            model_weights = [parameter for name, parameter in trained if "language_model." in name]
            heads = [parameter for name, parameter in trained if "language_model." not in name]
            head_rate = self.args.head_learning_rate
            self.optimizer = kind(
                [
                    {"params": model_weights, "weight_decay": self.args.weight_decay},
                    {"params": heads, "weight_decay": 0.0} | ({} if head_rate is None else {"lr": head_rate}),
                ],
                **options,
            )
        return self.optimizer

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:  # noqa: ARG002
        self.accelerator.unwrap_model(self.model).save_pretrained(output_dir or self.args.output_dir)

    def _load_best_model(self) -> None:
        self.accelerator.unwrap_model(self.model).load_weights(self.state.best_model_checkpoint)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self.accelerator.unwrap_model(model or self.model).load_weights(resume_from_checkpoint)


def steps_of(tree: SearchTree[Any]) -> int:
    """How many environment steps a tree shows: an action per node, or per outcome of chance."""
    return int((~tree.chance).sum()) - tree.forest.num_trees
