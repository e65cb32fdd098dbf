"""Training methods on search trees, by name: a loss, and what it asks of the trees.

Every loss whose inputs search trees have is a method by its own name. `METHODS` holds those that are more than a loss:
another reading of untried actions or leaves, or several terms.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from inspect import signature
from types import MappingProxyType
from typing import Any

import torch

from gflowdial import losses
from gflowdial.forest import Forest
from gflowdial.losses import LOSSES, Loss
from gflowdial.losses.afpo import FlowReading, Variant
from gflowdial.losses.released import LEAST_FLOW
from gflowdial.shapes import Bool, Float, Tensor
from gflowdial.training.readings import TREE_INPUTS
from gflowdial.training.trees import Untried

__all__ = ["METHODS", "Method", "afpo", "method", "method_names"]


@dataclass(frozen=True)
class Method:
    """What a `FlowTrainer` is given.

    Attributes:
        loss: what it minimises.
        untried: what becomes of untried actions.
        read_leaves: whether the loss has a free flow at leaves.
        anchor_frontier: whether leaves that have not ended are anchored as if they had.
        on_policy: whether a batch must hold rollouts of the current policy alone.
        steps_per_rollout: how many steps on policy learn from the same rollouts.
        ranks_by_value: whether log V(s, a) is trained to rank actions, so that it counts when one acts without search.
    """

    loss: Loss
    untried: Untried = "free"
    read_leaves: bool = False
    anchor_frontier: bool = False
    on_policy: bool = False
    steps_per_rollout: int = 1
    ranks_by_value: bool = False


def afpo(
    log_q: Float[Tensor, " nodes"],
    mean_return: Float[Tensor, " nodes"],
    log_flow: Float[Tensor, " nodes"],
    log_state_flow: Float[Tensor, " nodes"],
    log_pf: Float[Tensor, " edges"],
    log_reward: Float[Tensor, " leaves"],
    ended: Bool[Tensor, " leaves"],
    forest: Forest,
    *,
    variant: Variant = "anchored",
    flow: FlowReading = "edge",
) -> Float[Tensor, ""]:
    """`losses.afpo` of ``log Q̂ + log V``: V(s) where the flow is that of states, else V(s, a) of the action into it.

    A leaf that has not ended keeps this flow; the others are anchored to log R. Q̂ is ``exp(Q/τ)`` where leaves are
    anchored to exp(G/τ), and the mean return, 1e-6 or more, in the paper's variants.
    """
    searched = log_q if variant == "anchored" else mean_return.clamp(min=LEAST_FLOW).log()
    flows = searched + (log_state_flow if (variant, flow) == ("paper", "state") else log_flow)
    anchors = torch.where(ended, log_reward, flows[forest.leaves])
    return losses.afpo(flows, log_pf, None, anchors, forest, variant=variant, flow=flow)


def maximum_likelihood(
    log_pf: Float[Tensor, " edges"], log_reward: Float[Tensor, " leaves"], forest: Forest
) -> Float[Tensor, ""]:
    """`losses.maximum_likelihood`, to which the learned flow of a leaf that has not ended is data too."""
    return losses.maximum_likelihood(log_pf, log_reward.detach(), forest)


def _published(read_leaves: bool = False, **options: Any) -> "_Builder":
    """AFPO as published: P_F over all actions, with the KL and the ranking term where they have a weight."""

    def build(kl_weight: float, ranking_weight: float, **_: Any) -> Method:
        terms: dict[str, Loss] = {"afpo": partial(afpo, **options)}
        if kl_weight > 0:
            terms["kl"] = partial(losses.reference_kl, weight=kl_weight)
        if ranking_weight > 0:
            terms["ranking"] = partial(losses.ranking_hinge, weight=ranking_weight)
        return Method(losses.Sum(**terms), read_leaves=read_leaves, ranks_by_value=True)

    return build


def _released(value: bool = True, **terms: Loss) -> "_Builder":
    """Terms as AFlow's code has them, P_F over all actions; ``value`` says whether the margin trains V too."""

    def build(kl_weight: float, **_: Any) -> Method:
        chosen = dict(terms)
        if "kl" in chosen:
            chosen["kl"] = partial(losses.released_kl, weight=kl_weight)
        if value:
            chosen["margin"] = losses.value_margin
        return Method(losses.Sum(**chosen), ranks_by_value=value)

    return build


