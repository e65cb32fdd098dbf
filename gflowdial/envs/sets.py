"""Sets of a fixed size."""

import torch

from gflowdial.numerics import check_finite
from gflowdial.shapes import Bool, Float, Int, Tensor


class SetBuilding:
    """Put elements into a set until it has ``size``: ``log R = -Σ energy`` of its elements.

    A state says of each element whether it is in, 1 or 0; action i puts element i in. Every order leads to the same
    set, so a set of k elements has k parents.

    Args:
        energies: the energy of each element, in nats; `torch.randn` will do.
        size: elements of a finished set, 0 < size <= elements.
        device: where states live.

    Raises:
        ValueError: if ``size`` is out of range, or an energy is not finite.

    Source: Pan et al., arXiv 2302.01687.
    """

    def __init__(self, energies: Float[Tensor, " elements"], size: int, *, device: torch.device | str = "cpu") -> None:
        if not 0 < size <= len(energies):
            raise ValueError(f"size must lie between 1 and the number of elements, {len(energies)}; got {size}.")
        check_finite("energies", energies)
        self.size = size
        self.num_actions = self.num_features = len(energies)
        self.initial_states = torch.zeros(1, len(energies), dtype=torch.int64, device=device)
        self._energies = energies.to(device, torch.float64)

    def features(self, states: Int[Tensor, "states width"]) -> Float[Tensor, "states features"]:
        """Which elements are in."""
        return states.float()

    def forward_mask(self, states: Int[Tensor, "states width"]) -> Bool[Tensor, "states actions"]:
        return (states == 0) & (states.sum(1, keepdim=True) < self.size)

    def backward_mask(self, states: Int[Tensor, "states width"]) -> Bool[Tensor, "states actions"]:
        return states == 1

    def step(self, states: Int[Tensor, "states width"], actions: Int[Tensor, " states"]) -> Int[Tensor, "states width"]:
        return states.scatter(1, actions[:, None], 1)

    def step_back(
        self, states: Int[Tensor, "states width"], actions: Int[Tensor, " states"]
    ) -> Int[Tensor, "states width"]:
        return states.scatter(1, actions[:, None], 0)

    def log_reward(self, states: Int[Tensor, "states width"]) -> Float[Tensor, " states"]:
        """log R of any set, finished or not: its differences are the rewards of single steps."""
        return -states.double() @ self._energies
