"""A flow estimator with a free number for everything: what a loss itself can reach, with no network in the way."""

from collections.abc import Callable

import torch
from torch import nn

from gflowdial.envs.environment import StateSpace
from gflowdial.estimators.flow_estimator import Backward, FlowEstimates
from gflowdial.estimators.log_z import TabularLogZ
from gflowdial.numerics import masked_log_softmax, uniform_log_probabilities
from gflowdial.shapes import Float, Int, Tensor


class TabularFlow(nn.Module):
    """Scores of P_F (and of P_B) per state and action, log F per state, log Z per condition; all 0 at first.

    Args:
        space: which actions are valid where.
        index: the row of each state, ``[states, width] -> [states]``; ``enumerate_states(environment).index`` is one.
        num_states: how many rows there are.
        backward: whether P_B is uniform or learned.
        num_conditions: how many initial states the environment has.
    """

    def __init__(
        self,
        space: StateSpace,
        index: Callable[[Tensor], Tensor],
        num_states: int,
        *,
        backward: Backward = "uniform",
        num_conditions: int = 1,
    ) -> None:
        super().__init__()
        self.space = space
        self.index = index
        self.forward_scores = nn.Parameter(torch.zeros(num_states, space.num_actions))
        self.backward_scores = (
            nn.Parameter(torch.zeros(num_states, space.num_actions)) if backward == "learned" else None
        )
        self.log_flow = nn.Parameter(torch.zeros(num_states))
        self.log_z = TabularLogZ(num_conditions)

    def forward(self, states: Int[Tensor, "states width"]) -> FlowEstimates:
        """Everything about ``states``."""
        row = self.index(states)
        return FlowEstimates(self._log_pf(states, row), self._log_pb(states, row), self.log_flow[row])

    def forward_policy(self, states: Int[Tensor, "states width"]) -> Float[Tensor, "states actions"]:
        """log P_F of ``states``."""
        return self._log_pf(states, self.index(states))

    def backward_policy(self, states: Int[Tensor, "states width"]) -> Float[Tensor, "states actions"]:
        """log P_B of ``states``."""
        return self._log_pb(states, self.index(states))

    def _log_pf(self, states: Tensor, row: Tensor) -> Tensor:
        return masked_log_softmax(self.forward_scores[row], self.space.forward_mask(states))

    def _log_pb(self, states: Tensor, row: Tensor) -> Tensor:
        mask = self.space.backward_mask(states)
        if self.backward_scores is None:
            return uniform_log_probabilities(mask, self.forward_scores.dtype)
        return masked_log_softmax(self.backward_scores[row], mask)
