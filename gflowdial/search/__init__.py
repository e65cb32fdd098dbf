"""Lockstep Monte-Carlo tree search over any batched environment; its trees are training data as they are."""

from gflowdial.search.environment import SearchEnvironment, Transition
from gflowdial.search.mcts import SearchConfig, search, selection_policy
from gflowdial.search.search_forest import SearchForest

__all__ = ["SearchConfig", "SearchEnvironment", "SearchForest", "Transition", "search", "selection_policy"]
