"""Losses of other forms in the form that `check_loss` calls."""

from collections.abc import Callable
from functools import partial

from gflowdial.forest import Forest
from gflowdial.shapes import Tensor
from gflowdial.testing.flows import Flow, PaddedBatch


def from_log_z(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A loss that takes log Z of each tree first, such as `trajectory_balance`, in the form that `check_loss` calls."""

    def with_log_flow(
        log_flow: Tensor, log_pf: Tensor, log_pb: Tensor, log_reward: Tensor, forest: Forest, **options: Tensor
    ) -> Tensor:
        return loss(log_flow[forest.roots], log_pf, log_pb, log_reward, forest, **options)

    with_log_flow.__name__ = name_of(loss)
    return with_log_flow


class PaddedLoss:
    """A loss of padded batches as one of forests; `check_loss` tries it on chains alone."""

    def __init__(self, loss: Callable[..., Tensor], padding: float) -> None:
        self.loss, self.padding = loss, padding
        self.__name__ = name_of(loss)

    def __call__(
        self, log_flow: Tensor, log_pf: Tensor, log_pb: Tensor, log_reward: Tensor, forest: Forest, **options: Tensor
    ) -> Tensor:
        flow = Flow(forest, log_flow[forest.roots], log_flow, log_pf, log_pb, log_reward)
        batch = PaddedBatch.of(flow, self.padding)
        return self.loss(batch.log_flow, batch.log_pf, batch.log_pb, batch.log_reward, batch.mask, **options)


def from_padded(loss: Callable[..., Tensor], padding: float = 7.0) -> PaddedLoss:
    """A loss ``(log_flow, log_pf, log_pb, log_reward, mask)`` of padded batches, in the form that `check_loss` calls.

    `PaddedBatch` has the shapes. By default it is checked on `chains()`. The tensors are filled up with ``padding``, so
    that a loss that reads it breaks a law.
    """
    return PaddedLoss(loss, padding)


def name_of(loss: Callable[..., Tensor]) -> str:
    """What messages call a loss."""
    if isinstance(loss, partial):
        return f"{name_of(loss.func)}({', '.join(f'{name}={value!r}' for name, value in loss.keywords.items())})"
    return getattr(loss, "__name__", type(loss).__name__)
