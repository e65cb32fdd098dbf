"""Which part of a batch each process of a distributed training works on. Needs the extra ``lm``."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader

try:
    from accelerate.data_loader import prepare_data_loader  # type: ignore[import-untyped]
    from accelerate.utils import broadcast_object_list, gather_object  # type: ignore[import-untyped]
except ImportError as error:
    raise ImportError("the trainer needs the extra `lm`: pip install 'gflowdial[lm]'") from error

__all__ = ["Share", "whole_batches"]


@dataclass(frozen=True)
class Share:
    """The share of a process among several that get the same batches: each takes neighbouring trees.

    DDP takes the mean of the gradients of all processes. The mean over the trees of a process counts by how many it
    has, so that the gradient is the mean over all trees of the batch, whatever the number of processes.

    Attributes:
        index: the number of the process, from 0.
        count: how many processes there are.
    """

    index: int
    count: int

    def of(self, trees: int) -> slice:
        """Which trees of a batch are the process' own; none in some processes if there are fewer trees than those."""
        return slice(trees * self.index // self.count, trees * (self.index + 1) // self.count)

    def weight(self, trees: int) -> float:
        """The factor of the mean over the process' own trees."""
        own = self.of(trees)
        return self.count * len(range(own.start, own.stop)) / trees

    def read(self, trees: Sequence[Any]) -> list[Any]:
        """The trees that the process reads: its own, or the first where it has none, since every process exchanges."""
        return list(trees[self.of(len(trees))] or trees[:1])

    def gathered(self, own: list[Any]) -> list[Any]:
        """What all processes have, in their order."""
        return own if self.count == 1 else list(gather_object(own))

    def of_first(self, value: Any) -> Any:
        """The value that the first process has."""
        return value if self.count == 1 else broadcast_object_list([value])[0]


def whole_batches(loader: DataLoader[Any], data_seed: int | None) -> DataLoader[Any]:
    """A loader that gives every process the batches that one process alone would get.

    Args:
        loader: of batches for all processes together.
        data_seed: of the order; None: PyTorch's first seed.
    """
    whole: DataLoader[Any] = prepare_data_loader(
        loader, num_processes=1, process_index=0, use_seedable_sampler=True, data_seed=data_seed
    )
    return whole
