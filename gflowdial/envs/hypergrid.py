"""The hypergrid: walk up the axes of a cube and stop anywhere."""

import math

import torch

from gflowdial.shapes import Bool, Float, Int, Tensor


class Hypergrid:
    """A walker starts at the origin of a grid, goes up one axis a step, and stops where it likes.

    With ``u_i = |x_i / (H - 1) - 1/2|``, ``R(x) = R0 + R1·Π 1(0.25 < u_i) + R2·Π 1(0.3 < u_i < 0.4)``: a thin mode near
    each corner. The comparisons are exact: for some sides points lie on a bound, where u in float64 is off.

    A state is the coordinates and a flag that is 1 once stopped; action i goes up axis i, the last one stops. The
    smaller R0, the harder the modes are to find.

    Args:
        dimensions: axes, D.
        side: points on each axis, H, 2 or more.
        r0: R0, reward everywhere; every reward must be positive and finite.
        r1: R1, more of it in the corners.
        r2: R2, more of it in the modes.
        device: where states live.

    Raises:
        ValueError: if there is no axis, the side is shorter than 2, or a reward is not positive and finite.

    Source: Bengio et al., arXiv 2106.04399.
    """

    def __init__(
        self,
        dimensions: int,
        side: int,
        *,
        r0: float = 0.1,
        r1: float = 0.5,
        r2: float = 2.0,
        device: torch.device | str = "cpu",
    ) -> None:
        if dimensions < 1 or side < 2 or r0 <= 0:
            raise ValueError(f"needs dimensions ≥ 1, side ≥ 2 and r0 > 0; got {dimensions}, {side} and {r0}.")
        if not all(0 < reward < math.inf for reward in (r0, r0 + r1, r0 + r1 + r2)):
            raise ValueError(
                f"r0, r0 + r1 and r0 + r1 + r2 must be positive and finite; r0, r1, r2 are {r0}, {r1}, {r2}."
            )
        self.side, self.r0, self.r1, self.r2 = side, r0, r1, r2
        self.num_actions = dimensions + 1
        self.num_features = dimensions * side + 1
        self.stop_action = dimensions
        self.initial_states = torch.zeros(1, dimensions + 1, dtype=torch.int64, device=device)
        # Action i counts column i up; the flag is a column of height 1. Row f of a table is for states of flag f.
        self._top = torch.tensor([[side - 1] * dimensions + [1], [0] * (dimensions + 1)], device=device)
        self._bottom = torch.tensor([[0] * (dimensions + 1), [side] * dimensions + [0]], device=device)
        self._up = torch.eye(dimensions + 1, dtype=torch.int64, device=device)
        # With d = |2x - (H - 1)| = 2 (H - 1) u: u > 1/4 where 2 d > H - 1, u > 3/10 where 5 d > 3 (H - 1), and u < 4/10
        # where 5 d < 4 (H - 1).
        self._corner, self._inner, self._outer = (side - 1) // 2, 3 * (side - 1) // 5, -(-4 * (side - 1) // 5)
        # A feature says whether some column holds some value.
        self._column = torch.arange(self.num_features, device=device) // side
        self._value = torch.arange(self.num_features, device=device) % side
        self._value[-1] = 1

    def features(self, states: Int[Tensor, "states width"]) -> Float[Tensor, "states features"]:
        """Each coordinate one-hot, and the flag."""
        return (states.index_select(1, self._column) == self._value).float()

    def forward_mask(self, states: Int[Tensor, "states width"]) -> Bool[Tensor, "states actions"]:
        return states < self._top.index_select(0, states[:, -1])

    def backward_mask(self, states: Int[Tensor, "states width"]) -> Bool[Tensor, "states actions"]:
        return states > self._bottom.index_select(0, states[:, -1])

    def step(self, states: Int[Tensor, "states width"], actions: Int[Tensor, " states"]) -> Int[Tensor, "states width"]:
        return states + self._up.index_select(0, actions)

    def step_back(
        self, states: Int[Tensor, "states width"], actions: Int[Tensor, " states"]
    ) -> Int[Tensor, "states width"]:
        return states - self._up.index_select(0, actions)

    def log_reward(self, states: Int[Tensor, "states width"]) -> Float[Tensor, " states"]:
        """log R of any point, stopped or not: what the losses for states that may all end read."""
        d = (2 * states[:, :-1] - (self.side - 1)).abs()
        corner, mode = (d > self._corner).all(1), ((d > self._inner) & (d < self._outer)).all(1)
        return (self.r0 + self.r1 * corner.double() + self.r2 * mode.double()).log()
