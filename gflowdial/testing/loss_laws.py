"""Laws of a balance loss: zero at balance and only there, true gradients, and what it must not depend on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from hypothesis import strategies as st

from gflowdial.forest import Forest
from gflowdial.shapes import Tensor
from gflowdial.testing.broken import BrokenLawError
from gflowdial.testing.flows import Flow, PaddedBatch, number
from gflowdial.testing.loss_cases import Law, LossCase, Violation, loss_cases, smallest_against
from gflowdial.testing.rearranged import kept, renumbered, shifted
from gflowdial.testing.strategies import forests as any_forests

Argument = Literal["log_flow", "log_pf", "log_pb", "log_reward"]
ARGUMENTS: tuple[Argument, ...] = ("log_flow", "log_pf", "log_pb", "log_reward")

ZERO = 1e-9
"""What a loss of float64 numbers of size 10 may leave at balance; the square of a residual of 1e-4 is above it."""


def check_loss(
    loss: Callable[..., Tensor],
    *,
    forests: st.SearchStrategy[Forest] | None = None,
    group: str | None = None,
    over_trees: Literal["mean", "sum", "other"] = "mean",
    differentiable: Sequence[Argument] = ARGUMENTS,
    max_examples: int = 50,
) -> None:
    """Search for a flow on which a balance loss breaks a law, and report the smallest.

    The loss is called as ``loss(log_flow, log_pf, log_pb, log_reward, forest)`` in float64, as the losses of
    `gflowdial.losses` are; `from_log_z` and `from_padded` adapt others, and a lambda sets options. Its penalty may be
    any smooth function with its only minimum at 0. The laws, on chains, trees and forests of them:

    - it is one finite number, the same for the same input, which it leaves unchanged;
    - at balance it is 0, with gradient 0; entries of ``log_flow`` at leaves below a root do not matter, for log R
      stands there;
    - it is positive where one log P_F, one log P_B or one log R is off, or two log P_F out of one state in opposite
      directions;
    - its gradient agrees with finite differences;
    - it does not depend on the numbering of nodes and trees (on chains: on the order of the trees);
    - it does not change when log F, log Z and log R of a tree move by the same amount;
    - it is the mean over trees of what it says of each alone.

    With ``group``, the loss needs no log Z: it is told which trees share one by the keyword ``group``, int64
    ``[trees]``, and the laws hold for groups in the place of trees. Something is off there if some but not all paths
    of its group see it. Groups may count evenly or by their trees.

    Args:
        loss: what to check.
        forests: what the flows lie on; `chains()` for losses of trajectories.
        group: the name of the loss's option for group ids.
        over_trees: how trees combine; "other" leaves the last law out.
        differentiable: the arguments whose gradient is compared with finite differences.
        max_examples: how many flows are tried.

    Raises:
        AssertionError: with the law, the smallest flow found against it, and the numbers.
    """
    laws = _Laws(loss, group, over_trees, differentiable).all()
    drawn = any_forests(max_nodes=12) if forests is None else forests
    finding = smallest_against(laws, loss_cases(drawn, grouped=group is not None), max_examples)
    if finding is not None:
        groups = "" if group is None else f"\n{group} = {finding.case.groups.tolist()}"
        raise BrokenLawError(
            f"{_name(loss)} breaks the law '{finding.law.name}': {finding.violation.detail}\n"
            f"{finding.violation.flow!r}{groups}"
        ) from finding.raised


def from_log_z(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A loss that takes log Z of each tree first, such as `trajectory_balance`, in the form that `check_loss` calls."""

    def with_log_flow(
        log_flow: Tensor, log_pf: Tensor, log_pb: Tensor, log_reward: Tensor, forest: Forest, **options: Tensor
    ) -> Tensor:
        return loss(log_flow[forest.roots], log_pf, log_pb, log_reward, forest, **options)

    with_log_flow.__name__ = _name(loss)
    return with_log_flow


def from_padded(loss: Callable[..., Tensor], padding: float = 7.0) -> Callable[..., Tensor]:
    """A loss ``(log_flow, log_pf, log_pb, log_reward, mask)`` of padded batches, in the form that `check_loss` calls.

    `PaddedBatch` has the shapes. Check it on `chains()`. The tensors are filled up with ``padding``, so that a loss
    that reads it breaks a law.
    """

    def on_chains(
        log_flow: Tensor, log_pf: Tensor, log_pb: Tensor, log_reward: Tensor, forest: Forest, **options: Tensor
    ) -> Tensor:
        flow = Flow(forest, log_flow[forest.roots], log_flow, log_pf, log_pb, log_reward)
        batch = PaddedBatch.of(flow, padding)
        return loss(batch.log_flow, batch.log_pf, batch.log_pb, batch.log_reward, batch.mask, **options)

    on_chains.__name__ = _name(loss)
    return on_chains


