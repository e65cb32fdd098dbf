"""Training a language-model policy with `transformers.Trainer`. Needs the extra ``lm``."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from gflowdial.estimators.language_model import LanguageModelPolicy, PolicyOutput
from gflowdial.losses import Loss, Sum, inputs_of, loss_on
from gflowdial.losses.reading import loss_named
from gflowdial.search.tree import SearchTree
from gflowdial.training.arguments import FlowTrainingArguments
from gflowdial.training.conditions import policy_inputs, readings
from gflowdial.training.processes import Share, whole_batches
from gflowdial.training.rollouts import Rollouts
from gflowdial.training.trees import Condition, EncodedTree, TreeBatch, TreeCollator, Untried

try:
    from transformers import Trainer, TrainerCallback
except ImportError as error:
    raise ImportError("the trainer needs the extra `lm`: pip install 'gflowdial[lm]'") from error

__all__ = ["FlowTrainer", "FlowTrainingArguments"]


class FlowTrainer(Trainer):
    """`transformers.Trainer` on search trees: a batch is a forest, packed into as few forward passes as fit.

    The gradient of a step is the mean over all of its trees, each of which counts alike: however many passes, batches
    that are accumulated and processes they are divided among.

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
        validation: trees on which ``evaluate`` computes the loss, ``eval_loss``, if it is given no others.
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
        self.share = Share(args.process_index, args.world_size)
        self.steps_per_rollout, self.environment_steps = steps_per_rollout, 0
        # On policy, by the number of trees before them in their step: the latest rollouts, and their weight.
        self._rolled_out: dict[int, tuple[list[EncodedTree], float]] = {}
        self._trees_of_step = 0
        self._terms: dict[str, list[Tensor]] = {}
        self._steps_since_log = 0
        # The parent drops what the model's forward does not name; trees are not columns.
        args.remove_unused_columns = False
        super().__init__(
            model=policy,
            args=args,
            # Trees that grow are looked up by their numbers when a step begins.
            data_collator=self._collated if rollouts is None else lambda numbers: {"numbers": numbers},
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

    def _collated(self, trees: Sequence[EncodedTree]) -> dict[str, Any]:
        """The process' part of a batch in passes, the weight of its mean, and the number of trees of the batch."""
        batch = self.collator(self.share.read(trees))
        return {**batch, "weight": self.share.weight(len(trees)), "trees": len(trees)}

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The parent's; with several processes one that gives all of them whole batches, of which each takes a part."""
        if self.share.count == 1:
            return super().get_train_dataloader()
        loader = DataLoader(
            cast(Any, self.train_dataset),
            batch_size=self.args.train_batch_size * self.share.count,
            sampler=self._get_train_sampler(),
            collate_fn=self.data_collator,
            drop_last=self.args.dataloader_drop_last,
            num_workers=self.args.dataloader_num_workers,
        )
        return whole_batches(loader, self.args.data_seed)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[dict[str, Any]], int]:
        """The batches that a step accumulates, and how many trees they have."""
        batches, _ = super().get_batch_samples(*args, **kwargs)
        self._trees_of_step, self._steps_since_log = 0, self._steps_since_log + 1
        return batches, sum(_trees_in(batch) for batch in batches)

    def roll_out(self, numbers: Sequence[int], before: int = 0) -> tuple[list[EncodedTree], float]:
        """What a process learns from at these trees, and the weight of its mean.

        Args:
            numbers: which trees the batch is of.
            before: how many trees the step has in the batches before it.

        Returns:
            Rollouts of the present policy, and what is replayed beside them.
        """
        rollouts, step, share = cast(Rollouts[Any], self.rollouts), self.state.global_step, self.share
        cast(nn.Module, self.model).eval()
        trees, own, weight = [self.trees[number].tree for number in numbers], share.of(len(numbers)), 0.0
        if self.on_policy:
            begins = step % self.steps_per_rollout == 0
            if begins and not before:
                self._rolled_out.clear()
            if begins or before not in self._rolled_out:
                weight = share.weight(len(numbers))
                fresh = rollouts.fresh(share.read(trees), step, before + own.start)
                self.environment_steps += sum(share.gathered([sum(map(steps_of, fresh)) if weight else 0]))
                self._rolled_out[before] = self.with_reference(self._encoded(fresh)), weight
            return self._rolled_out[before]
        if rollouts.number:
            # The trees of all processes grow alike: another one may read them next.
            grown = share.gathered(rollouts.grown(trees[own], step, before + own.start) if trees[own] else [])
            self.environment_steps += sum(map(steps_of, grown)) - sum(map(steps_of, trees))
            for number, each in zip(numbers, self._encoded(grown), strict=True):
                self.trees[number] = each
        looked_at = []
        for old, number in share.read(list(zip(trees, numbers, strict=True))):
            each = self.trees[number]
            nodes = rollouts.drawn(old, each.tree, step)
            tokens = [each.tokens[node] for node in nodes.nonzero().squeeze(1).tolist()]
            looked_at.append(EncodedTree(each.tree.select(nodes), tokens))
        return self.with_reference(looked_at), share.weight(len(numbers))

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """The gradient of a batch in its passes; processes exchange gradients after the last of a step.

        Args:
            model: the policy, perhaps wrapped.
            inputs: the batch.
            num_items_in_batch: how many trees the step has in all of its batches; None: it has this one.
        """
        trees = _trees_in(inputs)
        if "numbers" in inputs:
            looked_at, weight = self.roll_out(inputs["numbers"], self._trees_of_step)
            inputs = {**self.collator(looked_at), "weight": weight}
        self._trees_of_step += trees
        passes: list[TreeBatch] = inputs["passes"]
        weight = inputs["weight"]
        if num_items_in_batch is not None:
            # The parent takes the mean over batches.
            weight *= trees * self.current_gradient_accumulation_steps / int(num_items_in_batch)
        read = sum(batch.forest.num_trees for batch in passes)
        total = torch.zeros((), device=self.args.device)
        for number, batch in enumerate(passes, start=1):
            waits = self.accelerator.no_sync(model) if number < len(passes) else nullcontext()
            with waits:
                part = {"passes": [batch], "share": weight * (batch.forest.num_trees / read)}
                total += super().training_step(model, part)
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
        found, terms = self._mean_loss(output, batch)
        loss = inputs.get("share", 1.0) * found
        if "share" in inputs:
            for name, term in terms.items():
                term *= inputs["share"] / self.current_gradient_accumulation_steps
                self._terms.setdefault(f"loss_{name}", []).append(term)
        if isinstance(model, DistributedDataParallel):
            # DDP waits for the gradient of every output, also of a head that the loss does not read.
            loss = loss + 0.0 * torch.stack([values.sum() for values in vars(output).values()]).sum()
        return (loss, output) if return_outputs else loss

    def _mean_loss(self, output: PolicyOutput, batch: TreeBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean over the conditions of a batch, if it has some, and that of each term of a `losses.Sum`."""
        found, by_name = [], dict[str, list[Tensor]]()
        for weight, reading in readings(output, batch):
            if isinstance(self.loss, Sum):
                terms = self.loss.terms(reading)
                for name, term in terms.items():
                    by_name.setdefault(name, []).append(weight * term.detach())
                found.append(weight * torch.stack(list(terms.values())).sum())
            else:
                found.append(weight * loss_on(self.loss, reading))
        return torch.stack(found).mean(), {name: torch.stack(values).mean() for name, values in by_name.items()}

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """The parent's log with the mean of each term since the last entry, and the environment steps so far."""
        if "loss" in logs:
            for name, values in self._terms.items():
                everywhere = self.share.gathered([float(torch.stack(values).sum())])
                logs[name] = sum(everywhere) / self.share.count / self._steps_since_log
            self._terms.clear()
            self._steps_since_log = 0
        if self.rollouts is not None:
            logs["environment_steps"] = self.environment_steps
        super().log(logs, *args, **kwargs)

    @torch.no_grad()
    def evaluate(  # type: ignore[override]  # trees are no dataset of columns
        self,
        eval_dataset: Sequence[SearchTree[Any]] | Mapping[str, Sequence[SearchTree[Any]]] | None = None,
        ignore_keys: list[str] | None = None,  # noqa: ARG002 (the parent's)
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """The mean loss over trees, and what ``measure`` tells; both are logged.

        The loss of a policy gradient does not tell how good a policy is: on policy there is ``measure`` alone.

        Args:
            eval_dataset: the trees; the validation trees by default. Several sets by name give a loss per set, as in
                the parent: ``eval_NAME_loss``.
            ignore_keys: the parent's, without meaning here.
            metric_key_prefix: what the names of the figures begin with.

        Raises:
            ValueError: there are neither trees nor a measure.
        """
        if eval_dataset is None and not self.validation and self.measure is None:
            raise ValueError(
                "there is nothing to evaluate: give trees, or build the trainer with validation or measure"
            )
        if eval_dataset is None:
            if any(each.log_reference is None for each in self.validation):
                self.validation[:] = self.with_reference(self.validation)
            sets = {"": self.validation}
        else:
            given = eval_dataset if isinstance(eval_dataset, Mapping) else {"": eval_dataset}
            sets = {name and f"_{name}": self.with_reference(self._encoded(trees)) for name, trees in given.items()}
        metrics = {
            f"{metric_key_prefix}{name}_loss": self._loss_over(trees)
            for name, trees in sets.items()
            if trees and not (self.on_policy and eval_dataset is None)
        }
        if self.measure is not None:
            metrics |= self.share.of_first(dict(self.measure()) if self.share.index == 0 else {})
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _loss_over(self, trees: list[EncodedTree]) -> float:
        model, collator, total = cast(nn.Module, self.model).eval(), self.collator, 0.0
        if self.conditions is not None:
            collator = replace(collator, conditions=partial(self.conditions, torch.Generator().manual_seed(0)))
        for part in collator.passes(trees[self.share.of(len(trees))]):
            batch = collator.collate(part).to(self.args.device)
            value, _ = self._mean_loss(model(*policy_inputs(batch)), batch)
            total += batch.forest.num_trees * float(value)
        return float(sum(self.share.gathered([total]))) / len(trees)

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


def _trees_in(batch: Mapping[str, Any]) -> int:
    """How many trees a batch has, in all processes together."""
    return len(batch["numbers"]) if "numbers" in batch else int(batch["trees"])
