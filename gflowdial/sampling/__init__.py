"""Trajectories of an environment: sampled forward or backward, and read by an estimator."""

from gflowdial.faces import lazy_face
from gflowdial.sampling.lockstep import Policy, sample_backward, sample_forward
from gflowdial.sampling.readings import read_trajectories
from gflowdial.sampling.trajectories import Terminals, Trajectories

__all__ = ["Policy", "Terminals", "Trajectories", "read_trajectories", "sample_backward", "sample_forward"]

_READING = "an input of gflowdial.sampling.read_trajectories"
__getattr__, _ = lazy_face(
    __name__,
    {},
    moved={
        **dict.fromkeys(("Evaluation", "evaluate"), "gflowdial.sampling.read_trajectories"),
        **dict.fromkeys(("Prefixes", "StateFlows", "state_flows", "stopping_prefixes"), _READING),
        "StoppingEnvironment": "gflowdial.envs.StoppingEnvironment",
    },
)