@dataclass(frozen=True)
class _Laws:
    loss: Callable[..., Tensor]
    group: str | None
    over_trees: Literal["mean", "sum", "other"]
    differentiable: Sequence[Argument]

    def all(self) -> list[Law]:
        unit = "trees" if self.group is None else "groups"
        laws = [
            Law("one finite number, the same each time", self.answers),
            Law("zero at balance", self.zero),
            Law("gradient zero at balance", self.stationary),
            Law("positive off balance", self.positive),
            Law("the gradient is that of the value", self.gradient),
            Law("numbering does not matter", self.numbering),
            Law("a common shift of log F, log Z and log R does not matter", self.shift),
        ]
        return laws if self.over_trees == "other" else [*laws, Law(f"the {self.over_trees} over {unit}", self.split)]

    def value(self, flow: Flow, groups: Tensor) -> Tensor:
        options = {} if self.group is None else {self.group: groups}
        return self.loss(flow.log_flow, flow.log_pf, flow.log_pb, flow.log_reward, flow.forest, **options)

    def gradients(self, flow: Flow, groups: Tensor) -> dict[Argument, Tensor]:
        inputs = {name: getattr(flow, name).clone().requires_grad_() for name in self.differentiable}
        result = self.value(_with(flow, inputs), groups)
        if not result.requires_grad:
            return {name: torch.zeros_like(values) for name, values in inputs.items()}
        found = torch.autograd.grad(result, list(inputs.values()), allow_unused=True, materialize_grads=True)
        return dict(zip(inputs, found, strict=True))

    def answers(self, case: LossCase) -> Violation | None:
        flow = case.unbalanced
        given: dict[Argument, Tensor] = {name: getattr(flow, name).clone() for name in ARGUMENTS}
        result = self.value(flow, case.groups)
        if result.shape != () or not result.is_floating_point():
            return Violation(f"it is {result.dtype} of shape {list(result.shape)}.", flow)
        if not bool(result.isfinite()):
            return Violation(f"it is {float(result)}.", flow)
        for name, before in given.items():
            if not torch.equal(before, getattr(flow, name)):
                return Violation(f"it changes its argument {name}.", _with(flow, {name: before}))
        again = self.value(flow, case.groups)
        if float(again) != float(result):
            return Violation(f"it is {float(result)} once and {float(again)} the next time.", flow)
        return None

    def zero(self, case: LossCase) -> Violation | None:
        result = float(self.value(case.flow, case.groups))
        return None if abs(result) < ZERO else Violation(f"it is {number(result)}.", case.flow)

    def stationary(self, case: LossCase) -> Violation | None:
        for name, gradient in self.gradients(case.flow, case.groups).items():
            # Asked this way round, NaN counts as wrong.
            wrong = torch.nonzero(~(gradient.abs() < ZERO**0.5)).squeeze(1)
            if len(wrong):
                at = int(wrong[0])
                return Violation(f"its gradient by {name}[{at}] is {number(float(gradient[at]))}.", case.flow)
        return None

    def positive(self, case: LossCase) -> Violation | None:
        edges, leaves = self.can_be_off(case)
        places_of: dict[Argument, Tensor] = {"log_pf": edges, "log_pb": edges, "log_reward": leaves}
        for name, places in places_of.items():
            if not len(places):
                continue
            at = int(places[int(torch.randint(len(places), (1,), generator=case.generator))])
            for amount in (1.0, -1.0):
                values: Tensor = getattr(case.flow, name).clone()
                values[at] += amount
                off = _with(case.flow, {name: values})
                result = float(self.value(off, case.groups))
                if not result > ZERO:
                    return Violation(f"it is {number(result)}, but {name}[{at}] is off by {amount:g}.", off)
        return self.opposed(case)

    def opposed(self, case: LossCase) -> Violation | None:
        """Two actions out of one state are off in opposite directions, which no path and no mean may cancel."""
        first, second = case.flow.forest.sibling_pairs
        if not len(first):
            return None
        log_pf = case.flow.log_pf.clone()
        log_pf[first[0]] += 1.0
        log_pf[second[0]] -= 1.0
        off = _with(case.flow, {"log_pf": log_pf})
        result = float(self.value(off, case.groups))
        if result > ZERO:
            return None
        up, down = int(first[0]), int(second[0])
        return Violation(f"it is {number(result)}, but log_pf[{up}] is off by 1 and log_pf[{down}] by -1.", off)

    def can_be_off(self, case: LossCase) -> tuple[Tensor, Tensor]:
        """The edges, and the leaves below a root, whose value can be off by itself."""
        forest, groups = case.flow.forest, case.groups
        below_root = forest.parent[forest.leaves] >= 0
        if self.group is None:
            return torch.arange(forest.num_edges), torch.nonzero(below_root).squeeze(1)
        # What all paths of a group share is no more than another log Z.
        paths = torch.bincount(groups[forest.leaf_tree])
        edges = forest.leaves_below[forest.edge_child] < paths[groups[forest.edge_tree]]
        leaves = below_root & (paths[groups[forest.leaf_tree]] > 1)
        return torch.nonzero(edges).squeeze(1), torch.nonzero(leaves).squeeze(1)

    def gradient(self, case: LossCase) -> Violation | None:
        flow = case.unbalanced
        gradients = self.gradients(flow, case.groups)
        scale = max((float(values.abs().max()) for values in gradients.values() if len(values)), default=0.0)
        for name, gradient in gradients.items():

            def at(values: Tensor, name: Argument = name) -> float:
                return float(self.value(_with(flow, {name: values}), case.groups))

            direction = torch.randn(gradient.shape, generator=case.generator, dtype=torch.float64)
            if _is_slope(float(gradient @ direction), at, getattr(flow, name), direction, scale):
                continue
            slopes = [_slope(at, getattr(flow, name), unit, 1e-5) for unit in torch.eye(len(gradient)).double()]
            worst = int((gradient - torch.tensor(slopes)).abs().argmax())
            return Violation(
                f"by {name}[{worst}] it is {number(float(gradient[worst]))}, by finite differences "
                f"{number(slopes[worst])}.",
                flow,
            )
        return None

    def numbering(self, case: LossCase) -> Violation | None:
        other, tree = renumbered(case.unbalanced, case.generator)
        before, after = self.value(case.unbalanced, case.groups), self.value(other, case.groups[tree])
        if _close(float(before), float(after)):
            return None
        return Violation(
            f"it is {number(float(before))}, and {number(float(after))} as\n{other!r}\nwhich is the same as",
            case.unbalanced,
        )

    def shift(self, case: LossCase) -> Violation | None:
        flow = case.unbalanced
        before = float(self.value(flow, case.groups))
        step = 1.0 + torch.arange(flow.forest.num_trees, dtype=torch.float64)[case.groups]
        for amount in (1.0, 1e6):
            after = float(self.value(shifted(flow, amount * step), case.groups))
            if not _close(before, after):
                unit = "tree" if self.group is None else "group"
                return Violation(
                    f"it is {number(before)}, and {number(after)} once all three of {unit} i move by {amount:g}·(i+1).",
                    flow,
                )
        return None

    def split(self, case: LossCase) -> Violation | None:
        flow, groups = case.unbalanced, case.groups
        units = int(groups.max()) + 1
        if units == 1:
            return None
        # One cut says it all: parts can be cut again.
        cut = int(torch.randint(1, units, (1,), generator=case.generator))
        parts = [groups < cut, groups >= cut]
        whole = float(self.value(flow, groups))
        first, second = (float(self.value(kept(flow, part), groups[part] - groups[part].min())) for part in parts)
        accepted = [first + second]
        if self.over_trees == "mean":
            accepted = [(cut * first + (units - cut) * second) / units]
            if self.group is not None:
                trees = [int(part.sum()) for part in parts]
                accepted.append((trees[0] * first + trees[1] * second) / sum(trees))
        if any(_close(whole, expected) for expected in accepted):
            return None
        unit = "trees" if self.group is None else "groups"
        return Violation(
            f"it is {number(whole)} of all, {number(first)} of the first {cut} of {units} {unit} and "
            f"{number(second)} of the rest.",
            flow,
        )


