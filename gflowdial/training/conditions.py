"""Training at conditions: the language model reads trees once, the heads at every condition that was drawn for them."""

from collections.abc import Iterator

import torch

from gflowdial.estimators.language_model import PolicyOutput
from gflowdial.estimators.packing import PackedPrefixes
from gflowdial.losses import Reading
from gflowdial.shapes import Float, Tensor
from gflowdial.training.readings import read_trees
from gflowdial.training.trees import TreeBatch

__all__ = ["policy_inputs", "readings"]


def policy_inputs(batch: TreeBatch) -> tuple[PackedPrefixes, Float[Tensor, "reads conditions"] | None]:
    """What a policy is called with: the reads once per condition of the batch, and the conditions of all reads."""
    if not batch.targets:
        return batch.packed, None
    reads, count = len(batch.packed.node), len(batch.targets)
    vectors = torch.stack([targets.vector for targets in batch.targets])
    return batch.packed.select(list(range(reads)) * count), vectors.repeat_interleave(reads, dim=0)


def readings(output: PolicyOutput, batch: TreeBatch) -> Iterator[tuple[float, Reading]]:
    """The inputs of losses at each condition of the batch, with the weight of the loss there.

    Args:
        output: the policy at `policy_inputs`.
        batch: the trees.
    """
    if not batch.targets:
        yield 1.0, read_trees(output, batch)
        return
    reads = len(batch.packed.node)
    parts = zip(*(torch.split(field, reads) for field in vars(output).values()), strict=True)
    for part, targets in zip(parts, batch.targets, strict=True):
        yield targets.weight, read_trees(PolicyOutput(*part), batch.at(targets))
