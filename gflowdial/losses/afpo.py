"""Affective Flow Policy Optimisation: AFlow's objective as the paper can be read, and its two extra terms."""

from typing import Literal

import torch

from gflowdial import segments
from gflowdial.forest import Forest
from gflowdial.losses.inputs import check_device, edge_residual, lift, log_ratio, loss_dtype
from gflowdial.losses.pair_metric import PairMeasure, Pairs, PairWeight, node_weight
from gflowdial.losses.penalties import squared
from gflowdial.losses.reduction import Over, Reduction
from gflowdial.losses.subtrajectory import energy, pair_mean, subtrajectory_balance
from gflowdial.numerics import precise_dtype
from gflowdial.segments import Segments
from gflowdial.shapes import Float, Tensor

Variant = Literal["anchored", "paper"]
FlowReading = Literal["edge", "state"]


def afpo(
    log_flow: Float[Tensor, " nodes"],
    log_pf: Float[Tensor, " edges"],
    log_pb: Float[Tensor, " edges"] | None,
    log_reward: Float[Tensor, " leaves"] | None,
    forest: Forest,
    *,
    variant: Variant = "anchored",
    flow: FlowReading = "edge",
    decay: float = 1.0,
    pair_weight: PairWeight = "unique",
    reduction: Reduction = "mean",
    tree_weight: Float[Tensor, " trees"] | None = None,
) -> Float[Tensor, "*trees"]:
    """The flow term of AFPO, with ``log F(n) = log Q̂(n) + log V(n)`` at every node; linear in nodes.

    Squared residuals over the pairs of each tree, averaged with weight ``decay^distance``, then over trees (a tree
    without pairs counts 0). The variants differ in their pairs and in what holds the leaves:

    - ``"anchored"``: every ancestor pair, log F := log R at leaves. Zero exactly at the flow whose policy samples a
      leaf in proportion to R; the root's flow is free and becomes Z.
    - ``"paper"``, ``flow="edge"``: log F(n) is the flow F(s, a) of the edge into n; pairs of non-root nodes, leaves
      free.
    - ``"paper"``, ``flow="state"``: log F(n) is the flow of state n; every ancestor pair, leaves free.

    What the two public releases compute is in `losses.released`.

    With free leaves the objective does not determine the policy: see docs/afpo.md. No variant carries a KL term; add
    `reference_kl` and `ranking_hinge` to the result where they are wanted. A KL term moves the optimum of
    ``"anchored"`` off the exact flow.

    Args:
        log_flow: log Q̂ + log V of each node, ``[nodes]``.
        log_pf: forward log-probability of each action, ``[edges]``.
        log_pb: backward log-probability of each action, ``[edges]``; None means a tree, log P_B = 0.
        log_reward: log R of each leaf, ``[leaves]``; read by "anchored" alone, "paper" takes None.
        forest: which state follows which.
        variant: see above.
        flow: how "paper" reads the flow; "anchored" ignores it.
        decay: weight per step of a pair's distance, in (0, 1].
        pair_weight: see `subtrajectory_balance`.
        reduction: "mean", "none" or "pooled" over pairs; see `losses.reduction`.
        tree_weight: a factor of each tree's costs, ``[trees]``; None is 1.

    Returns:
        The loss, or with reduction "none" one value per tree: computed in float64 and returned in the dtype of
        ``log_flow``, at least float32.

    Raises:
        ValueError: if a shape or device does not fit the forest, an option is unknown, or "anchored" gets no
            ``log_reward``.

    Source: arXiv 2602.08826.
    """
    if variant == "anchored":
        if log_reward is None:
            raise ValueError("variant 'anchored' fixes the leaves to log_reward; pass it, or choose variant 'paper'.")
        return subtrajectory_balance(
            log_flow,
            log_pf,
            log_pb,
            log_reward,
            forest,
            decay=decay,
            pair_weight=pair_weight,
            reduction=reduction,
            tree_weight=tree_weight,
        )
    ratio, over = log_ratio(log_pf, log_pb, forest), Over(forest, reduction, tree_weight)
    residual = edge_residual(lift("log_flow", log_flow, forest, "node"), ratio, forest)
    if variant != "paper":
        raise ValueError(f"variant must be 'anchored' or 'paper'; got {variant!r}.")
    if flow == "state":
        loss = pair_mean(residual, forest, decay, pair_weight, squared, over)
    elif flow == "edge":
        measure = _edge_measure(forest, decay, pair_weight)
        loss = energy(residual, Pairs(forest, measure), over, lambda: measure)
    else:
        raise ValueError(f"flow must be 'edge' or 'state'; got {flow!r}.")
    return loss.to(loss_dtype(log_flow))


