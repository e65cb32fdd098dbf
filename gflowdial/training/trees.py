"""Search trees as training examples, and batches of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from gflowdial.estimators.packing import PackedPrefixes, pack_prefixes, packed_tokens
from gflowdial.forest import Forest
from gflowdial.shapes import Bool, Float, Int, Tensor

__all__ = ["TreeBatch", "TreeCollator", "TreeExample", "Untried"]

Untried = Literal["masked", "floor", "zero"]
"""What becomes of an action that the search never tried at a state it went on from, which carries no evidence.

- ``"masked"``: P_F is normalised over the tried actions in the loss; what the policy gives the others is left to
  generalisation.
- ``"floor"``: the action leads to a leaf of its own, with the reward of the state's mean return times
  ``floor · prior(a|s)``; one that the prior excludes gets nothing.
- ``"zero"``: P_F is normalised over all actions, so that all flow goes to the tried ones: an untried action counts as
  one without reward.
"""


@dataclass(frozen=True)
class TreeExample:
    """One tree of dialogue prefixes with what a search, or a person, found out about them.

    Attributes:
        parent: each node's parent, −1 at the root, parents first.
        tokens: what each node adds to its parent's prefix.
        action: ``[nodes]`` the action that led to a node; −1 at the root.
        visits: ``[nodes]`` how often the search went through the node (1 for a recorded dialogue).
        value: ``[nodes]`` mean return Q of the action that led to the node, of the whole tree at the root.
        leaf_return: ``[nodes]`` the return G at leaves; elsewhere it is not read.
        log_prior: ``[nodes, actions]`` log-probabilities of the prior policy.
        log_reference: ``[nodes, actions]`` log-probabilities of the reference policy, where its states were read.
    """

    parent: Sequence[int]
    tokens: Sequence[Sequence[int]]
    action: NDArray[np.int64]
    visits: NDArray[np.int64]
    value: NDArray[np.float64]
    leaf_return: NDArray[np.float64]
    log_prior: NDArray[np.float64]
    log_reference: NDArray[np.float64] | None = None

    def is_leaf(self) -> NDArray[np.bool_]:
        """Which nodes have no children, ``[nodes]``."""
        leaf = np.ones(len(self.parent), dtype=np.bool_)
        leaf[[above for above in self.parent if above >= 0]] = False
        return leaf


@dataclass(frozen=True)
class TreeBatch:
    """Trees as one forest, the prefixes to be read, and the targets; everything in nats.

    Attributes:
        packed: the prefixes of all nodes that are read.
        forest: the trees; under ``untried="floor"`` with a leaf for every untried action.
        row: ``[nodes]`` which read belongs to a node; −1 where none does.
        action: ``[nodes]`` the action that led to a node; −1 at roots.
        visits: ``[nodes]`` visit counts; 0 at leaves that stand for untried actions.
        log_q: ``[nodes]`` Q/τ.
        log_reward: ``[leaves]`` log R = G/τ.
        tried: ``[reads, actions]`` which actions have a child in the forest.
        log_reference: ``[reads, actions]`` log P_ref, if all examples came with it.
    """

    packed: PackedPrefixes
    forest: Forest
    row: Int[Tensor, "nodes"]
    action: Int[Tensor, "nodes"]
    visits: Float[Tensor, "nodes"]
    log_q: Float[Tensor, "nodes"]
    log_reward: Float[Tensor, "leaves"]
    tried: Bool[Tensor, "reads actions"]
    log_reference: Float[Tensor, "reads actions"] | None

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "TreeBatch":  # noqa: ARG002 (accelerate's)
        """The same batch on another device."""
        fields = {name: field.to(device) for name, field in vars(self).items() if field is not None}
        return replace(self, **fields)


@dataclass(frozen=True)
class TreeCollator:
    """Make `TreeBatch` es of `TreeExample` s.

    Attributes:
        branch: the tokens after which a state is read; see `pack_prefixes`.
        temperature: τ of the target R = exp(G/τ), in units of the return.
        untried: what becomes of untried actions; see `Untried`.
        floor: the share of ``untried="floor"``.
        read_leaves: whether leaves are read too (their flow is free in some variants of AFPO); roots always are.
        tokens_per_pass: how many tokens a `TreeBatch` may hold; a larger tree has one of its own.
    """

    branch: Sequence[int]
    temperature: float
    untried: Untried = "masked"
    floor: float = 0.1
    read_leaves: bool = False
    tokens_per_pass: int = 4096

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}: give a τ above 0")
        if not self.floor > 0:
            raise ValueError(f"floor is {self.floor}: give a share above 0")

    def __call__(self, examples: Sequence[TreeExample]) -> dict[str, list[TreeBatch]]:
        return {"passes": [self.collate(part) for part in self.passes(examples)]}

    def passes(self, examples: Sequence[TreeExample]) -> Iterator[list[TreeExample]]:
        """Cut ``examples`` into neighbours of at most ``tokens_per_pass`` tokens together."""
        part: list[TreeExample] = []
        total = 0
        for example in examples:
            tokens = packed_tokens(example.parent, example.tokens, self.reads(example).tolist(), self.branch)
            if part and total + tokens > self.tokens_per_pass:
                yield part
                part, total = [], 0
            part.append(example)
            total += tokens
        if part:
            yield part

    def reads(self, example: TreeExample) -> NDArray[np.bool_]:
        """Which nodes' states are read, ``[nodes]``."""
        return ~example.is_leaf() | (np.asarray(example.parent) < 0) | self.read_leaves

    def collate(self, examples: Sequence[TreeExample]) -> TreeBatch:
        """Batch ``examples`` in their order.

        Raises:
            ValueError: if there are none, or a return, value or prior is NaN or infinite.
        """
        if not examples:
            raise ValueError("no trees to batch")
        sizes = [len(example.parent) for example in examples]
        start = np.concatenate([[0], np.cumsum(sizes)])
        shifted = [
            np.where(np.asarray(example.parent) < 0, -1, np.asarray(example.parent) + first)
            for example, first in zip(examples, start[:-1], strict=True)
        ]
        parent = np.concatenate(shifted).astype(np.int64)
        action, visits, value, leaf_return = (
            np.concatenate([getattr(example, name) for example in examples])
            for name in ("action", "visits", "value", "leaf_return")
        )
        log_prior = np.concatenate([example.log_prior for example in examples])
        leaf = np.concatenate([example.is_leaf() for example in examples])
        read = np.concatenate([self.reads(example) for example in examples])
        tokens = [segment for example in examples for segment in example.tokens]
        packed = pack_prefixes(parent.tolist(), tokens, read.tolist(), self.branch)
        row = np.full(len(parent), -1, dtype=np.int64)
        row[read] = np.arange(read.sum())
        log_q = value / self.temperature
        log_reward = np.where(leaf, leaf_return, 0.0) / self.temperature
        tried = np.zeros((read.sum(), log_prior.shape[1]), dtype=np.bool_)
        edge = parent >= 0
        tried[row[parent[edge]], action[edge]] = True
        if self.untried == "floor":
            node, new_action = np.nonzero(~leaf[:, None] & ~_by_node(tried, row) & (log_prior != -np.inf))
            floor = log_q[node] + np.log(self.floor) + log_prior[node, new_action]
            parent, action = np.append(parent, node), np.append(action, new_action)
            row = np.append(row, np.full(len(node), -1))
            visits, leaf = np.append(visits, np.zeros(len(node))), np.append(leaf, np.ones(len(node), dtype=np.bool_))
            log_q, log_reward = np.append(log_q, floor), np.append(log_reward, floor)
            tried[row[node], new_action] = True
        if not (np.isfinite(log_q).all() and np.isfinite(log_reward).all()):
            raise ValueError("a tree holds a return, value or prior that is NaN or infinite: search its scene anew")
        return TreeBatch(
            packed=packed,
            forest=Forest.from_parents(torch.from_numpy(parent)),
            row=torch.from_numpy(row),
            action=torch.from_numpy(action),
            visits=torch.from_numpy(visits.astype(np.float32)),
            log_q=torch.from_numpy(log_q.astype(np.float32)),
            log_reward=torch.from_numpy(log_reward[leaf].astype(np.float32)),
            tried=torch.from_numpy(tried),
            log_reference=_log_reference(examples, read),
        )


def _log_reference(examples: Sequence[TreeExample], read: NDArray[np.bool_]) -> Tensor | None:
    known = [example.log_reference for example in examples if example.log_reference is not None]
    if len(known) < len(examples):
        return None
    return torch.from_numpy(np.concatenate(known)[read].astype(np.float32))


def _by_node(tried: NDArray[np.bool_], row: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Rows of reads laid out by node; nodes that are not read count as having tried everything."""
    return np.where((row >= 0)[:, None], tried[np.maximum(row, 0)], True)
