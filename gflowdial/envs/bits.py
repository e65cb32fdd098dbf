"""Bit sequences, written a word of bits at a time: from the left, or in any order."""

import math

import torch

from gflowdial.shapes import Bool, Float, Int, Tensor

EMPTY = -1


class BitSequences:
    """What `AppendBits` and `InsertBits` share: states, features, reward.

    A state is one number a word: the word's bits, the first the most significant, or -1 while it is not written.
    ``log R(x) = -β · min over modes m of Hamming(x, m)``. (The source has the edit distance in its place and β = 1.)

    Args:
        modes: the bits of each mode, 0 or 1, all of the length of a sequence; see `random_modes`.
        word: bits per word, k; divides the length.
        beta: how sharply reward falls with each wrong bit, β.
        device: where states live.

    Raises:
        ValueError: if ``modes`` is no table of bits, ``word`` does not divide the length, or β is not finite.

    Source: Malkin et al., arXiv 2201.13259.
    """

    def __init__(
        self,
        modes: Int[Tensor, "modes length"],
        word: int = 1,
        *,
        beta: float = 1.0,
        device: torch.device | str = "cpu",
    ) -> None:
        if modes.ndim != 2 or modes.numel() == 0 or bool(((modes != 0) & (modes != 1)).any()):
            raise ValueError("modes must be a table of bits, 0 or 1: a row a mode, and at least one.")
        length = modes.shape[1]
        if word < 1 or length % word:
            raise ValueError(f"word must divide the length of a sequence, {length}; got {word}.")
        if not math.isfinite(beta):
            raise ValueError(f"beta must be finite; got {beta}.")
        self.beta = beta
        self.num_words = length // word
        self.initial_states = torch.full((1, self.num_words), EMPTY, device=device)
        self.num_features = self.num_words << word
        self._modes = modes.to(device, torch.float64)
        self._vocabulary = torch.arange(1 << word, device=device)
        # A feature says whether some position holds some word.
        self._position = torch.arange(self.num_features, device=device) >> word
        self._word = torch.arange(self.num_features, device=device) & (1 << word) - 1
        self._shifts = torch.arange(word - 1, -1, -1, device=device)

    def features(self, states: Int[Tensor, "states width"]) -> Float[Tensor, "states features"]:
        """Each word one-hot, zeros where it is not written."""
        return self._holds(states).float()

    def _holds(self, states: Tensor) -> Tensor:
        return states.index_select(1, self._position) == self._word

    def log_reward(self, states: Int[Tensor, "states width"]) -> Float[Tensor, " states"]:
        """log R of whole sequences; NaN of others."""
        bits = (states[:, :, None] >> self._shifts & 1).flatten(1).double()
        distance = bits.sum(1, keepdim=True) + self._modes.sum(1) - 2 * bits @ self._modes.T
        return torch.where((states == EMPTY).any(1), torch.nan, -self.beta * distance.amin(1))


class AppendBits(BitSequences):
    """Sequences written from the left: action w writes the word w behind the last one. A tree.

    The arguments, the state and the reward are those of `BitSequences`.
    """

    @property
    def num_actions(self) -> int:
        return len(self._vocabulary)

    def forward_mask(self, states: Int[Tensor, "states width"]) -> Bool[Tensor, "states actions"]:
        return (states[:, -1:] == EMPTY).expand(-1, self.num_actions)

    def backward_mask(self, states: Int[Tensor, "states width"]) -> Bool[Tensor, "states actions"]:
        written = (states != EMPTY).sum(1, keepdim=True)
        return (states.gather(1, (written - 1).clamp(min=0)) == self._vocabulary) & (written > 0)

    def step(self, states: Int[Tensor, "states width"], actions: Int[Tensor, " states"]) -> Int[Tensor, "states width"]:
        return states.scatter(1, (states != EMPTY).sum(1, keepdim=True), actions[:, None])

    def step_back(
        self,
        states: Int[Tensor, "states width"],
        actions: Int[Tensor, " states"],  # noqa: ARG002 (what there is to take back, the state says)
    ) -> Int[Tensor, "states width"]:
        return states.scatter(1, (states != EMPTY).sum(1, keepdim=True) - 1, EMPTY)


class InsertBits(BitSequences):
    """Sequences written in any order: action ``i·2^k + w`` writes the word w at the empty position i.

    The arguments, the state and the reward are those of `BitSequences`.
    """

    @property
    def num_actions(self) -> int:
        return self.num_features

    def forward_mask(self, states: Int[Tensor, "states width"]) -> Bool[Tensor, "states actions"]:
        return (states == EMPTY).index_select(1, self._position)

    def backward_mask(self, states: Int[Tensor, "states width"]) -> Bool[Tensor, "states actions"]:
        return self._holds(states)

    def step(self, states: Int[Tensor, "states width"], actions: Int[Tensor, " states"]) -> Int[Tensor, "states width"]:
        position, word = (table.index_select(0, actions).unsqueeze(1) for table in (self._position, self._word))
        return states.scatter(1, position, word)

    def step_back(
        self, states: Int[Tensor, "states width"], actions: Int[Tensor, " states"]
    ) -> Int[Tensor, "states width"]:
        return states.scatter(1, self._position.index_select(0, actions).unsqueeze(1), EMPTY)


def random_modes(length: int, count: int, *, seed: int = 0) -> Int[Tensor, "modes length"]:
    """Modes made as the field makes them: each a random row of the words 00000000, 11111111, 11110000, 00001111 and
    00111100, so that what is learned of one mode helps with another.

    Args:
        length: bits of a mode, a multiple of 8.
        count: how many modes; two may be alike.
        seed: of the random choice.

    Source: Malkin et al., arXiv 2201.13259.
    """
    if length < 8 or length % 8:
        raise ValueError(f"length must be a multiple of 8; got {length}.")
    words = torch.tensor([[int(bit) for bit in f"{word:08b}"] for word in (0x00, 0xFF, 0xF0, 0x0F, 0x3C)])
    choice = torch.randint(len(words), (count, length // 8), generator=torch.Generator().manual_seed(seed))
    return words[choice].flatten(1)
