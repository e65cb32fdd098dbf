"""Search trees, read by a language-model policy: the inputs of losses."""

from functools import cache

import torch
from torch.nn.functional import softplus

from gflowdial.estimators.language_model import PolicyOutput
from gflowdial.losses import Reading
from gflowdial.numerics import masked_log_softmax
from gflowdial.segments import Segments
from gflowdial.shapes import Bool, Float, Int, Tensor
from gflowdial.training.trees import TreeBatch

TREE_INPUTS = frozenset((
    "forest", "log_z", "log_flow", "log_state_flow", "log_q", "log_pf", "log_pb", "log_reward", "ended",
    "log_turn_reward", "visits", "group", "chance", "log_policy", "tree", "log_value", "search_value", "log_reference",
    "leaf_visits", "mean_return", "value", "negative_value", "negative_log_pf", "negative_log_reference",
    "log_reference_policy", "log_behaviour",
))  # fmt: skip
"""The names of the inputs that `read_trees` gives; those of the reference need the policy's to have been read."""
NEGATIVES = 3


def read_trees(output: PolicyOutput, batch: TreeBatch) -> Reading:
    """The inputs of every loss on search trees; everything in nats.

    P_F is normalised over the actions that the prior allows, under ``untried="masked"`` over the tried ones. A leaf
    that has not ended has its own ``log_flow`` in place of log R: other trees, and later rollouts, teach its flow. An
    edge out of a chance node has the world's log-probability among the outcomes seen in place of log P_F and log P_ref,
    so that `losses.detailed_balance` is that of stochastic GFlowNets there.

    - ``log_z [trees]``: log V(s) at the roots; ``group [trees]``: every tree by itself.
    - ``log_flow [nodes]``: log V(s, a) of the action that led to a node; log V(s) at roots and outcomes of chance.
    - ``log_state_flow [nodes]``: log V(s) where a node was read, 0 elsewhere.
    - ``log_q [nodes]``: Q/τ.
    - ``log_pf [edges]``, ``log_pb`` (None: a tree), ``log_reward [leaves]``, ``log_turn_reward [edges]``;
      ``ended [leaves]``: where ``log_reward`` is log R.
    - ``visits [edges]``: N(s, a); 0 at outcomes of chance, which are not chosen.
    - ``leaf_visits [leaves]``: the visit count of each leaf, which is the number of rollouts that ended there where the
      tree is made of rollouts.
    - ``chance [nodes]``: where the world moves.
    - ``log_policy [states, actions]``: log P_F over all allowed actions at the states that act;
      ``log_reference_policy`` the same of the reference; ``tree`` says which tree each state is of.
    - ``log_reference [edges]``: log P_ref of each action.
    - ``log_behaviour [edges]``: the log-probability of each action in the search's prior, which is the policy that
      acted where the trees are made of rollouts.
    - ``log_value [edges]``, ``search_value [edges]``: log V(s, a) and Q/τ of each action; outcomes of chance are equal.
    - What the releases of AFlow read: ``mean_return [nodes]`` Q in units of the return; ``value [edges]`` softplus of
      the head's log V(s, a); ``negative_value``, ``negative_log_pf`` and ``negative_log_reference [edges, 3]`` of the
      three actions that the search's prior likes least at the state, or of the edge's own where it was not asked.

    Args:
        output: the policy at ``batch.packed``.
        batch: the trees.
    """
    forest, child = batch.forest, batch.forest.edge_child
    row, action = batch.row[forest.edge_parent], batch.action[child]
    outcome = None if batch.log_chance is None else batch.chance[forest.edge_parent]

    def restricted(log_p: Tensor) -> Float[Tensor, "reads actions"]:
        return log_p if batch.allowed is None else masked_log_softmax(log_p, batch.allowed)

    def taken(log_p: Tensor) -> Float[Tensor, " edges"]:
        if outcome is None or batch.log_chance is None:
            return log_p[row, action]
        return torch.where(outcome, batch.log_chance[child], log_p[row, action])

    def chosen(x: Tensor) -> Float[Tensor, " edges"]:
        """``x`` at each edge, 0 at outcomes of chance, which no policy chooses."""
        return x[child] if outcome is None else x[child].masked_fill(outcome, 0.0)

    @cache
    def log_state_flow() -> Float[Tensor, " nodes"]:
        return torch.where(batch.row >= 0, output.log_state_value[batch.row.clamp(min=0)], 0.0)

    @cache
    def log_flow() -> Float[Tensor, " nodes"]:
        of_action = torch.zeros_like(log_state_flow()).index_copy(0, child, output.log_value[row, action])
        return torch.where(batch.action >= 0, of_action, log_state_flow())

    @cache
    def acting() -> tuple[Bool[Tensor, " reads"], Int[Tensor, " states"]]:
        """Which reads are of states that act, and the node of each of those."""
        acts = forest.num_children[batch.packed.node] > 0
        return acts, batch.packed.node[acts]

    def negative(at_reads: Tensor, own: Tensor) -> Float[Tensor, "edges negatives"]:
        """``at_reads`` at the least likely actions of the state that each edge leaves."""
        least = batch.log_prior.masked_fill(batch.log_prior == -torch.inf, torch.inf).argsort(1)[:, :NEGATIVES]
        # Where fewer actions are allowed, the least likely one stands for those that are missing.
        allowed = batch.log_prior.gather(1, least) > -torch.inf
        found = at_reads.gather(1, torch.where(allowed, least, least[:, :1]))[row]
        known = ~batch.log_prior[row].isnan().any(1) & (batch.action[child] >= 0)
        return torch.where(known[:, None], found, own[:, None])

    def log_pf_of_all() -> Float[Tensor, " edges"]:
        return taken(restricted(output.log_policy))

    inputs = {
        "log_z": lambda: log_state_flow()[forest.roots],
        "log_flow": log_flow,
        "log_state_flow": log_state_flow,
        "log_q": batch.log_q,
        "log_pf": lambda: taken(
            masked_log_softmax(output.log_policy, batch.tried) if batch.masked else restricted(output.log_policy)
        ),
        "log_pb": None,
        "log_reward": lambda: torch.where(
            batch.ended, batch.log_reward.to(log_flow().dtype), log_flow()[forest.leaves]
        ),
        "ended": batch.ended,
        "log_turn_reward": lambda: batch.log_turn_reward[child],
        "visits": lambda: chosen(batch.visits),
        "group": lambda: torch.arange(forest.num_trees, device=forest.device),
        "chance": batch.chance,
        "log_policy": lambda: restricted(output.log_policy)[acting()[0]],
        "tree": lambda: Segments.from_ids(forest.tree[acting()[1]], forest.num_trees),
        "log_value": lambda: log_flow()[child],
        "leaf_visits": lambda: batch.visits[forest.leaves],
        "mean_return": batch.mean_return,
        "value": lambda: softplus(log_flow()[child]),
        "negative_value": lambda: softplus(negative(output.log_value, log_flow()[child])),
        "negative_log_pf": lambda: negative(restricted(output.log_policy), log_pf_of_all()),
        "search_value": lambda: chosen(batch.log_q),
        "log_behaviour": lambda: taken(batch.log_prior),
    }
    reference = batch.log_reference
    if reference is not None:
        inputs["log_reference"] = lambda: taken(restricted(reference))
        inputs["negative_log_reference"] = lambda: negative(restricted(reference), taken(restricted(reference)))
        inputs["log_reference_policy"] = lambda: restricted(reference)[acting()[0]]
    return Reading(forest, **inputs)
