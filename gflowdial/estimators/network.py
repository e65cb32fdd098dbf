"""A flow estimator that reads features of states: one or several trunks, and a linear head for each answer."""

from collections.abc import Callable
from typing import cast

from torch import nn

from gflowdial.envs.environment import StateSpace
from gflowdial.estimators.flow_estimator import Backward, FlowEstimates
from gflowdial.estimators.log_z import NetworkLogZ, TabularLogZ
from gflowdial.estimators.trunks import Trunk
from gflowdial.numerics import masked_log_softmax, uniform_log_probabilities
from gflowdial.shapes import Float, Int, Tensor


class NetworkFlow(nn.Module):
    """P_F, P_B and log F as linear heads on trunks.

    Args:
        space: features of states, and which actions are valid where.
        trunk: what P_F reads, and the others too unless they have trunks of their own.
        backward: whether P_B is uniform or learned.
        log_z: log Z; by default a `TabularLogZ` of one condition.
        backward_trunk: what a learned P_B reads; by default ``trunk``.
        flow_trunk: what log F reads; by default ``trunk``.

    Raises:
        ValueError: if there is a ``backward_trunk`` for a uniform P_B.
    """

    def __init__(
        self,
        space: StateSpace,
        trunk: Trunk,
        *,
        backward: Backward = "uniform",
        log_z: TabularLogZ | NetworkLogZ | None = None,
        backward_trunk: Trunk | None = None,
        flow_trunk: Trunk | None = None,
    ) -> None:
        super().__init__()
        if backward == "uniform" and backward_trunk is not None:
            raise ValueError('a uniform P_B reads nothing: leave backward_trunk out, or choose backward="learned".')
        self.space = space
        self.trunk = trunk
        self.backward_trunk = backward_trunk or trunk
        self.flow_trunk = flow_trunk or trunk
        self.forward_head = nn.Linear(trunk.width, space.num_actions)
        self.backward_head = nn.Linear(self.backward_trunk.width, space.num_actions) if backward == "learned" else None
        self.flow_head = nn.Linear(self.flow_trunk.width, 1)
        self.log_z = log_z or TabularLogZ()

    def forward(self, states: Int[Tensor, "states width"]) -> FlowEstimates:
        """Everything about ``states``; each trunk runs once."""
        features = self._features(states)
        read = self.trunk(features)

        def read_by(trunk: Trunk) -> Tensor:
            return read if trunk is self.trunk else cast(Tensor, trunk(features))

        log_pf = self._log_pf(read, states)
        log_pb = self._log_pb(lambda: read_by(self.backward_trunk), states)
        return FlowEstimates(log_pf, log_pb, self.flow_head(read_by(self.flow_trunk)).squeeze(1))

    def forward_policy(self, states: Int[Tensor, "states width"]) -> Float[Tensor, "states actions"]:
        """log P_F of ``states``."""
        return self._log_pf(self.trunk(self._features(states)), states)

    def backward_policy(self, states: Int[Tensor, "states width"]) -> Float[Tensor, "states actions"]:
        """log P_B of ``states``."""
        return self._log_pb(lambda: self.backward_trunk(self._features(states)), states)

    def _log_pf(self, read: Tensor, states: Tensor) -> Tensor:
        return masked_log_softmax(self.forward_head(read), self.space.forward_mask(states))

    def _log_pb(self, read: Callable[[], Tensor], states: Tensor) -> Tensor:
        # A uniform P_B reads nothing.
        mask = self.space.backward_mask(states)
        if self.backward_head is None:
            return uniform_log_probabilities(mask, self.forward_head.weight.dtype)
        return masked_log_softmax(self.backward_head(read()), mask)

    def _features(self, states: Tensor) -> Tensor:
        return self.space.features(states).to(self.forward_head.weight.dtype)
