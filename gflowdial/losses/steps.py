"""The residuals of balance, of one step and of a path from root to leaf, each with its transpose."""

from dataclasses import dataclass
from typing import cast

import torch

from gflowdial.forest import Forest
from gflowdial.losses.inputs import anchored_flow, check, leaf_residual, log_ratio, path_ratio, transformed
from gflowdial.shapes import Float, Tensor

Logs = tuple[Tensor | None, ...]
FourLogs = tuple[Tensor, Tensor, Tensor | None, Tensor]


@dataclass(frozen=True, eq=False)
class StepResiduals:
    """``δ = log F(child) - log F(parent) - (log P_F - log P_B)`` of each edge, with log F := log R at leaves.

    The logs are ``(log_flow, log_pf, log_pb or None, log_reward)``.
    """

    forest: Forest

    def of(self, *logs: Tensor | None) -> Float[Tensor, " edges"]:
        log_flow, log_pf, log_pb, log_reward = cast(FourLogs, logs)
        delta = self.forest.difference(anchored_flow(log_flow, log_reward, self.forest))
        if transformed():
            return delta - log_ratio(log_pf, log_pb, self.forest)
        # What is subtracted in place from float64 is lifted on the way.
        check("log_pf", log_pf, self.forest, "edge")
        delta.sub_(log_pf)
        if log_pb is not None:
            check("log_pb", log_pb, self.forest, "edge")
            delta.add_(log_pb)
        return delta

    def transpose(self, fall: Float[Tensor, " edges"], logs: Logs, wanted: tuple[bool, ...]) -> Logs:
        log_flow, log_pf, log_pb, log_reward = cast(FourLogs, logs)
        at_node = self.forest.divergence(fall)
        at_leaf = at_node[self.forest.leaves].to(log_reward.dtype) if wanted[3] else None
        # log F at leaves was overwritten: no gradient reaches it.
        self.forest.clear_leaves_(at_node)
        return at_node.to(log_flow.dtype), *_of_actions(fall.to(_common(log_pf, log_pb)), log_pf, log_pb), at_leaf


@dataclass(frozen=True, eq=False)
class PathResiduals:
    """``log R - log Z - Σ over root→leaf of (log P_F - log P_B)`` of each leaf.

    The logs are ``(log_z, log_pf, log_pb or None, log_reward)``, with one log Z or one per tree.
    """

    forest: Forest

    def of(self, *logs: Tensor | None) -> Float[Tensor, " leaves"]:
        log_z, log_pf, log_pb, log_reward = cast(FourLogs, logs)
        return leaf_residual(log_z, path_ratio(log_pf, log_pb, self.forest), log_reward, self.forest)

    def transpose(self, fall: Float[Tensor, " leaves"], logs: Logs, wanted: tuple[bool, ...]) -> Logs:
        log_z, log_pf, log_pb, log_reward = cast(FourLogs, logs)
        if log_z.ndim == 0:
            at_root = fall.sum()
        else:
            at_root = fall.new_zeros(self.forest.num_trees).index_add(0, self.forest.leaf_tree, fall)
        at_edge = self.forest.edge_sum(fall, _common(log_pf, log_pb))
        at_leaf = fall.neg().to(log_reward.dtype) if wanted[3] else None
        return at_root.to(log_z.dtype), *_of_actions(at_edge, log_pf, log_pb), at_leaf


def _common(log_pf: Tensor, log_pb: Tensor | None) -> torch.dtype:
    return log_pf.dtype if log_pb is None else torch.promote_types(log_pf.dtype, log_pb.dtype)


def _of_actions(at_edge: Tensor, log_pf: Tensor, log_pb: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The gradients in log P_F and log P_B, one the other's negative."""
    return at_edge.to(log_pf.dtype), None if log_pb is None else at_edge.neg().to(log_pb.dtype)
