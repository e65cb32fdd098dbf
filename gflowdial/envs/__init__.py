"""Environments: the protocol, and small ones whose exact answers can be computed."""

from gflowdial.envs.bits import AppendBits, BitSequences, InsertBits, random_modes
from gflowdial.envs.dialogue import Dialogue
from gflowdial.envs.enumeration import StateGraph, enumerate_states
from gflowdial.envs.environment import Environment, StateSpace, StoppingEnvironment, TurnRewards
from gflowdial.envs.graph import GraphEnvironment
from gflowdial.envs.hypergrid import Hypergrid
from gflowdial.envs.perfect_tree import PerfectTree
from gflowdial.envs.sets import SetBuilding
from gflowdial.envs.stop_anywhere import StopAnywhere

__all__ = ["Environment", "StateSpace", "StoppingEnvironment", "TurnRewards"]
__all__ += ["AppendBits", "BitSequences", "Dialogue", "GraphEnvironment", "Hypergrid", "InsertBits", "PerfectTree"]
__all__ += ["SetBuilding", "StateGraph", "StopAnywhere", "enumerate_states", "random_modes"]
