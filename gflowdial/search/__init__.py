"""Lockstep Monte-Carlo tree search over any batched environment; its trees are training data as they are."""

from gflowdial.faces import lazy_face
from gflowdial.search.adapters import HistoryEnvironment, SearchView
from gflowdial.search.enumeration import enumerate_tree
from gflowdial.search.environment import AnyEnvironment, ChanceEnvironment, SearchEnvironment, Transition, count_steps
from gflowdial.search.files import TreeFileError, read_trees_file, search_to_file, tree_seed, write_trees
from gflowdial.search.growth import grow, unite
from gflowdial.search.mcts import search
from gflowdial.search.selection import SearchConfig, selection_policy
from gflowdial.search.tree import SearchTree
from gflowdial.search.tree_line import FiledTree

__all__ = [
    "AnyEnvironment",
    "ChanceEnvironment",
    "FiledTree",
    "HistoryEnvironment",
    "SearchConfig",
    "SearchEnvironment",
    "SearchTree",
    "SearchView",
    "Transition",
    "TreeFileError",
    "count_steps",
    "enumerate_tree",
    "grow",
    "read_trees_file",
    "search",
    "search_to_file",
    "selection_policy",
    "tree_seed",
    "unite",
    "write_trees",
]

__getattr__, _ = lazy_face(__name__, {}, moved={"SearchForest": "gflowdial.search.SearchTree"})