def _with(flow: Flow, arguments: Mapping[Argument, Tensor]) -> Flow:
    """The flow with other tensors in some places."""
    return replace(flow, **{str(name): values for name, values in arguments.items()})  # type: ignore[arg-type]


def _slope(function: Callable[[Tensor], float], at: Tensor, direction: Tensor, step: float) -> float:
    return (function(at + step * direction) - function(at - step * direction)) / (2 * step)


def _is_slope(claimed: float, function: Callable[[Tensor], float], at: Tensor, direction: Tensor, scale: float) -> bool:
    """Whether ``claimed`` is the derivative along ``direction``, up to rounding and to what curvature adds to it."""
    slope = _slope(function, at, direction, 1e-5)
    slack = 1e-5 * scale + 1e-9 * abs(function(at)) + 1e-7
    return abs(claimed - slope) <= slack or (
        abs(claimed - slope) <= slack + 2 * abs(slope - _slope(function, at, direction, 2e-5))
    )


def _close(a: float, b: float) -> bool:
    return abs(a - b) <= 1e-6 * max(abs(a), abs(b)) + 1e-8


def _name(loss: Callable[..., Tensor]) -> str:
    if isinstance(loss, partial):
        return f"{_name(loss.func)}({', '.join(f'{name}={value!r}' for name, value in loss.keywords.items())})"
    return getattr(loss, "__name__", type(loss).__name__)
