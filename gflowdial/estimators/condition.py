"""States at a condition: one network for a family of policies."""

import torch
from torch import nn
from torch.nn.functional import gelu

from gflowdial.shapes import Float, Tensor

__all__ = ["Conditioned"]


class Conditioned(nn.Module):
    """The states h at conditions c, (h + W₂·gelu(W₁·[h; c] + b₁) + b₂) · exp(w·c).

    W₂, b₂ and w are zero before training, so that a condition then changes nothing. The factor scales the logits of all
    heads that read the state, as a temperature does (arXiv 2310.02823).

    Args:
        width: the numbers of a state.
        conditions: the numbers of a condition.
    """

    def __init__(self, width: int, conditions: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width + conditions, width)
        self.change = nn.Linear(width, width)
        self.log_scale = nn.Linear(conditions, 1, bias=False)
        for zero in (self.change.weight, self.change.bias, self.log_scale.weight):
            nn.init.zeros_(zero)

    @property
    def conditions(self) -> int:
        """How many numbers a condition has."""
        return self.log_scale.in_features

    def forward(
        self, states: Float[Tensor, "reads branchings width"], condition: Float[Tensor, "rows conditions"]
    ) -> Float[Tensor, "reads branchings width"]:
        """The states at their conditions, one row each.

        Raises:
            ValueError: if there is not one condition of the right size per state.
        """
        expected = (len(states), self.conditions)
        if condition.shape != expected:
            raise ValueError(f"the condition has shape {tuple(condition.shape)}: give {expected}, one row per read")
        rows = condition.to(states)[:, None]
        both = torch.cat([states, rows.expand(-1, states.shape[1], -1)], dim=-1)
        changed: Tensor = (states + self.change(gelu(self.hidden(both)))) * self.log_scale(rows).exp()
        return changed
