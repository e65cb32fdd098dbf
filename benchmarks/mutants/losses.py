# ruff: noqa: ARG005 (every change takes all arguments)
"""Losses of the library with one thing wrong: in what they read, or in how residuals become a number."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.mutants import hand_losses
from benchmarks.mutants.hand_losses import Loss, mean_over_trees, residual
from gflowdial import Forest, losses, segments
from gflowdial.segments import Segments
from gflowdial.testing import from_log_z

BASES: dict[str, Loss] = {
    "DB": losses.detailed_balance,
    "TB": from_log_z(losses.trajectory_balance),
    "SubTB": losses.subtrajectory_balance,
}


def on_inputs(name: str, change: Callable[..., Any], base: Loss) -> Loss:
    """A base loss that reads ``change(F, P_F, P_B, R, forest)`` in the place of the first four."""

    def loss(*flow: Any) -> Tensor:
        return base(*change(*flow), flow[-1])

    loss.__name__ = name.replace(" ", "_")
    return loss


# f, p, b, r: log F, log P_F, log P_B and log R.
INPUTS: dict[str, Callable[..., Any]] = {
    "sign of P_F": lambda f, p, b, r, t: (f, -p, b, r),
    "sign of P_B": lambda f, p, b, r, t: (f, p, -b, r),
    "sign of R": lambda f, p, b, r, t: (f, p, b, -r),
    "no P_B": lambda f, p, b, r, t: (f, p, 0 * b, r),
    "R cooled": lambda f, p, b, r, t: (f, p, b, 0.9 * r),
    "R at most 10": lambda f, p, b, r, t: (f, p, b, r.clamp(max=10.0)),
    "R at least -10": lambda f, p, b, r, t: (f, p, b, r.clamp(min=-10.0)),
    "P_F at least -50": lambda f, p, b, r, t: (f, p.clamp(min=-50.0), b, r),
    "probabilities of P_F": lambda f, p, b, r, t: (f, (p.exp() + 1e-8).log(), b, r),
    "flows of F": lambda f, p, b, r, t: (f.exp().log(), p, b, r.exp().log()),
    "P_F detached": lambda f, p, b, r, t: (f, p.detach(), b, r),
    "F detached": lambda f, p, b, r, t: (f.detach(), p, b, r),
    "P_B of the next edge": lambda f, p, b, r, t: (f, p, b.roll(1), r),
    "R of the next leaf": lambda f, p, b, r, t: (f, p, b, r.roll(1)),
    "P_F in bfloat16": lambda f, p, b, r, t: (f, p.bfloat16().to(p), b, r),
    "all in float16": lambda f, p, b, r, t: tuple(x.half().to(x) for x in (f, p, b, r)),
    "P_F in place": lambda f, p, b, r, t: (f, _spoiled(p), b, r),
    "P_B stops at depth 6": lambda f, p, b, r, t: (f, p, torch.where(t.depth[t.edge_child] <= 6, b, 0.0), r),
    "no P_F behind the 16th edge": lambda f, p, b, r, t: (f, torch.cat([p[:16], 0 * p[16:]]), b, r),
}


def _spoiled(p: Tensor) -> Tensor:
    with torch.no_grad():
        p.data.add_(1e-3)
    return p


def on_edges(name: str, change: Callable[[Tensor, Forest], Tensor]) -> Loss:
    """Detailed balance in which ``change(δ, forest)`` is averaged over the edges of each tree."""

    def loss(*flow: Any) -> Tensor:
        return mean_over_trees(change(residual(*flow), flow[-1]), flow[-1])

    loss.__name__ = name.replace(" ", "_")
    return loss


def _only(keep: Callable[[Forest], Tensor]) -> Callable[[Tensor, Forest], Tensor]:
    return lambda d, t: torch.where(keep(t), d.square(), 0.0)


def _depth(t: Forest) -> Tensor:
    return t.depth[t.edge_child]


def _child_number(t: Forest) -> Tensor:
    """Which of its parent's children an edge leads to."""
    order = torch.argsort(t.edge_parent, stable=True)
    first = torch.searchsorted(t.edge_parent[order].contiguous(), t.edge_parent[order].contiguous())
    return torch.empty_like(order).index_copy(0, order, torch.arange(len(order)) - first)


