"""torchgfn's losses on given log-probabilities and log-flows: what its own loss costs, without networks or states.

Stand-ins hold what `loss` reads of trajectories and transitions, ready to be read; torchgfn computes them there.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from gfn.estimators import ScalarEstimator
from gfn.gflownet import DBGFlowNet, SubTBGFlowNet, TBGFlowNet
from torch import Tensor

Loss = Callable[[], Tensor]


class GivenTrajectories:
    """Trajectories of the given ``lengths``, padded at the end; the last action of each is its exit."""

    def __init__(self, lengths: Tensor, log_rewards: Tensor) -> None:
        self.batch_size, self.max_length = len(lengths), int(lengths.max())
        self.terminating_idx, self.log_rewards = lengths, log_rewards
        is_exit = torch.arange(self.max_length, device=lengths.device)[:, None] == lengths - 1
        self.actions = SimpleNamespace(is_exit=is_exit)
        self.states = SimpleNamespace(conditions=None)

    def __len__(self) -> int:
        return self.batch_size


class GivenStates:
    """States by their number."""

    conditions = None

    def __init__(self, number: Tensor) -> None:
        self.number = number

    def __len__(self) -> int:
        return len(self.number)

    def __getitem__(self, index: Tensor) -> "GivenStates":
        return GivenStates(self.number[index])


class GivenFlow(ScalarEstimator):  # type: ignore[misc]
    """log F by the number of a state."""

    def __init__(self, log_flow: Tensor) -> None:
        torch.nn.Module.__init__(self)
        self.log_flow = log_flow

    def forward(self, states: GivenStates) -> Tensor:
        return self.log_flow[states.number].unsqueeze(-1)


class _Unused(ScalarEstimator):  # type: ignore[misc]
    """In the place of a policy whose log-probabilities are given."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)


def subtrajectory_balance(
    log_flow: Tensor, log_pf: Tensor, log_pb: Tensor, log_reward: Tensor, lengths: Tensor, decay: float
) -> Loss:
    """SubTB on ``[T, B]`` log-flows (of the states before each action) and log-probabilities."""
    weighting: Any = "equal_within" if decay == 1 else "geometric_within"
    net = SubTBGFlowNet(_Unused(), _Unused(), _Unused(), weighting=weighting, lamda=decay)
    net.calculate_log_state_flows = lambda *_: log_flow
    return _given(net, log_pf, log_pb, GivenTrajectories(lengths, log_reward))


def trajectory_balance(log_z: Tensor, log_pf: Tensor, log_pb: Tensor, log_reward: Tensor, lengths: Tensor) -> Loss:
    """TB on ``[T, B]`` log-probabilities."""
    net = TBGFlowNet(_Unused(), _Unused(), logZ=log_z)
    return _given(net, log_pf, log_pb, GivenTrajectories(lengths, log_reward))


def detailed_balance(log_flow: Tensor, log_pf: Tensor, log_pb: Tensor, log_reward: Tensor) -> Loss:
    """DB on the transitions of trajectories of the same length, from ``[T, B]`` log-flows and log-probabilities."""
    steps, batch = log_pf.shape
    state = torch.arange(steps * batch, device=log_pf.device)
    is_terminating = state >= (steps - 1) * batch
    transitions = SimpleNamespace(
        states=GivenStates(state),
        next_states=GivenStates(torch.where(is_terminating, -1, state + batch)),
        actions=None,
        is_terminating=is_terminating,
        log_rewards=torch.cat([log_reward.new_zeros((steps - 1) * batch), log_reward]),
        n_transitions=len(state),
    )
    net = DBGFlowNet(_Unused(), _Unused(), GivenFlow(log_flow.reshape(-1)))
    return _given(net, log_pf.reshape(-1), log_pb.reshape(-1), transitions)


def _given(net: Any, log_pf: Tensor, log_pb: Tensor, samples: Any) -> Loss:
    net.get_pfs_and_pbs = lambda *_, **__: (log_pf, log_pb)
    return lambda: net.loss(object(), samples)
