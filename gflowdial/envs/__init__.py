"""Environments: the protocol, and small ones whose exact answers can be computed."""

from gflowdial.envs.bits import AppendBits, BitSequences, InsertBits, random_modes
from gflowdial.envs.enumeration import StateGraph, enumerate_states
from gflowdial.envs.environment import Environment, StateSpace, StoppingEnvironment, TurnRewards
from gflowdial.envs.graph import GraphEnvironment
from gflowdial.envs.hypergrid import Hypergrid
from gflowdial.envs.move_sequences import MoveSequences
from gflowdial.envs.perfect_tree import PerfectTree
from gflowdial.envs.sets import SetBuilding
from gflowdial.envs.stop_anywhere import StopAnywhere
from gflowdial.faces import lazy_face

__all__ = ["Environment", "StateSpace", "StoppingEnvironment", "TurnRewards"]
__all__ += ["AppendBits", "BitSequences", "GraphEnvironment", "Hypergrid", "InsertBits", "MoveSequences", "PerfectTree"]
__all__ += ["SetBuilding", "StateGraph", "StopAnywhere", "enumerate_states", "random_modes"]

__getattr__, _ = lazy_face(__name__, {}, moved={"Dialogue": "gflowdial.envs.MoveSequences"})
