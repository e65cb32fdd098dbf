"""log Z: one number, one number a condition, or a network that reads a condition's initial state."""

from typing import cast

import torch
from torch import nn

from gflowdial.estimators.trunks import Trunk
from gflowdial.shapes import Float, Int, Tensor


class TabularLogZ(nn.Module):
    """One free log Z a condition, 0 at first; with one condition it is the scalar of trajectory balance.

    It wants a much higher learning rate than a network (1e-2 to 1e-1 with Adam): give ``log_z.parameters()`` a group of
    their own in the optimiser.

    Args:
        num_conditions: how many initial states the environment has.
    """

    def __init__(self, num_conditions: int = 1) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.zeros(num_conditions))

    def forward(self, condition: Int[Tensor, " trees"]) -> Float[Tensor, " trees"]:
        """log Z of each tree's condition."""
        return self.values.index_select(0, condition)


class NetworkLogZ(nn.Module):
    """log Z read from the features of a condition's initial state, so that similar conditions share what is learned.

    Args:
        trunk: reads features; it may be the estimator's own.
        features: of the initial states, ``space.features(environment.initial_states)``.

    Source: Zhang et al., arXiv 2302.05446.
    """

    features: Tensor

    def __init__(self, trunk: Trunk, features: Float[Tensor, "conditions features"]) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = nn.Linear(trunk.width, 1)
        self.register_buffer("features", features, persistent=False)

    def forward(self, condition: Int[Tensor, " trees"]) -> Float[Tensor, " trees"]:
        """log Z of each tree's condition; a condition that several trees share is read once."""
        asked, tree = torch.unique(condition, return_inverse=True)
        features = self.features[asked].to(self.head.weight.dtype)
        return cast(Tensor, self.head(self.trunk(features))).squeeze(1)[tree]
