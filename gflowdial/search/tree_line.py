"""A search tree as one JSON line: the form of the line, and everything that must hold in it."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic

import numpy as np
import torch
from numpy.typing import NDArray

from gflowdial.forest import Forest
from gflowdial.search.answers import TOLERANCE
from gflowdial.search.environment import State
from gflowdial.search.tree import SearchTree

FORMAT = 2
"""Version of the form."""

Encode = Callable[[SearchTree[State]], Sequence[Any]]
"""The state at each node of a tree as a JSON value; a value may leave out what the parent's state has."""

Decode = Callable[[Sequence[Any], Sequence[int]], Sequence[State]]
"""The states again, from the values and the parent of each node, −1 at the root; a ValueError refuses the line."""

_KINDS: dict[str, type] = {
    **dict.fromkeys(("parent", "action", "visits"), int),
    **dict.fromkeys(("reward", "value", "log_chance"), float),
    **dict.fromkeys(("ended", "expanded", "chance"), bool),
}
_FIELDS = ("format", "header", *_KINDS, "log_prior", "state")


@dataclass(frozen=True)
class FiledTree(Generic[State]):
    """One line of a tree file.

    Attributes:
        header: what the tree is of: task, settings, seed, scene, whatever tells it from others; JSON values.
        tree: one tree.
    """

    header: Mapping[str, Any]
    tree: SearchTree[State]


def to_line(filed: FiledTree[State], encode: Encode[State]) -> str:
    """The line: columns with one entry per node, and numbers that are read back exactly.

    In ``log_prior`` null is a prior that was not asked, and within a prior a forbidden action.
    """
    tree = filed.tree
    columns = {name: tree.forest.parent if name == "parent" else getattr(tree, name) for name in _KINDS}
    record = {
        "format": FORMAT,
        "header": dict(filed.header),
        **{name: column.tolist() for name, column in columns.items()},
        "log_prior": [
            None if math.isnan(prior[0]) else [None if p == -math.inf else p for p in prior]
            for prior in tree.log_prior.tolist()
        ],
        "state": list(encode(tree)),
    }
    return json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"


def from_line(line: bytes, decode: Decode[State]) -> FiledTree[State]:
    """The tree of a line.

    Raises:
        ValueError: the line is no JSON, has another form, or holds no tree.
    """
    try:
        record = json.loads(line)
    except ValueError as error:
        raise ValueError(f"invalid JSON, {error}") from None
    _check_form(record)
    for wrong, fault in _faults(record):
        if np.any(wrong):
            node = int(np.argmax(wrong))
            raise ValueError(f"node {node}: " + fault.format(**{name: record[name][node] for name in _KINDS}))
    parent, priors = record["parent"], record["log_prior"]
    try:
        states = tuple(decode(record["state"], parent))
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f"state: {error}") from error
    if len(states) != len(parent):
        raise ValueError(f"state: there are {len(states)} states for {len(parent)} nodes")
    log_prior = [
        [math.nan if row is None else -math.inf if p is None else p for p in row or priors[0]] for row in priors
    ]
    dtypes = {int: torch.int64, float: torch.float64, bool: torch.bool}
    columns = {name: torch.tensor(record[name], dtype=dtypes[kind]) for name, kind in _KINDS.items()}
    forest = Forest.from_parents(columns.pop("parent"))
    tree = SearchTree(forest=forest, states=states, log_prior=torch.tensor(log_prior, dtype=torch.float64), **columns)
    return FiledTree(record["header"], tree)


