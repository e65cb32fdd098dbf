"""Environments: the protocol, and small ones whose exact answers can be computed."""

from gflowdial.envs.environment import Environment

__all__ = ["Environment"]
