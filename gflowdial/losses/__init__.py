"""GFlowNet losses: pure functions ``(log_flow or log_z, log_pf, log_pb, log_reward, forest, *, options)``.

Some read other tensors, in an order of their own: ``log_stop`` comes first in modified losses, ``log_reference`` is in
the place of ``log_pb`` in relative ones; `log_partition_variance` has no flow, `expected_detailed_balance` no
``log_pb``, `maximum_likelihood` neither; `dynamics_likelihood`, `ranking_hinge` and `reference_kl` read no reward, and
`flow_matching` reads edges and no forest; the terms of AFlow's releases read its Q̂, V and negative actions. Every
docstring shows all arguments.

All logarithms are natural. Every loss checks shapes and devices, computes in float64 and returns the dtype that came
in, at least float32, so that bfloat16 and autocast are safe; every one can be differentiated twice, in forward mode
too, and transformed by `torch.func`. `losses.reduction` says how they average, `losses.paths` has parts of losses.
Under ``torch.compile(fullgraph=True)`` they run on a forest that was prepared (see `Forest.prepare`). Policy gradients
are surrogates: their gradient is an estimate, their value has no meaning. `require_finite` makes any of them name what
is not finite.
"""

import inspect

from gflowdial.losses.actor_critic import policy_gradient, ppo, reinforce
from gflowdial.losses.afpo import afpo, ranking_hinge, reference_kl
from gflowdial.losses.balance import detailed_balance, trajectory_balance
from gflowdial.losses.credit import turn_credit
from gflowdial.losses.flow_matching import flow_matching
from gflowdial.losses.forward_looking import forward_looking_detailed_balance, forward_looking_subtrajectory_balance
from gflowdial.losses.group_relative import grpo, rloo
from gflowdial.losses.inputs import require_finite
from gflowdial.losses.likelihood import behaviour_cloning, maximum_likelihood
from gflowdial.losses.modified import modified_detailed_balance, modified_subtrajectory_balance
from gflowdial.losses.paths import absorbed_reward, floored, group_log_z, importance_weight, path_residual
from gflowdial.losses.penalties import huber, linex, log_cosh, squared
from gflowdial.losses.preference import dpo
from gflowdial.losses.reading import LOSSES, Loss, Reading, Sum, inputs_of, loss_on
from gflowdial.losses.relative import relative_subtrajectory_balance, relative_trajectory_balance
from gflowdial.losses.released import released_flow_balance, released_kl, released_preference, value_margin
from gflowdial.losses.reweighted import clipped_trajectory_balance, length_normalised_trajectory_balance
from gflowdial.losses.rooted import rooted_prefix_balance
from gflowdial.losses.stochastic import dynamics_likelihood, expected_detailed_balance, stochastic_detailed_balance
from gflowdial.losses.subtrajectory import subtrajectory_balance
from gflowdial.losses.variance import log_partition_variance

__all__ = [
    "LOSSES",
    "Loss",
    "Reading",
    "Sum",
    "absorbed_reward",
    "afpo",
    "behaviour_cloning",
    "clipped_trajectory_balance",
    "detailed_balance",
    "dpo",
    "dynamics_likelihood",
    "expected_detailed_balance",
    "floored",
    "flow_matching",
    "forward_looking_detailed_balance",
    "forward_looking_subtrajectory_balance",
    "group_log_z",
    "grpo",
    "huber",
    "importance_weight",
    "inputs_of",
    "length_normalised_trajectory_balance",
    "linex",
    "log_cosh",
    "log_partition_variance",
    "loss_on",
    "maximum_likelihood",
    "modified_detailed_balance",
    "modified_subtrajectory_balance",
    "path_residual",
    "policy_gradient",
    "ppo",
    "ranking_hinge",
    "reference_kl",
    "reinforce",
    "relative_subtrajectory_balance",
    "relative_trajectory_balance",
    "released_flow_balance",
    "released_kl",
    "released_preference",
    "require_finite",
    "rloo",
    "rooted_prefix_balance",
    "squared",
    "stochastic_detailed_balance",
    "subtrajectory_balance",
    "trajectory_balance",
    "turn_credit",
    "value_margin",
]

_HELPERS = ("credit", "inputs", "paths", "penalties", "reading")
LOSSES.update(
    (name, function)
    for name, function in sorted(globals().items())
    if inspect.isfunction(function) and function.__module__.rpartition(".")[2] not in _HELPERS
)