def _check_form(record: Any) -> None:
    """The right fields, and columns of the right kinds and lengths."""
    if not isinstance(record, dict) or not isinstance(record.get("header", {}), dict):
        raise ValueError("the line and its header must be JSON objects")
    if record.get("format", FORMAT) != FORMAT:
        raise ValueError(f"format is {record['format']!r}: this version reads format {FORMAT}")
    for name in (*_FIELDS, *record):
        if name not in record or name not in _FIELDS:
            raise ValueError(f"{name} is {'no field of a tree' if name in record else 'missing'}")
    for name in _FIELDS[2:]:
        if not isinstance(record[name], list) or not 0 < len(record[name]) == len(record["parent"]):
            raise ValueError(f"{name} must be a list with one entry per node, one at least")
    for name, kind in _KINDS.items():
        for node, value in enumerate(record[name]):
            if not _is(kind, value):
                raise ValueError(f"node {node}: {name} is {value!r}: it must be a finite {kind.__name__}")


def _is(kind: type, value: Any) -> bool:
    of_kind = type(value) is kind
    return of_kind and (math.isfinite(value) if kind is float else -(2**63) < value < 2**63)


def _faults(record: dict[str, Any]) -> Iterator[tuple[NDArray[np.bool_], str]]:
    """Where nodes break a rule, and which. A rule is asked where those before it hold, and may rely on them."""
    names = ("parent", "action", "visits", "log_chance", "ended", "expanded", "chance")
    parent, action, visits, log_chance, ended, expanded, chance = (np.array(record[name]) for name in names)
    priors = record["log_prior"]
    asked = np.array([prior is not None for prior in priors])
    node, acts = np.arange(len(parent)), ~ended & ~chance
    inner = node > 0
    yield ~inner & (parent != -1), "the first node is the root and has parent -1, not {parent}"
    no_tree = inner & ((parent < 0) | (parent >= node))
    yield no_tree, "parent {parent} makes no tree: every node but the first has one of the nodes before it"
    yield ~inner & ~(acts & expanded & (action == -1)), "the root is expanded, has action -1 and has not ended"
    # The root stands in for its own parent: it breaks none of the rules about parents.
    above = np.maximum(parent, 0)
    yield ended[above], "its parent {parent} has ended"
    yield ended & chance, "a chance node has not ended"
    yield expanded & ~expanded[above], "it is expanded, and its parent {parent} is not"
    yield visits < 1, "visits is {visits}, below 1"
    yield asked & ~acts, "log_prior must be null where the node ended or chance moves"
    yield ~asked & acts & expanded, "log_prior is null at a node that is expanded and acts"
    size = len(priors[0]) if isinstance(priors[0], list) else 0
    wrong = np.array([prior is not None and not _is_prior(prior, size) for prior in priors])
    yield wrong, f"log_prior must be {size} log-probabilities (null: forbidden) whose probabilities sum to 1"
    outcome = chance[above]
    answers = ~chance & (action == -1) & (log_chance <= 0)
    yield outcome & ~answers, "an outcome of chance has action -1, chance false and a log_chance of 0 or less"
    yield ~outcome & (log_chance != 0), "log_chance is {log_chance}: it must be 0, since its parent is no chance node"
    taken = inner & ~outcome
    yield taken & ~asked[above], "its parent {parent} has no prior"
    yield taken & ((action < 0) | (action >= size)), f"unknown action {{action}}: there are {size}"
    forbidden = [t and priors[p][a] is None for t, p, a in zip(taken, above, action, strict=True)]
    yield np.array(forbidden), "action {action} is forbidden by the prior of its parent {parent}"
    _, first = np.unique(above * (size + 1) + action + 1, return_index=True)
    yield taken & ~np.isin(node, first), "its parent {parent} has two children by action {action}"
    total = np.bincount(above, np.exp(log_chance) * outcome, len(node))
    yield chance & ((total <= 0) | (total > 1 + TOLERANCE)), "the probabilities of its outcomes do not sum to (0, 1]"


def _is_prior(prior: Any, size: int) -> bool:
    if not isinstance(prior, list) or len(prior) != size or not all(p is None or _is(float, p) for p in prior):
        return False
    return abs(sum(math.exp(min(p, 1)) for p in prior if p is not None) - 1) <= TOLERANCE
