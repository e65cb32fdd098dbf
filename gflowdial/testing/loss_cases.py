"""Balanced flows that `check_loss` tries: which policies they hold, and what is off in them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import torch
from hypothesis import strategies as st

from gflowdial import segments
from gflowdial.forest import Forest
from gflowdial.segments import Segments
from gflowdial.shapes import Float, Int, Tensor
from gflowdial.testing.flows import Flow

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn
else:
    DrawFn = Callable

Policies = Literal["any", "partial", "normalised"]
"""What log P_F of the flows may be.

- ``"any"``: any numbers, above 0 too, as balance asks for no more;
- ``"partial"``: log-probabilities below 0, which over the actions of a state that are in the forest sum to less than 1,
  as on trajectories of a larger graph;
- ``"normalised"``: probabilities that sum to 1 over the children of each state.
"""

LEAST_BACKWARD = 0.1
"""How far below 0 log P_B is at least, in nats, where policies are probabilities: room for finite differences."""


@dataclass(frozen=True, eq=False)
class LossCase:
    """A balanced flow, which of its trees share a log Z, and a seed for what a law chooses by itself.

    log F is balanced at inner nodes and at roots; at leaves below a root it is anything, for log R stands there.
    """

    flow: Flow
    groups: Int[Tensor, " trees"]
    seed: int
    policies: Policies = "any"

    @cached_property
    def unbalanced(self) -> Flow:
        """The flow with noise on everything, in tenths of a nat so that it reads well."""
        flow, generator = self.flow, self.generator

        def noisy(values: Tensor) -> Tensor:
            return values + torch.randint(-10, 11, values.shape, generator=generator) / 10

        log_flow = noisy(flow.log_flow)
        return Flow(
            flow.forest,
            log_flow[flow.forest.roots],
            log_flow,
            self.policy(noisy(flow.log_pf)),
            self.backward(noisy(flow.log_pb)),
            noisy(flow.log_reward),
        )

    def policy(self, log_pf: Float[Tensor, " edges"]) -> Float[Tensor, " edges"]:
        """``log_pf`` as the case's policies allow it."""
        if self.policies == "any":
            return log_pf
        forest = self.flow.forest
        total = segments.logsumexp(log_pf, Segments.from_ids(forest.edge_parent, forest.num_nodes))[forest.edge_parent]
        return log_pf - (total if self.policies == "normalised" else (total + 0.1).clamp(min=0.0))

    def backward(self, log_pb: Float[Tensor, " edges"]) -> Float[Tensor, " edges"]:
        """``log_pb`` as the case's policies allow it."""
        return log_pb if self.policies == "any" else log_pb.clamp(max=-LEAST_BACKWARD)

    def along(self, log_pf: Float[Tensor, " edges"], direction: Float[Tensor, " edges"]) -> Float[Tensor, " edges"]:
        """The derivative of ``policy(log_pf + h·direction)`` by h at 0."""
        if self.policies != "normalised":
            return direction
        forest = self.flow.forest
        siblings = Segments.from_ids(forest.edge_parent, forest.num_nodes)
        return direction - segments.sum(log_pf.exp() * direction, siblings)[forest.edge_parent]

    @property
    def generator(self) -> torch.Generator:
        """A fresh stream of random numbers, the same each time."""
        return torch.Generator().manual_seed(self.seed)


@st.composite
def loss_cases(draw: DrawFn, forests: st.SearchStrategy[Forest], grouped: bool, policies: Policies = "any") -> LossCase:
    """Cases on ``forests``; where ``grouped``, trees share log Z at random, else every tree has its own.

    Hypothesis draws (and shrinks) the forest and how large the numbers are; the numbers themselves, in tenths of a
    nat, come from a seed, which is faster and reads well.
    """
    forest = draw(forests)
    spreads = [draw(st.sampled_from([0, 1, 5])) for _ in range(3)]
    seed = draw(st.integers(0, 1000))
    return case_on(forest, spreads, seed, draw(st.integers(1, 3)) if grouped else None, policies)


def case_on(
    forest: Forest, spreads: list[int], seed: int, groups: int | None = None, policies: Policies = "any"
) -> LossCase:
    """A case on one forest.

    Args:
        forest: what the flow lies on.
        spreads: how large log F, -log P_B and the log F beside a log R are, in nats.
        seed: of the numbers.
        groups: how many groups share log Z at most; None: each tree has its own.
        policies: see `Policies`.
    """
    generator = torch.Generator().manual_seed(seed)

    def tenths(size: int, spread: int) -> Tensor:
        return torch.randint(-10 * spread, 10 * spread + 1, (size,), generator=generator).double() / 10

    log_flow = tenths(forest.num_nodes, spreads[0])
    ids = torch.arange(forest.num_trees)
    if groups is not None:
        drawn = torch.randint(groups, (forest.num_trees,), generator=generator)
        # Ids without gaps, which a loss may count on.
        ids = torch.unique(drawn, return_inverse=True)[1]
    log_pb = -tenths(forest.num_edges, spreads[1]).abs()
    if policies == "any":
        log_flow[forest.roots] = log_flow[forest.roots][ids]
    else:
        log_pb = log_pb.clamp(max=-LEAST_BACKWARD)
        unseen = -1.0 - tenths(forest.num_nodes, 4).abs() if policies == "partial" else None
        log_flow = _gathered(forest, log_flow, log_pb, unseen, ids if groups is not None else None)
    log_pf = log_flow[forest.edge_child] - log_flow[forest.edge_parent] + log_pb
    if policies != "any":
        log_pf = log_pf.clamp(max=0.0)  # rounding may lift what is 0
    flow = Flow(forest, log_flow[forest.roots], log_flow, log_pf, log_pb, log_flow[forest.leaves])
    below = forest.leaves[forest.parent[forest.leaves] >= 0]
    noisy = flow.log_flow.index_add(0, below, tenths(len(below), spreads[2]))
    return LossCase(replace(flow, log_flow=noisy), ids, seed, policies)


def _gathered(forest: Forest, log_flow: Tensor, log_pb: Tensor, unseen: Tensor | None, groups: Tensor | None) -> Tensor:
    """log F of inner nodes from their children's, and from a share of actions outside the forest, log ``unseen``."""
    leaf = forest.num_children == 0
    into: list[list[Tensor]] = [[] for _ in range(forest.num_nodes)]
    found = log_flow.clone()
    entering = torch.zeros_like(log_flow).index_copy(0, forest.edge_child, log_pb)
    for node in range(forest.num_nodes - 1, -1, -1):
        if not leaf[node]:
            found[node] = torch.stack(into[node]).logsumexp(0)
            if unseen is not None:
                found[node] -= torch.log1p(-unseen[node].exp())
        above = int(forest.parent[node])
        if above >= 0:
            into[above].append(found[node] + entering[node])
    if groups is None:
        return found
    # A shift of a whole tree changes no policy: all trees of a group come to the log Z of its first.
    log_z = found[forest.roots]
    first = torch.stack([log_z[groups == group][0] for group in range(int(groups.max()) + 1)])
    return found + (first[groups] - log_z)[forest.tree]