EDGES: dict[str, Callable[[Tensor, Forest], Tensor]] = {
    "nothing deeper than 3": _only(lambda t: _depth(t) <= 3),
    "nothing deeper than 50": _only(lambda t: _depth(t) <= 50),
    "nothing deeper than 200": _only(lambda t: _depth(t) <= 200),
    "no first step": _only(lambda t: _depth(t) > 1),
    "every second step": _only(lambda t: _depth(t) % 2 == 1),
    "no trees behind the 8th": _only(lambda t: t.edge_tree < 8),
    "no trees behind the 32nd": _only(lambda t: t.edge_tree < 32),
    "no first tree": _only(lambda t: (t.edge_tree > 0) | (t.num_trees == 1)),
    "no children behind the 4th": _only(lambda t: _child_number(t) < 4),
    "no children behind the 64th": _only(lambda t: _child_number(t) < 64),
    "no only children": _only(lambda t: t.num_children[t.edge_parent] > 1),
    "no leaves": _only(lambda t: t.num_children[t.edge_child] > 0),
    "leaves alone": _only(lambda t: t.num_children[t.edge_child] == 0),
    "no trees of one edge": _only(lambda t: torch.bincount(t.edge_tree, minlength=t.num_trees)[t.edge_tree] > 1),
    "dead zone": lambda d, t: (d.abs() - 0.1).clamp(min=0).square(),
    "tolerant below 0": lambda d, t: d.clamp(min=0).square(),
    "tolerant above 0": lambda d, t: d.clamp(max=0).square(),
    "tolerant above 10": lambda d, t: torch.where(d > 10, 0.0, d.square()),
    "periodic": lambda d, t: 1 - torch.cos(2 * torch.pi * d),
    "no square": lambda d, t: d,
    "square of the exponential": lambda d, t: d.exp().square(),
    "not centred": lambda d, t: (d - 0.1).square(),
    "half of it detached": lambda d, t: d * d.detach(),
    "weights of the residual": lambda d, t: d.square() * d.square().softmax(0),
    "weights by number": lambda d, t: d.square() * (1 + torch.arange(len(d))),
    "normalised by the batch": lambda d, t: d.square() / d.square().detach().mean().clamp(min=1e-6),
    "square in float16": lambda d, t: d.half().square().to(d),
    "square in bfloat16": lambda d, t: d.bfloat16().square().to(d),
    "centred over siblings": lambda d, t: (d - _sibling_mean(d, t)).square(),
    "noise": lambda d, t: (d + 1e-4 * torch.randn_like(d)).square(),
    "largest residual of each kind": lambda d, t: d.square().max() + 0 * d if len(d) else d,
}


def _sibling_mean(d: Tensor, t: Forest) -> Tensor:
    siblings = Segments.from_ids(t.edge_parent, t.num_nodes)
    return torch.where(t.num_children[t.edge_parent] > 1, segments.mean(d, siblings)[t.edge_parent], 0.0)


def _squares(*flow: Any) -> Tensor:
    return residual(*flow).square()


def _per_tree(*flow: Any) -> Tensor:
    return segments.mean(_squares(*flow), Segments.from_ids(flow[-1].edge_tree, flow[-1].num_trees))


WHOLE: dict[str, Callable[..., Any]] = {
    "sum over trees": lambda *flow: _per_tree(*flow).sum(),
    "sum over edges": lambda *flow: _squares(*flow).sum(),
    "median of trees": lambda *flow: _per_tree(*flow).median(),
    "largest tree": lambda *flow: _per_tree(*flow).max(),
    "trees by size": lambda *flow: _squares(*flow).sum() / max(1, len(flow[1])),
    "divided by trees less one": lambda *flow: _per_tree(*flow).sum() / max(1, flow[-1].num_trees - 1),
    "square root": lambda *flow: (_per_tree(*flow).mean() + 1e-12).sqrt(),
    "one value a tree": _per_tree,
    "a Python number": lambda *flow: float(_per_tree(*flow).mean()),
    "an integer": lambda *flow: (1000 * _per_tree(*flow).mean()).long(),
    "bfloat16": lambda *flow: _per_tree(*flow).mean().bfloat16(),
    "a constant": lambda *flow: _per_tree(*flow).mean() + 1e-3,
    "an entropy bonus": lambda *flow: _per_tree(*flow).mean() + 0.01 * flow[1].square().sum(),
    "zero": lambda *flow: 0 * flow[0].sum(),
    "NaN for many trees": lambda *flow: _per_tree(*flow).mean() * (torch.nan if flow[-1].num_trees > 30 else 1),
    "an error for wide trees": lambda *flow: _per_tree(*flow).mean() + 0 * torch.zeros(64)[flow[-1].num_children.max()],
}


