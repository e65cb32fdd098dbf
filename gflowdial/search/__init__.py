"""Lockstep Monte-Carlo tree search over any batched environment; its trees are training data as they are."""

from gflowdial.search.environment import ChanceEnvironment, SearchEnvironment, Transition
from gflowdial.search.mcts import search
from gflowdial.search.selection import SearchConfig, selection_policy
from gflowdial.search.tree import SearchTree

__all__ = [
    "ChanceEnvironment",
    "SearchConfig",
    "SearchEnvironment",
    "SearchTree",
    "Transition",
    "search",
    "selection_policy",
]