_Builder = Callable[..., Method]
METHODS: Mapping[str, _Builder] = {
    # Cross-entropy to the visit counts is over all actions: an untried one has no visits.
    "behaviour_cloning": lambda **_: Method(losses.behaviour_cloning),
    "afpo": lambda untried, **_: Method(afpo, untried),
    "afpo_anchored": lambda untried, **_: Method(afpo, untried),
    # The flow of the searched tree as if it were all there is: greedier than the flow of the environment.
    "afpo_truncated": lambda **_: Method(afpo, "masked", anchor_frontier=True),
    "afpo_released_first": _released(flow=partial(losses.released_flow_balance, release="first"), kl="released_kl"),
    "afpo_released_second": _released(flow=losses.released_flow_balance),
    "afpo_without_flow_balance": _released(preference=losses.released_preference),
    "afpo_without_process_supervision": _released(False, flow=losses.released_flow_balance, kl="released_kl"),
    "maximum_likelihood": lambda untried, **_: Method(maximum_likelihood, untried),
    "afpo_paper_edge": _published(variant="paper", flow="edge"),
    "afpo_paper_state": _published(variant="paper", flow="state", read_leaves=True),
}
"""By name, a function of the settings of `method` that gives the method; it takes those it needs."""
STEPS_PER_ROLLOUT: Mapping[str, int] = {"ppo": 4}
"""Of losses on policy that correct for rollouts of a policy some steps ago."""
ON_POLICY = frozenset(("grpo", "policy_gradient", "ppo", "reinforce", "rloo"))
"""Losses whose gradient is that of their objective on rollouts of the current policy alone."""


def method_names() -> list[str]:
    """The names that `method` takes."""
    return [*METHODS, *(name for name in LOSSES if name not in METHODS and losses.inputs_of(name) <= TREE_INPUTS)]


def method(
    name: str,
    options: Mapping[str, Any] = MappingProxyType({}),
    *,
    untried: Untried = "free",
    decay: float = 0.9,
    kl_weight: float = 0.1,
    ranking_weight: float = 1.0,
) -> Method:
    """The training method ``name`` under the settings of a run, of which it takes those that it has.

    Args:
        name: one of `method_names`.
        options: of the loss that the name stands for, as ``{"penalty": losses.huber}``.
        untried: what becomes of untried actions; see `Untried`. The published variants of AFPO always take "free".
        decay: λ of losses that have one; AFPO weighs all subpaths alike.
        kl_weight: β of the published variants of AFPO; the second release's is 0.
        ranking_weight: γ of the paper's variants of AFPO; the releases' weight is 1.

    Raises:
        ValueError: no method has the name, search trees lack an input of the loss, or the loss has no such option.
    """
    if name not in (names := method_names()):
        lacking = f"; search trees lack {', '.join(losses.inputs_of(name) - TREE_INPUTS)}" if name in LOSSES else ""
        close = " or ".join(get_close_matches(name, names)) or f"one of {', '.join(names)}"
        raise ValueError(f"{name!r} is the name of no method{lacking}: choose {close}.")
    parameters = set() if name in METHODS else set(signature(LOSSES[name]).parameters) - TREE_INPUTS
    if unknown := set(options) - parameters:
        known = ", ".join(sorted(parameters)) or "none"
        raise ValueError(f"{', '.join(sorted(unknown))} is no option of method {name!r}: it has {known}.")
    if name in METHODS:
        return METHODS[name](untried=untried, kl_weight=kl_weight, ranking_weight=ranking_weight)
    settings = {"decay": decay} if "decay" in parameters else {}
    return Method(
        partial(LOSSES[name], **{**settings, **options}),
        untried,
        on_policy=name in ON_POLICY,
        steps_per_rollout=STEPS_PER_ROLLOUT.get(name, 1),
    )