def faults() -> dict[str, Loss]:
    """By what is wrong, losses that `check_loss` must refuse."""
    found: dict[str, Loss] = {fault.__name__.replace("_", " "): fault for fault in hand_losses.FAULTS}
    for change, inputs in INPUTS.items():
        for base in BASES:
            # log F is no argument of trajectory balance but at the roots; the last of these is an order of edges.
            found[f"{base}: {change}"] = on_inputs(f"{base} {change}", inputs, BASES[base])
    found |= {f"δ: {name}": on_edges(name, change) for name, change in EDGES.items()}
    return found | {f"whole: {name}": _named(name, whole) for name, whole in WHOLE.items()}


def _named(name: str, whole: Callable[..., Any]) -> Loss:
    def loss(*flow: Any) -> Tensor:
        answer: Tensor = whole(*flow)
        return answer

    loss.__name__ = name.replace(" ", "_")
    return loss


def node_by_node(f: Tensor, p: Tensor, b: Tensor, r: Tensor, t: Forest) -> Tensor:
    """Detailed balance in Python loops."""
    reward = dict(zip(t.leaves.tolist(), r, strict=True))
    per_tree: list[list[Tensor]] = [[] for _ in range(t.num_trees)]
    edges = zip(t.edge_parent.tolist(), t.edge_child.tolist(), t.edge_tree.tolist(), strict=True)
    for edge, (above, below, tree) in enumerate(edges):
        per_tree[tree].append((f[above] + p[edge] - reward.get(below, f[below]) - b[edge]) ** 2)
    means = [torch.stack(squares).mean() if squares else f.sum() * 0 for squares in per_tree]
    return torch.stack(means).mean()


def asserts_probabilities(*flow: Any) -> Tensor:
    if bool((flow[1] > 0).any()):
        raise ValueError("log P_F is above 0")
    return losses.detailed_balance(*flow)


def asserts_normalised(*flow: Any) -> Tensor:
    t: Forest = flow[-1]
    total = segments.sum(flow[1].exp(), Segments.from_ids(t.edge_parent, t.num_nodes))[t.edge_parent]
    assert bool(((total - 1).abs() < 1e-3).all()), "P_F must sum to 1"
    return losses.detailed_balance(*flow)


def in_float32(*flow: Any) -> Tensor:
    f, p, b, r = (x.float() for x in flow[:4])
    return mean_over_trees(residual(f, p, b, r, flow[-1]).square(), flow[-1])


def residual_in_float32(*flow: Any) -> Tensor:
    return mean_over_trees(residual(*flow).float().square(), flow[-1]).double()


def of_padded(f: Tensor, p: Tensor, b: Tensor, r: Tensor, mask: Tensor) -> Tensor:
    return (f[:, 0] + torch.where(mask, p - b, 0.0).sum(1) - r).square().mean()


SOUND: dict[str, Loss] = {
    "Python loops": node_by_node,
    "asserts log P_F ≤ 0": asserts_probabilities,
    "asserts that P_F sums to 1": asserts_normalised,
    "float32": in_float32,
    "residuals in float32": residual_in_float32,
    "fourth power": partial(losses.detailed_balance, penalty=lambda x: x**4),
    "linex": partial(losses.detailed_balance, penalty=losses.linex),
    "log cosh on whole trajectories": from_log_z(partial(losses.trajectory_balance, penalty=losses.log_cosh)),
    "huber on pairs": partial(losses.subtrajectory_balance, penalty=losses.huber),
    "short pairs": partial(losses.subtrajectory_balance, decay=0.1),
    "pairs by path": partial(losses.subtrajectory_balance, decay=1.0, pair_weight="path"),
    "a hundred times": on_edges("a hundred times", lambda d, t: 100 * d.square()),
    "leaves count ten times": on_edges(
        "leaves ten times", lambda d, t: torch.where(t.num_children[t.edge_child] == 0, 10.0, 1.0) * d.square()
    ),
    "by depth": on_edges("by depth", lambda d, t: d.square() / _depth(t)),
    "two losses at once": lambda *flow: losses.detailed_balance(*flow) + BASES["TB"](*flow),
    "a constant and its negative": lambda *flow: (losses.detailed_balance(*flow) + 1) - 1,
}
