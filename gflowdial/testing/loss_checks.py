"""Laws of a balance loss, one method each: its check of one case."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch

from gflowdial.shapes import Float, Tensor
from gflowdial.testing.flows import Flow, number
from gflowdial.testing.loss_cases import LossCase
from gflowdial.testing.loss_search import Check, Violation
from gflowdial.testing.precision import FLOAT32, FLOAT64, HALF, Resolution, resolution
from gflowdial.testing.rearranged import kept, renumbered, shifted

Argument = Literal["log_flow", "log_pf", "log_pb", "log_reward"]
ARGUMENTS: tuple[Argument, ...] = ("log_flow", "log_pf", "log_pb", "log_reward")

OverTrees = Literal["mean", "sum", "other"]

ZERO = 1e-9
"""What a loss of float64 numbers of size 10 may leave at balance; the square of a residual of 1e-4 is above it."""
AMOUNTS = (0.01, -0.01, 30.0, -30.0)
"""By how much one entry is off, in nats, beside 1 and -1 everywhere."""
STEPS = {FLOAT64: 1e-5, FLOAT32: 1e-2, HALF: 0.25}
"""Steps of finite differences by machine epsilon."""


@dataclass
class LossLaws:
    """What `check_loss` asks of a loss; see there."""

    loss: Callable[..., Tensor]
    group: str | None
    over_trees: OverTrees
    differentiable: Sequence[Argument]
    found: Resolution | None = field(default=None, init=False)

    def all(self) -> dict[str, Check]:
        """The laws by their names, in the order in which they are checked."""
        unit = "trees" if self.group is None else "groups"
        laws: dict[str, Check] = {
            "one finite number, the same each time": self.answers,
            "float32 or better": self.precision,
            "zero at balance": self.zero,
            "gradient zero at balance": self.stationary,
            "positive off balance": self.positive,
            "the gradient is that of the value": self.gradient,
            "numbering does not matter": self.numbering,
            "a common shift of log F, log Z and log R does not matter": self.shift,
        }
        return laws if self.over_trees == "other" else {**laws, f"the {self.over_trees} over {unit}": self.split}

    def value(self, flow: Flow, case: LossCase) -> Tensor:
        return self._value(flow, case.groups)

    def _value(self, flow: Flow, groups: Tensor) -> Tensor:
        options = {} if self.group is None else {self.group: groups}
        return self.loss(flow.log_flow, flow.log_pf, flow.log_pb, flow.log_reward, flow.forest, **options)

    def gradients(self, flow: Flow, case: LossCase) -> dict[Argument, Tensor]:
        inputs = {name: getattr(flow, name).clone().requires_grad_() for name in self.differentiable}
        result = self.value(_with(flow, inputs), case)
        if not result.requires_grad:
            return {name: torch.zeros_like(values) for name, values in inputs.items()}
        found = torch.autograd.grad(result, list(inputs.values()), allow_unused=True, materialize_grads=True)
        return dict(zip(inputs, found, strict=True))

    def resolution(self, case: LossCase) -> Resolution:
        """How finely the loss reads its arguments; measured once, on the first case with an edge."""
        flow = case.unbalanced
        if self.found is None and flow.forest.num_edges:
            noise = torch.Generator().manual_seed(1)
            rough: dict[Argument, Tensor] = {
                name: values + torch.randn(values.shape, generator=noise, dtype=torch.float64) / 3
                for name, values in ((name, getattr(flow, name)) for name in ARGUMENTS)
            }
            rough["log_pf"], rough["log_pb"] = case.policy(rough["log_pf"]), case.backward(rough["log_pb"])

            def of(**arguments: Tensor) -> Tensor:
                return self.value(_with(flow, {name: arguments[name] for name in ARGUMENTS}), case)

            self.found = resolution(of, {str(name): values for name, values in rough.items()})
        return self.found or Resolution()

    def rounding(self, flow: Flow, case: LossCase) -> float:
        """By how much a sum over a path may be off."""
        size = max(float(getattr(flow, name).abs().max()) for name in ARGUMENTS if len(getattr(flow, name)))
        return self.resolution(case).epsilon * max(1.0, size) * flow.forest.num_nodes

    def close(self, a: float, b: float, case: LossCase, flow: Flow) -> bool:
        """Equal up to rounding of residuals, whose squares are of the size of ``a``."""
        off, size = self.rounding(flow, case), max(abs(a), abs(b))
        return abs(a - b) <= 1e-6 * size + 1e-8 + 16 * off * size**0.5 + 64 * off**2 or a == b

    def answers(self, case: LossCase) -> Violation | None:
        given: dict[Argument, Tensor] = {name: getattr(case.unbalanced, name) for name in ARGUMENTS}
        flow = _with(case.unbalanced, {name: values.clone() for name, values in given.items()})
        result = self.value(flow, case)
        if not isinstance(result, Tensor):
            return Violation(f"it is a {type(result).__name__}, no tensor.", flow)
        if result.shape != () or not result.is_floating_point():
            return Violation(f"it is {result.dtype} of shape {list(result.shape)}.", flow)
        if not bool(result.isfinite()):
            return Violation(f"it is {float(result)}.", flow)
        for name, before in given.items():
            if not torch.equal(before, getattr(flow, name)):
                return Violation(f"it changes its argument {name}.", _with(flow, {name: before}))
        again = self.value(flow, case)
        if float(again) != float(result):
            return Violation(f"it is {float(result)} once and {float(again)} the next time.", flow)
        return None

    def precision(self, case: LossCase) -> Violation | None:
        found = self.resolution(case)
        if found.epsilon < HALF:
            return None
        return Violation(
            f"it does not change before an entry of {found.argument} moves by {found.step:g}, which is the precision "
            "of bfloat16 or float16: compute in float32 or float64, also under autocast.",
            case.unbalanced,
        )

    def zero(self, case: LossCase) -> Violation | None:
        result = float(self.value(case.flow, case))
        # Asked this way round, NaN counts as wrong.
        return None if abs(result) < self.zero_of(case) else Violation(f"it is {number(result)}.", case.flow)

    def zero_of(self, case: LossCase) -> float:
        return ZERO + 64 * self.rounding(case.flow, case) ** 2

    def stationary(self, case: LossCase) -> Violation | None:
        least = self.zero_of(case) ** 0.5
        for name, gradient in self.gradients(case.flow, case).items():
            wrong = torch.nonzero(~(gradient.abs() < least)).squeeze(1)
            if len(wrong):
                at = int(wrong[0])
                return Violation(f"its gradient by {name}[{at}] is {number(float(gradient[at]))}.", case.flow)
        return None

    def positive(self, case: LossCase) -> Violation | None:
        forest, (edges, leaves) = case.flow.forest, self.can_be_off(case)
        base = max(0.0, float(self.value(case.flow, case)))
        rounding = self.rounding(case.flow, case)
        noise = min(base, 64 * rounding**2)
        for name, places, depth in (
            ("log_pf", edges, forest.depth[forest.edge_child]),
            ("log_pb", edges, forest.depth[forest.edge_child]),
            ("log_reward", leaves, forest.depth[forest.leaves]),
        ):
            if not len(places):
                continue
            drawn = int(places[int(torch.randint(len(places), (1,), generator=case.generator))])
            deepest = int(places[int(depth[places].argmax())])
            tried = [(at, amount) for at in dict.fromkeys((drawn, deepest, int(places[-1]))) for amount in (1.0, -1.0)]
            for at, amount in [*tried, *((drawn, amount) for amount in AMOUNTS)]:
                off = _off(case, name, at, amount)  # type: ignore[arg-type]
                if off is None or abs(amount) <= 100 * rounding:
                    continue
                result = float(self.value(off, case))
                if not result > base + noise + ZERO * min(1.0, amount**2):
                    return Violation(f"it is {number(result)}, but {name}[{at}] is off by {amount:g}.", off)
        return self.opposed(case)

    def opposed(self, case: LossCase) -> Violation | None:
        """Actions out of one state are off, two in opposite directions or all by the same, which no mean may cancel."""
        forest = case.flow.forest
        first, second = forest.sibling_pairs
        if not len(first):
            return None
        up, down, state = int(first[0]), int(second[0]), int(forest.edge_parent[first[0]])
        apart, together = torch.zeros_like(case.flow.log_pf), (forest.edge_parent == state).to(case.flow.log_pf)
        apart[up], apart[down] = 1.0, -1.0
        tried = {f"log_pf[{up}] is off by 1 and log_pf[{down}] by -1": apart}
        paths = torch.bincount(case.groups[forest.leaf_tree])[case.groups[forest.tree[state]]]
        if self.group is None or int(forest.leaves_below[state]) < int(paths):
            tried[f"log_pf of all actions out of node {state} is off by 1"] = together
        for what, change in tried.items():
            log_pf = case.policy(case.flow.log_pf + change)
            off = _with(case.flow, {"log_pf": log_pf})
            # Policies that stay normalised cannot be off by the same everywhere.
            moved = float((log_pf - case.flow.log_pf).abs().max()) > 0.1
            if moved and not (result := float(self.value(off, case))) > self.zero_of(case):
                return Violation(f"it is {number(result)}, but {what}.", off)
        return None

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
        gradients = self.gradients(flow, case)
        scale = max((float(values.abs().max()) for values in gradients.values() if len(values)), default=0.0)
        step = STEPS[self.resolution(case).epsilon]
        for name, gradient in gradients.items():
            kept_normalised = name == "log_pf" and case.policies == "normalised"

            def at(values: Tensor, name: Argument = name, kept_normalised: bool = kept_normalised) -> float:
                moved = case.policy(values) if kept_normalised else values
                return float(self.value(_with(flow, {name: moved}), case))

            def claimed(along: Tensor, gradient: Tensor = gradient, kept_normalised: bool = kept_normalised) -> float:
                return float(gradient @ (case.along(flow.log_pf, along) if kept_normalised else along))

            values = getattr(flow, name)
            noise = 8 * self.resolution(case).epsilon * (abs(at(values)) + scale * float(values.abs().sum())) / step
            direction = torch.randn(gradient.shape, generator=case.generator, dtype=torch.float64)
            if _is_slope(claimed(direction), at, values, direction, scale, noise, step):
                continue
            units = list(torch.eye(len(gradient)).double())
            slopes = [_slope(at, values, unit, step) for unit in units]
            claims = torch.tensor([claimed(unit) for unit in units])
            worst = int((claims - torch.tensor(slopes)).abs().argmax())
            return Violation(
                f"by {name}[{worst}] it is {number(float(claims[worst]))}, by finite differences "
                f"{number(slopes[worst])}.",
                flow,
            )
        return None

    def numbering(self, case: LossCase) -> Violation | None:
        other, tree = renumbered(case.unbalanced, case.generator)
        before = float(self.value(case.unbalanced, case))
        after = float(self._value(other, case.groups[tree]))
        if self.close(before, after, case, case.unbalanced):
            return None
        return Violation(
            f"it is {number(before)}, and {number(after)} as\n{other!r}\nwhich is the same as", case.unbalanced
        )

    def shift(self, case: LossCase) -> Violation | None:
        flow = case.unbalanced
        before = float(self.value(flow, case))
        step = 1.0 + torch.arange(flow.forest.num_trees, dtype=torch.float64)[case.groups]
        # In float32 a shift by a million would leave nothing of the numbers.
        for amount in (1.0, 1e6) if self.resolution(case).epsilon == FLOAT64 else (1.0,):
            other = shifted(flow, amount * step)
            after = float(self.value(other, case))
            if not self.close(before, after, case, other):
                unit = "tree" if self.group is None else "group"
                cause = (
                    " At 1·(i+1) it does not change: large numbers lose precision where they cancel, or meet a limit."
                    if amount > 1
                    else ""
                )
                return Violation(
                    f"it is {number(before)}, and {number(after)} once all three of {unit} i move by "
                    f"{amount:g}·(i+1).{cause}",
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
        whole = float(self._value(flow, groups))
        first, second = (float(self._value(kept(flow, part), groups[part] - groups[part].min())) for part in parts)
        accepted = [first + second]
        if self.over_trees == "mean":
            accepted = [(cut * first + (units - cut) * second) / units]
            if self.group is not None:
                trees = [int(part.sum()) for part in parts]
                accepted.append((trees[0] * first + trees[1] * second) / sum(trees))
        if any(self.close(whole, expected, case, flow) for expected in accepted):
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


def _off(case: LossCase, name: Argument, at: int, amount: float) -> Flow | None:
    """The balanced flow with one entry off; None where the case's policies leave no other value."""
    before: Float[Tensor, " entries"] = getattr(case.flow, name)
    values = before.clone()
    values[at] += amount
    if name != "log_reward":
        values = case.policy(values) if name == "log_pf" else case.backward(values)
    return None if torch.allclose(values, before, rtol=0, atol=abs(amount) / 10) else _with(case.flow, {name: values})


def _slope(function: Callable[[Tensor], float], at: Tensor, direction: Tensor, step: float) -> float:
    return (function(at + step * direction) - function(at - step * direction)) / (2 * step)


def _is_slope(
    claimed: float,
    function: Callable[[Tensor], float],
    at: Tensor,
    direction: Tensor,
    scale: float,
    noise: float,
    step: float,
) -> bool:
    """Whether ``claimed`` is the derivative along ``direction``, up to rounding and to what curvature adds to it."""
    slope = _slope(function, at, direction, step)
    slack = 1e-5 * scale + 1e-9 * abs(function(at)) + 1e-7 + noise
    return abs(claimed - slope) <= slack or (
        abs(claimed - slope) <= slack + 2 * abs(slope - _slope(function, at, direction, 2 * step))
    )
