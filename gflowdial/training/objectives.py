"""What a policy is trained to do with a batch of trees: each objective as a function of the policy's output."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gflowdial import losses, segments
from gflowdial.estimators.language_model import PolicyOutput
from gflowdial.losses.afpo import FlowReading, Variant
from gflowdial.segments import Segments
from gflowdial.training.trees import TreeBatch, Untried

__all__ = ["Objective", "ObjectiveName", "needs_reference", "objective_terms"]

ObjectiveName = Literal["behaviour_cloning", "trajectory_balance", "subtrajectory_balance", "afpo"]


@dataclass(frozen=True)
class Objective:
    """An objective with its settings.

    Attributes:
        name: which loss.
        variant: of AFPO; see `losses.afpo`.
        flow: of AFPO's paper variant; see `losses.afpo`.
        decay: λ of SubTB; AFPO weighs all subpaths alike.
        temperature: τ of the target R = exp(G/τ), in units of the return.
        untried: what becomes of actions that were never tried; see `Untried`.
        floor: the share of ``untried="floor"``.
        kl_weight: β, the weight of KL(P_F ‖ P_ref).
        ranking_weight: γ, the weight of the ranking hinge on log V.
    """

    name: ObjectiveName
    variant: Variant = "anchored"
    flow: FlowReading = "edge"
    decay: float = 0.9
    temperature: float = 0.1
    untried: Untried = "masked"
    floor: float = 0.1
    kl_weight: float = 0.0
    ranking_weight: float = 0.0

    @property
    def reads_states(self) -> bool:
        """Whether AFPO's flow is Q̂·V(s) of states; elsewhere it is Q̂·V(s, a) of the action that led to a state."""
        return self.variant == "released" or (self.variant == "paper" and self.flow == "state")

    @property
    def reads_leaves(self) -> bool:
        """Whether the objective has a free flow at leaves, read from their states."""
        return self.name == "afpo" and self.variant == "paper" and self.flow == "state"


def needs_reference(objective: Objective) -> bool:
    """Whether `objective_terms` wants the reference policy."""
    return objective.kl_weight > 0


def objective_terms(
    objective: Objective, output: PolicyOutput, batch: TreeBatch, log_reference: Tensor | None
) -> dict[str, Tensor]:
    """The weighted terms of the objective; the loss is their sum.

    Args:
        objective: which, and its settings.
        output: the policy at ``batch.packed``.
        batch: the trees.
        log_reference: ``[reads, actions]`` log P_ref, wanted where `needs_reference`.

    Returns:
        Scalars by name.

    Raises:
        ValueError: if the objective is unknown, or the reference is wanted and missing.
    """
    terms: dict[str, Tensor] = {objective.name: _main_term(objective, output, batch)}
    if needs_reference(objective):
        if log_reference is None:
            raise ValueError("the objective has a KL term: pass the reference policy's log-probabilities")
        inner, tree = _inner_reads(batch)
        terms["kl"] = losses.reference_kl(
            output.log_policy[inner], log_reference[inner], tree, weight=objective.kl_weight
        )
    if objective.ranking_weight > 0:
        child = batch.forest.edge_child
        terms["ranking"] = losses.ranking_hinge(
            _edge_values(output, batch)[child], batch.log_q[child], batch.forest, weight=objective.ranking_weight
        )
    return terms


def _main_term(objective: Objective, output: PolicyOutput, batch: TreeBatch) -> Tensor:
    match objective.name:
        case "behaviour_cloning":
            return _behaviour_cloning(output, batch)
        case "trajectory_balance":
            log_z = output.log_state_value[batch.row[batch.forest.roots]]
            return losses.trajectory_balance(
                log_z, _log_pf(objective, output, batch), None, batch.log_reward, batch.forest
            )
        case "subtrajectory_balance":
            return losses.subtrajectory_balance(
                _edge_values(output, batch),
                _log_pf(objective, output, batch),
                None,
                batch.log_reward,
                batch.forest,
                decay=objective.decay,
            )
        case "afpo":
            values = _state_values(output, batch) if objective.reads_states else _edge_values(output, batch)
            return losses.afpo(
                batch.log_q + values,
                _log_pf(objective, output, batch),
                None,
                batch.log_reward,
                batch.forest,
                variant=objective.variant,
                flow=objective.flow,
            )


def _behaviour_cloning(output: PolicyOutput, batch: TreeBatch) -> Tensor:
    """Cross-entropy of P_F to the visit counts, averaged over the states of a tree, then over trees."""
    forest, child = batch.forest, batch.forest.edge_child
    state = batch.row[forest.edge_parent]
    log_pf = output.log_policy[state, batch.action[child]]
    visits = batch.visits[child]
    total = visits.new_zeros(len(output.log_policy)).index_add(0, state, visits)
    per_state = -log_pf.new_zeros(len(output.log_policy)).index_add(0, state, visits / total[state] * log_pf)
    inner, tree = _inner_reads(batch)
    return segments.mean(per_state[inner], tree).mean()


def _inner_reads(batch: TreeBatch) -> tuple[Tensor, Segments]:
    """Which reads are of states that act, ``[reads]``, and the tree of each of those."""
    forest, node = batch.forest, batch.packed.node
    inner = forest.num_children[node] > 0
    return inner, Segments.from_ids(forest.tree[node[inner]], forest.num_trees)


def _log_pf(objective: Objective, output: PolicyOutput, batch: TreeBatch) -> Tensor:
    """log P_F of each edge, ``[edges]``; what becomes of untried actions is decided here and in `TreeCollator`."""
    log_policy = output.log_policy
    if objective.untried == "masked":
        log_policy = log_policy.masked_fill(~batch.tried, -torch.inf).log_softmax(-1)
    child = batch.forest.edge_child
    return log_policy[batch.row[batch.forest.edge_parent], batch.action[child]]


def _edge_values(output: PolicyOutput, batch: TreeBatch) -> Tensor:
    """log V(parent, action) at each node that an action led to, log V(s) at roots, ``[nodes]``."""
    forest = batch.forest
    values = output.log_value[batch.row[forest.edge_parent], batch.action[forest.edge_child]]
    roots = output.log_state_value[batch.row[forest.roots]]
    return (
        torch.zeros(forest.num_nodes)
        .to(values)
        .index_copy(0, forest.edge_child, values)
        .index_copy(0, forest.roots, roots)
    )


def _state_values(output: PolicyOutput, batch: TreeBatch) -> Tensor:
    """log V(s) at each node, ``[nodes]``; 0 at leaves that stand for untried actions."""
    values = output.log_state_value[batch.row.clamp(min=0)]
    return torch.where(batch.row >= 0, values, 0.0)
