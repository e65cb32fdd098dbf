"""Random search trees with tokens."""

from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from gflowdial import Forest
from gflowdial.search.tree import SearchTree
from gflowdial.training.trees import EncodedTree

ACTIONS = 5


def search_tree(parent: list[int], action: list[int], **fields: Any) -> SearchTree[int]:
    """A tree of the given shape; what is not given is one visit, value 1, an even prior, and leaves that have ended."""
    nodes = len(parent)
    settings: dict[str, Any] = {
        "reward": torch.zeros(nodes).double(),
        "visits": torch.ones(nodes, dtype=torch.int64),
        "value": torch.ones(nodes).double(),
        "log_prior": torch.full((nodes, ACTIONS), 1 / ACTIONS).double().log(),
        "ended": torch.tensor([node not in parent for node in range(nodes)]),
        "expanded": torch.ones(nodes, dtype=torch.bool),
        "chance": torch.zeros(nodes, dtype=torch.bool),
        "log_chance": torch.zeros(nodes).double(),
    }
    return SearchTree(
        Forest.from_parents(torch.tensor(parent)),
        tuple(range(nodes)),
        torch.tensor(action),
        **(settings | {name: torch.as_tensor(field) for name, field in fields.items()}),
    )


def encoded_tree(seed: int, nodes: int) -> EncodedTree:
    """A tree in which siblings differ in their action, with visits, values and returns of its own."""
    stream = np.random.default_rng(seed)
    parent, action = [-1], [-1]
    while len(parent) < nodes:
        above = int(stream.integers(len(parent)))
        untried = sorted(set(range(ACTIONS)) - {a for p, a in zip(parent, action, strict=True) if p == above})
        if untried:
            parent.append(above)
            action.append(int(stream.choice(untried)))
    prior = stream.dirichlet(np.ones(ACTIONS), size=nodes)
    tokens = [stream.integers(1, 50, size=stream.integers(1, 4)).tolist() for _ in parent]
    visits, value = stream.integers(1, 20, size=nodes), stream.uniform(0, 1, size=nodes)
    leaf_return = stream.uniform(0, 1, size=nodes)
    leaf = ~np.isin(np.arange(nodes), parent)
    tree = search_tree(
        parent,
        action,
        reward=stream.normal(size=nodes),
        visits=visits,
        value=np.where(leaf, leaf_return, value),
        log_prior=np.log(prior),
    )
    return EncodedTree(tree, tokens)


def with_fields(tree: EncodedTree, **fields: Any) -> EncodedTree:
    """The same tree with other fields."""
    return EncodedTree(SearchTree(**(vars(tree.tree) | fields)), tree.tokens)


def tree_seeds(min_nodes: int = 2) -> st.SearchStrategy[list[tuple[int, int]]]:
    """Arguments of `encoded_tree` for one to four trees."""
    return st.lists(st.tuples(st.integers(0, 10_000), st.integers(min_nodes, 12)), min_size=1, max_size=4)


def encoded_trees(seeds: list[tuple[int, int]]) -> list[EncodedTree]:
    """The trees of `tree_seeds`."""
    return [encoded_tree(seed, nodes) for seed, nodes in seeds]
