"""The same losses in other forms, on trajectories of one length; each as good as its form allows.

Padded tensors are ``[B, T]`` for actions and for the states before them; ``log_reward [B]`` is log F of the last state.
All forms give the values of `gflowdial.losses` on the same input.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from benchmarks.measure import device


def _along(log_flow: Tensor, log_pf: Tensor, log_pb: Tensor, log_reward: Tensor) -> Tensor:
    """c = log F less the sum of log P_F - log P_B so far, ``[B, T + 1]``: residuals are its differences."""
    flow = torch.cat([log_flow, log_reward[:, None]], 1)
    return flow - pad((log_pf - log_pb).cumsum(1), (1, 0))


def pair_weights(length: int, decay: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """``decay^(n - m)`` for m < n, ``[T + 1, T + 1]``, with sum 1."""
    step = torch.arange(length + 1, device=device())
    distance = step[None, :] - step[:, None]
    weight = torch.where(distance > 0, decay ** distance.clamp(min=0).to(torch.float64), 0.0)
    return (weight / weight.sum()).to(dtype)


def dense_subtb(log_flow: Tensor, log_pf: Tensor, log_pb: Tensor, log_reward: Tensor, weight: Tensor) -> Tensor:
    """All pairs of all trajectories in one table ``[B, T + 1, T + 1]``."""
    c = _along(log_flow, log_pf, log_pb, log_reward)
    residual = c[:, :, None] - c[:, None, :]
    return (residual.square() * weight).sum() / len(c)


def laplacian(weight: Tensor) -> Tensor:
    """L with ``cᵀ L c = Σ weight (c_m - c_n)²``, ``[T + 1, T + 1]``."""
    both = weight + weight.T
    return torch.diag(both.sum(1)) - both


def matrix_subtb(log_flow: Tensor, log_pf: Tensor, log_pb: Tensor, log_reward: Tensor, laplacian: Tensor) -> Tensor:
    """The quadratic form ``cᵀ L c`` by one product with a matrix ``[T + 1, T + 1]``, in float64."""
    c = _along(*(x.double() for x in (log_flow, log_pf, log_pb, log_reward)))
    # L c is a constant for the gradient 2 L c: half of what the product rule would compute.
    product = (c.detach() @ laplacian).detach()
    energy = (c * product).sum()
    return (2 * energy - energy.detach()) / len(c)


def loop_subtb(log_flow: Tensor, log_pf: Tensor, log_pb: Tensor, log_reward: Tensor, decay: float) -> Tensor:
    """One trajectory and one subtrajectory after the other, in the manner of AFlow's released code."""
    losses = []
    for flow, pf, pb, reward in zip(log_flow, log_pf, log_pb, log_reward, strict=True):
        states = torch.cat([flow, reward[None]])
        terms, total = [], 0.0
        for m in range(len(pf)):
            for n in range(m + 1, len(pf) + 1):
                residual = states[m] + pf[m:n].sum() - pb[m:n].sum() - states[n]
                weight = decay ** (n - m)
                terms.append(weight * residual**2)
                total += weight
        losses.append(torch.stack(terms).sum() / total)
    return torch.stack(losses).mean()


def padded_tb(log_z: Tensor, log_pf: Tensor, log_pb: Tensor, log_reward: Tensor) -> Tensor:
    """TB on padded trajectories in the fewest operations."""
    return (log_z + log_pf.sum(1) - log_pb.sum(1) - log_reward).square().mean()


def padded_db(log_flow: Tensor, log_pf: Tensor, log_pb: Tensor, log_reward: Tensor) -> Tensor:
    """DB on padded trajectories in the fewest operations."""
    after = torch.cat([log_flow[:, 1:], log_reward[:, None]], 1)
    return (log_flow + log_pf - log_pb - after).square().mean()
