"""Roles without a language model: a small world whose exact flows can be computed."""

from examples.aflow_esc.simulated.exact import (
    ExactFlow,
    Outcome,
    best_return,
    evaluate_policy,
    prior_policy,
    uniform_policy,
)
from examples.aflow_esc.simulated.players import path_of, simulated_roles
from examples.aflow_esc.simulated.wording import all_phrases

__all__ = [
    "ExactFlow",
    "Outcome",
    "all_phrases",
    "best_return",
    "evaluate_policy",
    "path_of",
    "prior_policy",
    "simulated_roles",
    "uniform_policy",
]
