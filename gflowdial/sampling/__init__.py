"""Trajectories of an environment: sampled forward or backward, and evaluated by an estimator."""

from gflowdial.sampling.evaluation import Evaluation, evaluate
from gflowdial.sampling.lockstep import Policy, sample_backward, sample_forward
from gflowdial.sampling.prefixes import Prefixes, StoppingEnvironment, stopping_prefixes
from gflowdial.sampling.state_flows import StateFlows, state_flows
from gflowdial.sampling.trajectories import Terminals, Trajectories

__all__ = [
    "Evaluation",
    "Policy",
    "Prefixes",
    "StateFlows",
    "StoppingEnvironment",
    "Terminals",
    "Trajectories",
    "evaluate",
    "sample_backward",
    "sample_forward",
    "state_flows",
    "stopping_prefixes",
]
