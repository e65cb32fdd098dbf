"""Flow matching: as much flow enters each state as leaves it."""

import torch

from gflowdial import segments
from gflowdial.losses.inputs import check_device, check_finite_if_required, loss_dtype
from gflowdial.losses.penalties import Penalty, squared
from gflowdial.losses.reading import reads
from gflowdial.numerics import lift_vector
from gflowdial.segments import Segments
from gflowdial.shapes import Float, Int, Tensor


@reads("states")
def flow_matching(
    log_in_flow: Float[Tensor, " in_edges"],
    log_out_flow: Float[Tensor, " out_edges"],
    log_reward: Float[Tensor, " states"],
    in_state: Int[Tensor, " in_edges"],
    out_state: Int[Tensor, " out_edges"],
    *,
    penalty: Penalty = squared,
) -> Float[Tensor, ""]:
    """``(log(R(s) + Σ over s→s'' of F(s→s'')) - log Σ over s'→s of F(s'→s))²``, averaged over states.

    The states are any batch of a graph's states, with all their in- and out-edges listed in any order. A state without
    in-edges starts trajectories: nothing is asked of it. On a `Dag` with one log-flow per edge::

        flow_matching(log_edge_flow, log_edge_flow, log_reward_of_nodes, dag.target, dag.source)

    Zero exactly when the edge flows are those of a policy that ends in each state in proportion to R; many are, one for
    each P_B. There is no ε in the logarithms: a state that is entered but has no way out and no reward costs infinity.

    Args:
        log_in_flow: log F of each in-edge, ``[in_edges]``.
        log_out_flow: log F of each out-edge, ``[out_edges]``.
        log_reward: log R of each state, ``[states]``, -inf where none may end.
        in_state: the state that each in-edge enters, an index into ``log_reward``, ``int64 [in_edges]``.
        out_state: the state that each out-edge leaves, ``int64 [out_edges]``.
        penalty: what a residual costs; see `losses.penalties`.

    Returns:
        The loss, computed in float64 and returned in the dtype of ``log_in_flow``, at least float32; 0 where no state
        has in-edges.

    Raises:
        ValueError: if a length does not fit, or an edge names a state that is not there.

    Source: Bengio et al., arXiv 2106.04399.
    """
    states = len(log_reward)
    others = {"log_in_flow": log_in_flow, "log_out_flow": log_out_flow, "in_state": in_state, "out_state": out_state}
    for name, values in others.items():
        check_device(name, values, log_reward, "log_reward")
    inward = lift_vector("log_in_flow", log_in_flow, len(in_state), "in-edge")
    outward = lift_vector("log_out_flow", log_out_flow, len(out_state), "out-edge")
    # Here alone -inf has a meaning, which `require_finite` must not refuse.
    no_end = log_reward == -torch.inf
    reward = lift_vector("log_reward", log_reward.where(~no_end, 0.0), states, "state")
    check_finite_if_required("log_in_flow", inward, lambda i: f"an edge into state {int(in_state[i])}")
    check_finite_if_required("log_out_flow", outward, lambda i: f"an edge out of state {int(out_state[i])}")
    check_finite_if_required("log_reward", reward, lambda i: f"state {i}")
    reward = reward.where(~no_end, -torch.inf)
    for name, index in (("in_state", in_state), ("out_state", out_state)):
        if not torch.compiler.is_compiling() and bool(((index < 0) | (index >= states)).any()):
            raise ValueError(f"{name} must index the {states} entries of log_reward; it holds others.")
    entered = Segments.from_ids(in_state, states)
    inflow = segments.logsumexp(inward, entered)
    # The reward of a state is one more edge out of it.
    everyone = torch.arange(states, device=reward.device)
    leaving = Segments.from_ids(torch.cat([out_state, everyone]), states)
    outflow = segments.logsumexp(torch.cat([outward, reward]), leaving)
    counts = entered.sizes > 0
    # Where nothing is asked the difference may be infinite, and must not reach the penalty.
    residual = torch.where(counts, outflow, 0.0) - torch.where(counts, inflow, 0.0)
    costs = torch.where(counts, penalty(residual), 0.0)
    return (costs.sum() / counts.sum().clamp(min=1)).to(loss_dtype(log_in_flow))
