"""Laws of a certificate: no policy is further from its target than it says."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from hypothesis import strategies as st

from gflowdial import oracle, segments
from gflowdial.forest import Forest
from gflowdial.metrics import total_variation
from gflowdial.segments import Segments
from gflowdial.shapes import Tensor
from gflowdial.testing.broken import BrokenLawError
from gflowdial.testing.flows import Flow, number
from gflowdial.testing.smallest import smallest_example
from gflowdial.testing.strategies import forests

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn
else:
    DrawFn = Callable

Bound = Callable[[Tensor, Tensor, Forest], Tensor]
Law = Callable[[Bound, Flow], str | None]

SLACK = 1e-9
"""By how much rounding may take a bound below what it bounds."""
SURE = 1e-6
"""What a certificate may leave at the exact policy."""


def check_certificate(bound: Bound, *, max_examples: int = 100) -> None:
    """Search for a policy that is further from its target than a certificate says, and report the smallest.

    The certificate is called as ``bound(log_pf, log_reward, forest)`` in float64 and returns one number per tree, as
    ``lambda *policy: metrics.certificate(*policy).bound`` does. The laws, on forests of any shape, for policies at any
    distance from the exact one:

    - it is at least the total variation between the policy and ``R / Z`` over the leaves of each tree;
    - it is 0 for the exact policy;
    - it does not change when log R of all leaves moves by the same amount, since log Z is not given.

    Args:
        bound: what to check.
        max_examples: how many policies are tried.

    Raises:
        AssertionError: with the law, the smallest policy found against it, and the numbers.
    """

    def breaks(law: Law) -> Callable[[Flow], bool]:
        return lambda policy: law(bound, policy) is not None

    found = smallest_example(policies(), {name: breaks(law) for name, law in _LAWS.items()}, max_examples)
    if found is None:
        return
    name, worst = found
    law = _LAWS[name]
    raise BrokenLawError(f"the certificate breaks the law '{name}': {law(bound, worst)}\n{worst!r}")


@st.composite
def policies(draw: DrawFn) -> Flow:
    """Trees with rewards, their exact flow, and a normalised policy at any distance from the exact one.

    Hypothesis draws the forest and how large the numbers are; the numbers, in tenths of that, come from a seed.
    """
    forest = draw(forests(max_nodes=12))
    reward_scale, error_scale = draw(st.sampled_from([0.0, 1.0, 5.0])), draw(st.sampled_from([0.001, 0.1, 1.0, 5.0]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))

    def tenths(size: int) -> Tensor:
        return torch.randint(-10, 11, (size,), generator=generator).double() / 10

    log_reward = reward_scale * tenths(forest.num_leaves)
    log_flow, exact = oracle.exact_flows(forest, log_reward)
    log_pf = exact + error_scale * tenths(forest.num_edges)
    actions = Segments.from_ids(forest.edge_parent, forest.num_nodes)
    log_pf = log_pf - segments.logsumexp(log_pf, actions)[forest.edge_parent]
    return Flow(forest, log_flow[forest.roots], log_flow, log_pf, torch.zeros_like(log_pf), log_reward)


def _never_below(bound: Bound, policy: Flow) -> str | None:
    trees = Segments.from_ids(policy.forest.leaf_tree, policy.forest.num_trees)
    log_p = oracle.terminating_distribution(policy.forest, policy.log_pf)
    log_target = policy.log_reward - policy.log_z[policy.forest.leaf_tree]
    return _first_beyond(total_variation(log_p, log_target, trees), bound(*_given(policy)), "total variation")


def _zero_at_the_exact_policy(bound: Bound, policy: Flow) -> str | None:
    exact = oracle.exact_flows(policy.forest, policy.log_reward)[1]
    found = bound(exact, policy.log_reward, policy.forest)
    wrong = torch.nonzero(~(found.abs() <= SURE)).squeeze(1)
    return None if not len(wrong) else f"it is {number(float(found[wrong[0]]))} for tree {int(wrong[0])}."


def _log_z_does_not_matter(bound: Bound, policy: Flow) -> str | None:
    before = bound(*_given(policy))
    after = bound(policy.log_pf, policy.log_reward + 100.0, policy.forest)
    wrong = torch.nonzero(~((after - before).abs() <= SURE)).squeeze(1)
    if not len(wrong):
        return None
    tree = int(wrong[0])
    first, second = number(float(before[tree])), number(float(after[tree]))
    return f"of tree {tree} it is {first}, and {second} once log R is larger by 100."


def _given(policy: Flow) -> tuple[Tensor, Tensor, Forest]:
    return policy.log_pf, policy.log_reward, policy.forest


def _first_beyond(distance: Tensor, found: Tensor, what: str) -> str | None:
    # Asked this way round, NaN counts as wrong.
    wrong = torch.nonzero(~(found >= distance - SLACK)).squeeze(1)
    if not len(wrong):
        return None
    tree = int(wrong[0])
    return f"of tree {tree} it is {number(float(found[tree]))}, the {what} is {number(float(distance[tree]))}."


_LAWS: dict[str, Law] = {
    "at least the total variation": _never_below,
    "zero for the exact policy": _zero_at_the_exact_policy,
    "log Z does not matter": _log_z_does_not_matter,
}
