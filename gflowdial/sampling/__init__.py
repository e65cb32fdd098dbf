"""Trajectories of an environment: sampled forward or backward, and read by an estimator."""

from gflowdial.sampling.lockstep import Policy, sample_backward, sample_forward
from gflowdial.sampling.readings import read_trajectories
from gflowdial.sampling.trajectories import Terminals, Trajectories

__all__ = ["Policy", "Terminals", "Trajectories", "read_trajectories", "sample_backward", "sample_forward"]
