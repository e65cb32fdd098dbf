"""What stands between a state's features and an estimator's heads: a multilayer perceptron, a transformer."""

from itertools import pairwise
from typing import cast

import torch
from torch import nn

from gflowdial.shapes import Float, Tensor


class Trunk(nn.Module):
    """A module from features ``[states, features]`` to what the heads read, ``[states, width]``; subclass it."""

    width: int


class MLPTrunk(Trunk):
    """Linear layers with ReLU after each.

    Args:
        num_features: length of the feature vectors; see `StateSpace.num_features`.
        width: of every layer.
        depth: how many layers.
    """

    def __init__(self, num_features: int, *, width: int = 256, depth: int = 2) -> None:
        super().__init__()
        self.width = width
        sizes = [num_features] + [width] * depth
        self.layers = nn.ModuleList(nn.Linear(ins, outs) for ins, outs in pairwise(sizes))

    def forward(self, features: Float[Tensor, "states features"]) -> Float[Tensor, "states width"]:
        """The last layer's output."""
        for layer in self.layers:
            features = layer(features).relu_()
        return features


class TransformerTrunk(Trunk):
    """A transformer encoder (pre-norm, no dropout) over equal pieces of the feature vector, averaged over the pieces.

    Features of states are often laid out by position, each a one-hot code of what stands there; then ``num_tokens`` is
    the number of positions, and a token is a position.

    Args:
        num_features: length of the feature vectors; see `StateSpace.num_features`.
        num_tokens: how many equal pieces they are cut into.
        width: of a token's embedding.
        depth: how many layers.
        heads: attention heads; they divide ``width``.

    Raises:
        ValueError: if the features cannot be cut into equal pieces.
    """

    def __init__(self, num_features: int, num_tokens: int, *, width: int = 64, depth: int = 2, heads: int = 4) -> None:
        super().__init__()
        if num_features % num_tokens:
            raise ValueError(
                f"num_tokens is {num_tokens} and does not divide the {num_features} features: give one that does."
            )
        self.width = width
        self.num_tokens = num_tokens
        self.embed = nn.Linear(num_features // num_tokens, width)
        self.position = nn.Parameter(torch.randn(num_tokens, width) / width**0.5)
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, depth, norm=nn.LayerNorm(width), enable_nested_tensor=False)

    def forward(self, features: Float[Tensor, "states features"]) -> Float[Tensor, "states width"]:
        """The mean of the encoded tokens."""
        tokens = features.view(len(features), self.num_tokens, -1)
        return cast(Tensor, self.encoder(self.embed(tokens) + self.position)).mean(1)
