"""Search trees as batches that a policy is trained on."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch

from gflowdial import segments
from gflowdial.estimators.packing import PackedPrefixes, pack_prefixes, packed_tokens, prefix_lengths
from gflowdial.forest import Forest
from gflowdial.search.tree import SearchTree
from gflowdial.segments import Segments
from gflowdial.shapes import Bool, Float, Int, Tensor

__all__ = ["Condition", "EncodedTree", "Targets", "TreeBatch", "TreeCollator", "Untried"]

Untried = Literal["free", "masked", "floor"]
"""What becomes of an action that was not tried at a state that was gone on from.

- ``"free"``: nothing is said of it. P_F is normalised over all allowed actions, and the flow of a state may exceed what
  its tried actions carry. The exact flow of the environment has loss 0 on any part of its tree.
- ``"masked"``: P_F is normalised over the tried actions in the loss, as if the others had no flow. The exact flow has a
  loss above 0 wherever an action was not tried; the loss is 0 at the flow of the tree without untried actions.
- ``"floor"``: the action leads to a leaf of its own, with the reward of the state's mean return times
  ``floor · prior(a|s)``: an assumption about its return in place of evidence.

An action that the prior excludes gets nothing under any of them: P_F is normalised over the allowed ones at most.
"""


@dataclass(frozen=True, eq=False)
class EncodedTree:
    """One search tree, or a recorded dialogue as a chain, with its dialogue prefixes.

    Attributes:
        tree: a `SearchTree` with one root.
        tokens: what each node adds to its parent's prefix.
        log_reference: log-probabilities of the reference policy at the nodes that are read, in their order.
    """

    tree: SearchTree[Any]
    tokens: Sequence[Sequence[int]]
    log_reference: Float[Tensor, "reads actions"] | None = None


@dataclass(frozen=True, eq=False)
class Condition:
    """What is asked of a policy that depends on a condition.

    Attributes:
        vector: ``[conditions]`` what the policy reads of it.
        temperature: τ of the target R = exp(G/τ).
        under: a tree with its rewards, returns and values under the condition.
        weight: of the loss at the condition.
    """

    vector: Float[Tensor, " conditions"]
    temperature: float
    under: Callable[[SearchTree[Any]], SearchTree[Any]]
    weight: float = 1.0


@dataclass(frozen=True, eq=False)
class Targets:
    """The targets of a batch at one condition; the fields of a `TreeBatch` of these names, and two of a `Condition`."""

    vector: Float[Tensor, " conditions"]
    weight: float
    log_q: Float[Tensor, " nodes"]
    mean_return: Float[Tensor, " nodes"]
    log_reward: Float[Tensor, " leaves"]
    log_turn_reward: Float[Tensor, " nodes"]

    def to(self, device: torch.device | str) -> "Targets":
        """The same targets on another device."""
        return replace(self, **{name: field.to(device) for name, field in vars(self).items() if name != "weight"})


@dataclass(frozen=True, eq=False)
class TreeBatch:
    """Trees as one forest, the prefixes to be read, and the targets; everything in nats.

    Attributes:
        packed: the prefixes of all nodes that are read.
        forest: the trees; under ``untried="floor"`` with a leaf for every untried action.
        row: ``[nodes]`` which read belongs to a node; −1 where none does.
        action: ``[nodes]`` the action that led to a node; −1 at roots and at outcomes of chance.
        visits: ``[nodes]`` visit counts; 0 where rollouts passed, and at leaves that stand for untried actions.
        log_q: ``[nodes]`` Q/τ.
        mean_return: ``[nodes]`` Q itself, in units of the return.
        log_reward: ``[leaves]`` log R = G/τ, G of a leaf that has not ended the mean return of its simulations.
        ended: ``[leaves]`` where log R holds: the episode ended there. The flow of any other leaf is free.
        log_turn_reward: ``[nodes]`` what the turn on the edge into a node earned, by τ.
        chance: ``[nodes]`` whether the world moves at a node; such a node is not read.
        log_chance: ``[nodes]`` log-probability of the outcome that led to a node among those that were seen, 0
            elsewhere; None where the world moves nowhere.
        tried: ``[reads, actions]`` which actions have a child in the forest.
        allowed: ``[reads, actions]`` which actions the prior does not exclude; None where it excludes none.
        log_prior: ``[reads, actions]`` log-probabilities of the search's prior; NaN where it was not asked.
        masked: whether P_F is normalised over the tried actions, as ``untried="masked"`` has it.
        log_reference: ``[reads, actions]`` log P_ref, if all trees came with it.
        targets: the targets at each condition that was drawn for the batch; none where the policy depends on none.
    """

    packed: PackedPrefixes
    forest: Forest
    row: Int[Tensor, " nodes"]
    action: Int[Tensor, " nodes"]
    visits: Float[Tensor, " nodes"]
    log_q: Float[Tensor, " nodes"]
    mean_return: Float[Tensor, " nodes"]
    log_reward: Float[Tensor, " leaves"]
    ended: Bool[Tensor, " leaves"]
    log_turn_reward: Float[Tensor, " nodes"]
    chance: Bool[Tensor, " nodes"]
    log_chance: Float[Tensor, " nodes"] | None
    tried: Bool[Tensor, "reads actions"]
    allowed: Bool[Tensor, "reads actions"] | None
    log_prior: Float[Tensor, "reads actions"]
    masked: bool
    log_reference: Float[Tensor, "reads actions"] | None
    targets: tuple[Targets, ...] = ()

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "TreeBatch":  # noqa: ARG002 (accelerate's)
        """The same batch on another device."""
        fields = {name: field.to(device) for name, field in vars(self).items() if hasattr(field, "to")}
        return replace(self, **fields, targets=tuple(targets.to(device) for targets in self.targets))

    def at(self, targets: Targets) -> "TreeBatch":
        """The same trees with the targets of a condition."""
        given = {name: field for name, field in vars(targets).items() if name not in ("vector", "weight")}
        return replace(self, **given, targets=())


@dataclass(frozen=True)
class TreeCollator:
    """Make `TreeBatch` es of `EncodedTree` s.

    Attributes:
        branch: the tokens after which a state is read; see `pack_prefixes`.
        temperature: τ of the target R = exp(G/τ), in units of the return.
        untried: what becomes of untried actions; see `Untried`.
        floor: the share of ``untried="floor"``.
        read_leaves: whether leaves are read too, for losses with a free flow there; roots always are.
        anchor_frontier: whether leaves that have not ended are anchored as if they had, to the mean return of what was
            simulated from them. The exact flow then has a loss above 0.
        tokens_per_pass: how many tokens a `TreeBatch` may hold; a larger tree has one of its own.
        continuations: what follows ``branch`` at the further reads of a state; see `pack_prefixes`.
        conditions: draws the conditions of a batch, for a policy that depends on one; not with ``untried="floor"``.
    """

    branch: Sequence[int]
    temperature: float
    untried: Untried = "free"
    floor: float = 0.1
    read_leaves: bool = False
    anchor_frontier: bool = False
    tokens_per_pass: int = 4096
    continuations: Sequence[Sequence[int]] = ()
    conditions: Callable[[], Sequence[Condition]] | None = None

    def __post_init__(self) -> None:
        if self.untried not in get_args(Untried):
            raise ValueError(f"untried is {self.untried!r}: choose {', '.join(map(repr, get_args(Untried)))}")
        if self.conditions is not None and self.untried == "floor":
            raise ValueError("untried is 'floor', which a policy that depends on a condition has not: choose 'free'")
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}: give a τ above 0")
        if not self.floor > 0:
            raise ValueError(f"floor is {self.floor}: give a share above 0")

    def __call__(self, trees: Sequence[EncodedTree]) -> dict[str, list[TreeBatch]]:
        return {"passes": [self.collate(part) for part in self.passes(trees)]}

    def passes(self, trees: Sequence[EncodedTree]) -> Iterator[list[EncodedTree]]:
        """Cut ``trees`` into neighbours of at most ``tokens_per_pass`` tokens together."""
        part: list[EncodedTree] = []
        total = 0
        for each in trees:
            tokens = self._packed_tokens(each)
            if part and total + tokens > self.tokens_per_pass:
                yield part
                part, total = [], 0
            part.append(each)
            total += tokens
        if part:
            yield part

    def size(self, each: EncodedTree) -> tuple[int, int]:
        """How many tokens a tree is packed into, and at most how many its longest prefix has."""
        tail = len(self.branch) + max(map(len, self.continuations), default=0)
        return self._packed_tokens(each), max(prefix_lengths(each.tree.forest.parent.tolist(), each.tokens)) + tail

    def _packed_tokens(self, each: EncodedTree) -> int:
        parent, read = each.tree.forest.parent.tolist(), self.reads(each.tree).tolist()
        return packed_tokens(parent, each.tokens, read, self.branch, self.continuations)

    def reads(self, tree: SearchTree[Any]) -> Bool[Tensor, " nodes"]:
        """Which nodes' states are read, ``[nodes]``."""
        forest = tree.forest
        return ((forest.num_children > 0) | (forest.parent < 0) | self.read_leaves) & ~tree.chance

    def collate(self, trees: Sequence[EncodedTree]) -> TreeBatch:
        """Batch ``trees`` in their order.

        Raises:
            ValueError: if there are none, a return, value or prior is NaN or infinite, or a tree took an action that
                its prior excludes.
        """
        if not trees:
            raise ValueError("no trees to batch")
        whole = SearchTree.merge([each.tree for each in trees])
        forest, action, log_prior = whole.forest, whole.action, whole.log_prior
        parent, child = forest.edge_parent, forest.edge_child
        read = self.reads(whole)
        tokens = [segment for each in trees for segment in each.tokens]
        packed = pack_prefixes(forest.parent.tolist(), tokens, read.tolist(), self.branch, self.continuations)
        row = torch.full_like(forest.parent, -1).index_copy_(0, packed.node, torch.arange(len(packed.node)))
        has_chance = bool(whole.chance.any())
        if has_chance:
            # No action leads to an outcome of chance.
            parent, child = (edges[action[forest.edge_child] >= 0] for edges in (parent, child))
        tried = torch.zeros(len(packed.node), whole.num_actions, dtype=torch.bool)
        tried[row[parent], action[child]] = True
        # A prior that was not asked is NaN and excludes nothing.
        allowed = log_prior[packed.node] != -torch.inf
        everything = bool(allowed.all())
        if not everything and bool((tried & ~allowed).any()):
            raise ValueError("a tree took an action that its prior excludes: search its scene anew")
        nodes = {
            "row": row,
            "action": action,
            # What the prior did in rollouts is no choice of the search.
            "visits": (whole.visits * whole.expanded).float(),
            "log_q": whole.value / self.temperature,
            "mean_return": whole.value.float(),
            "log_turn_reward": (whole.reward / self.temperature).float(),
            "chance": whole.chance,
            "ended": whole.ended | self.anchor_frontier,
        }
        if has_chance:
            nodes["log_chance"] = _among_seen(whole.log_chance, whole.chance, forest).float()
        if self.untried == "floor":
            acting = (forest.num_children[packed.node] > 0)[:, None]
            state, untried = (acting & ~tried & allowed).nonzero(as_tuple=True)
            tried[state, untried] = True
            above = packed.node[state]
            reward = nodes["log_q"][above] + math.log(self.floor) + log_prior[above, untried]
            forest = Forest.from_parents(torch.cat([forest.parent, above]))
            added = {"row": torch.full_like(above, -1), "action": untried, "log_q": reward}
            added["ended"] = torch.ones_like(above, dtype=torch.bool)
            nodes = {n: torch.cat([x, added.get(n, torch.zeros_like(above)).to(x.dtype)]) for n, x in nodes.items()}
        if not bool(nodes["log_q"].isfinite().all()):
            raise ValueError("a tree holds a return, value or prior that is NaN or infinite: search its scene anew")
        nodes["log_q"] = nodes["log_q"].float()
        references = [each.log_reference for each in trees if each.log_reference is not None]
        return TreeBatch(
            packed=packed,
            forest=forest,
            log_reward=nodes["log_q"][forest.leaves],
            ended=nodes.pop("ended")[forest.leaves],
            tried=tried,
            allowed=None if everything else allowed,
            log_prior=log_prior[packed.node].float(),
            masked=self.untried == "masked",
            log_reference=torch.cat(references).float() if len(references) == len(trees) else None,
            log_chance=nodes.pop("log_chance", None),
            targets=tuple(_targets(trees, each) for each in (self.conditions() if self.conditions else ())),
            **nodes,
        )


def _targets(trees: Sequence[EncodedTree], condition: Condition) -> Targets:
    tree = SearchTree.merge([condition.under(each.tree) for each in trees])
    log_q = (tree.value / condition.temperature).float()
    return Targets(
        vector=condition.vector,
        weight=condition.weight,
        log_q=log_q,
        mean_return=tree.value.float(),
        log_reward=log_q[tree.forest.leaves],
        log_turn_reward=(tree.reward / condition.temperature).float(),
    )


def _among_seen(log_chance: Tensor, chance: Tensor, forest: Forest) -> Float[Tensor, " nodes"]:
    """log P of each outcome of chance among the outcomes that the trees hold; 0 elsewhere."""
    parent, child = forest.edge_parent, forest.edge_child
    log_total = segments.logsumexp(log_chance[child], Segments.from_ids(parent, forest.num_nodes))[parent]
    return log_chance.index_copy(0, child, torch.where(chance[parent], log_chance[child] - log_total, 0.0))