def reference_kl(
    log_policy: Float[Tensor, "states actions"],
    log_reference_policy: Float[Tensor, "states actions"],
    tree: Segments | None = None,
    *,
    weight: float = 0.1,
) -> Float[Tensor, ""]:
    """``weight · KL(P_F ‖ P_ref)``, exact over all actions, averaged over states: those of a tree, then over trees.

    Args:
        log_policy: normalised log-probabilities at the inner nodes; -inf where an action is masked.
        log_reference_policy: the same of the reference policy.
        tree: which states are of which tree; without it they are all of one.
        weight: β.

    Returns:
        The term, in the dtype of ``log_policy``, at least float32; infinite where the reference excludes what the
        policy does.

    Raises:
        ValueError: if the policies are on two devices.

    Source: arXiv 2602.08826.
    """
    check_device("log_reference_policy", log_reference_policy, log_policy, "log_policy")
    possible = log_policy > -torch.inf
    policy = torch.where(possible, log_policy, 0.0).to(precise_dtype(log_policy.device))
    reference = torch.where(possible, log_reference_policy, 0.0).to(policy.dtype)
    per_state = torch.where(possible, policy.exp() * (policy - reference), 0.0).sum(1)
    per_tree = per_state if tree is None else segments.mean(per_state, tree)
    return (weight * per_tree.mean()).to(loss_dtype(log_policy))


def ranking_hinge(
    log_value: Float[Tensor, " edges"],
    search_value: Float[Tensor, " edges"],
    forest: Forest,
    *,
    margin: float = 0.1,
    weight: float = 1.0,
    reduction: Reduction = "mean",
    tree_weight: Float[Tensor, " trees"] | None = None,
) -> Float[Tensor, "*trees"]:
    """``weight · max(0, margin - (log V_i - log V_j))`` over siblings with Q_i > Q_j: V follows the search's order.

    Averaged over the ordered pairs of each tree, then over trees; equal search values give no pair, and a tree without
    pairs counts 0.

    Args:
        log_value: log V(s, a) of each action, ``[edges]``.
        search_value: the search's Q of the same actions, ``[edges]``.
        forest: which actions are siblings.
        margin: by how much the better one's log V should lead, in nats.
        weight: γ.
        reduction: "mean", "none" or "pooled" over pairs; see `losses.reduction`.
        tree_weight: a factor of each tree's costs, ``[trees]``; None is 1.

    Returns:
        The term, or with reduction "none" one value per tree: computed in float64 and returned in the dtype of
        ``log_value``, at least float32.

    Raises:
        ValueError: if a shape or device does not fit the forest.

    Source: arXiv 2602.08826.
    """
    value = lift("log_value", log_value, forest, "edge")
    searched = lift("search_value", search_value, forest, "edge")
    better, worse = forest.sibling_pairs
    ordered = (searched[better] > searched[worse]).to(loss_dtype(value))
    hinge = torch.relu(margin - (value[better] - value[worse]))
    return (weight * Over(forest, reduction, tree_weight).mean(hinge, forest.edge_tree[better], ordered)).to(
        loss_dtype(log_value)
    )


def _edge_measure(forest: Forest, decay: float, pair_weight: PairWeight) -> PairMeasure:
    def derive() -> PairMeasure:
        sink = node_weight(forest, pair_weight)
        # Nothing leads to a root, so it has no edge flow and starts no pair.
        return PairMeasure.of(forest, decay, (forest.parent >= 0).to(sink.dtype), sink)

    return forest.kept(("edge_measure", decay, pair_weight), derive)
