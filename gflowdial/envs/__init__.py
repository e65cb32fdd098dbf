"""Environments: the protocol, and small ones whose exact answers can be computed."""

from gflowdial.envs.bits import AppendBits, BitSequences, InsertBits, random_modes
from gflowdial.envs.dialogue import Dialogue
from gflowdial.envs.enumeration import StateGraph, enumerate_states
from gflowdial.envs.environment import Environment, StoppingEnvironment, TurnRewards
from gflowdial.envs.graph import GraphEnvironment
from gflowdial.envs.hypergrid import Hypergrid
from gflowdial.envs.perfect_tree import PerfectTree
from gflowdial.envs.sets import SetBuilding
from gflowdial.envs.stop_anywhere import StopAnywhere

__all__ = [
    "AppendBits",
    "BitSequences",
    "Dialogue",
    "Environment",
    "GraphEnvironment",
    "Hypergrid",
    "InsertBits",
    "PerfectTree",
    "SetBuilding",
    "StateGraph",
    "StopAnywhere",
    "StoppingEnvironment",
    "TurnRewards",
    "enumerate_states",
    "random_modes",
]
