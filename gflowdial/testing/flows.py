"""What the strategies draw: flows on forests, on small DAGs, in padded batches; with reprs that fit a failing test."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from gflowdial.dag import Dag
from gflowdial.forest import Forest
from gflowdial.layouts import Chains
from gflowdial.shapes import Bool, Float, Tensor

ROWS_SHOWN = 24


@runtime_checkable
class _Printer(Protocol):
    """Hypothesis prints the fields of a dataclass in full, unless it has ``_repr_pretty_``."""

    def text(self, text: str) -> object: ...


@dataclass(frozen=True, eq=False, repr=False)
class Flow:
    """All that a loss reads, in float64: see the losses for the fields.

    Its repr is a table with one row per node; an edge is in the row of the node that it leads to.

    Attributes:
        log_z: log Z of each tree.
    """

    forest: Forest
    log_z: Float[Tensor, " trees"]
    log_flow: Float[Tensor, " nodes"]
    log_pf: Float[Tensor, " edges"]
    log_pb: Float[Tensor, " edges"]
    log_reward: Float[Tensor, " leaves"]

    def __repr__(self) -> str:
        forest, nodes = self.forest, self.forest.num_nodes
        every = torch.arange(nodes)
        columns = {
            "node": _column(every, every, nodes),
            "parent": _column(forest.edge_parent, forest.edge_child, nodes),
            "log Z": _column(self.log_z, forest.roots, nodes),
            "log F": _column(self.log_flow, every, nodes),
            "log P_F": _column(self.log_pf, forest.edge_child, nodes),
            "log P_B": _column(self.log_pb, forest.edge_child, nodes),
            "log R": _column(self.log_reward, forest.leaves, nodes),
        }
        return f"Flow on {_count(forest.num_trees, 'tree')}, {_count(nodes, 'node')}:\n{table(columns)}"

    def _repr_pretty_(self, printer: _Printer, cycle: bool) -> None:  # noqa: ARG002
        printer.text(repr(self))


@dataclass(frozen=True, eq=False, repr=False)
class DagFlow:
    """A balanced flow on a small DAG, in float64.

    Attributes:
        dag: the states and the steps between them.
        log_flow: log F of each node; log R at terminals, log Z at roots.
        log_pf: log P_F of each edge; normalised over the edges out of a node.
        log_pb: log P_B of each edge; normalised over the edges into a node.
        log_reward: log R of each terminal, in the order of ``dag.terminals``.
    """

    dag: Dag
    log_flow: Float[Tensor, " nodes"]
    log_pf: Float[Tensor, " edges"]
    log_pb: Float[Tensor, " edges"]
    log_reward: Float[Tensor, " terminals"]

    def __repr__(self) -> str:
        edges = torch.arange(len(self.dag.source))
        columns = {
            "edge": [f"{s} → {t}" for s, t in zip(self.dag.source.tolist(), self.dag.target.tolist(), strict=True)],
            "log P_F": _column(self.log_pf, edges, len(edges)),
            "log P_B": _column(self.log_pb, edges, len(edges)),
        }
        flow = ", ".join(number(value) for value in self.log_flow.tolist()[:ROWS_SHOWN])
        head = f"DagFlow on {_count(self.dag.num_nodes, 'node')}, log F = [{flow}]"
        return f"{head}:\n{table(columns)}" if len(edges) else head

    def _repr_pretty_(self, printer: _Printer, cycle: bool) -> None:  # noqa: ARG002
        printer.text(repr(self))


@dataclass(frozen=True, eq=False)
class PaddedBatch:
    """Trajectories as rows, filled up on the right: for code that takes padded tensors and a mask.

    Attributes:
        flow: the same numbers on a forest of chains, what the padded code must agree with.
        mask: where a trajectory took an action.
        log_flow: log F of the states, one more a row than actions.
        log_pf: log P_F of the actions.
        log_pb: log P_B of the actions.
        log_reward: log R of each trajectory's end.
        padding: what fills ``log_flow`` behind the end, twice that ``log_pf`` and five times that ``log_pb``, so that
            no difference of them vanishes; no loss may depend on it.
    """

    flow: Flow
    mask: Bool[Tensor, "trees steps"]
    log_flow: Float[Tensor, "trees states"]
    log_pf: Float[Tensor, "trees steps"]
    log_pb: Float[Tensor, "trees steps"]
    log_reward: Float[Tensor, " trees"]
    padding: float

    @staticmethod
    def of(flow: Flow, padding: float) -> "PaddedBatch":
        """The padded form of ``flow``.

        Raises:
            ValueError: if its forest is not of chains laid end to end.
        """
        forest = flow.forest
        if not isinstance(forest.layout, Chains):
            raise ValueError("a padded batch holds chains; draw the flow from chains().")
        steps = torch.bincount(forest.edge_tree, minlength=forest.num_trees)
        longest = int(steps.max())
        mask = torch.arange(longest) < steps[:, None]
        states = torch.arange(longest + 1) <= steps[:, None]

        def padded(values: Tensor, where: Tensor, fill: float) -> Tensor:
            return values.new_full(where.shape, fill).masked_scatter(where, values)

        return PaddedBatch(
            flow,
            mask,
            padded(flow.log_flow, states, padding),
            padded(flow.log_pf, mask, 2 * padding),
            padded(flow.log_pb, mask, 5 * padding),
            flow.log_reward,
            padding,
        )


def number(value: float | int) -> str:
    """A number as short as four digits allow; those that differ from 0 by rounding only say so."""
    return "≈0" if 0 < abs(value) < 1e-12 else f"{value + 0.0:.4g}"


def table(columns: Mapping[str, Sequence[str]]) -> str:
    """Columns of text, aligned on the right under their names; the rows beyond `ROWS_SHOWN` are counted only."""
    rows = list(zip(*columns.values(), strict=True))
    widths = [max(len(cell) for cell in (name, *column)) for name, column in columns.items()]
    lines = [
        "  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (tuple(columns), *rows[:ROWS_SHOWN])
    ]
    if len(rows) > ROWS_SHOWN:
        lines.append(f"  and {len(rows) - ROWS_SHOWN} more rows")
    return "\n".join(lines)


def _column(values: Tensor, at: Tensor, rows: int) -> list[str]:
    column = ["-"] * rows
    for row, value in zip(at.tolist(), values.tolist(), strict=True):
        column[row] = number(value)
    return column


def _count(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")
