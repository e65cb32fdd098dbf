"""Dialogues as sequences of moves, with one condition per scene."""

from collections.abc import Callable

import torch

from gflowdial.shapes import Bool, Float, Int, Tensor

OPEN = -1


class MoveSequences:
    """Choose one move per turn until the dialogue ends. Every scene has a tree, so log P_B = 0.

    A state is the scene's number and the moves so far, -1 for turns to come: ``[scene, a_1, a_2, -1, -1]``. What
    the dialogue is worth is a function of states, so nothing is random: a partner who answers at random needs the
    losses for stochastic environments.

    Args:
        num_scenes: scenes, which are the conditions.
        num_moves: moves, which are the actions.
        max_turns: moves of the longest dialogue.
        log_reward: log R of a batch of states, ``[states, width] -> [states]``. If it knows unfinished dialogues too,
            a turn's share in it is its value after the turn less that before: the ``log_turn_reward`` of the
            forward-looking losses.
        ended: which states end before ``max_turns``, ``[states, width] -> [states]``; without it none does.
        device: where states live.
    """

    def __init__(
        self,
        num_scenes: int,
        num_moves: int,
        max_turns: int,
        log_reward: Callable[[Tensor], Tensor],
        *,
        ended: Callable[[Tensor], Tensor] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        if min(num_scenes, num_moves, max_turns) < 1:
            raise ValueError(
                f"needs a scene, a move and a turn at least; got {num_scenes}, {num_moves} and {max_turns}."
            )
        self.log_reward = log_reward
        self._ended = ended
        self.num_actions = num_moves
        self.num_features = num_scenes + max_turns * num_moves
        self._scenes = torch.arange(num_scenes, device=device)
        self._moves = torch.arange(num_moves, device=device)
        self.initial_states = torch.nn.functional.pad(self._scenes[:, None], (0, max_turns), value=OPEN)

    def features(self, states: Int[Tensor, "states width"]) -> Float[Tensor, "states features"]:
        """The scene and each turn's move, one-hot; zeros for turns to come."""
        scene, turns = states[:, :1] == self._scenes, states[:, 1:, None] == self._moves
        return torch.cat([scene, turns.flatten(1)], 1).float()

    def forward_mask(self, states: Int[Tensor, "states width"]) -> Bool[Tensor, "states actions"]:
        goes_on = states[:, -1] == OPEN
        if self._ended is not None:
            goes_on = goes_on & ~self._ended(states)
        return goes_on[:, None].expand(-1, self.num_actions)

    def backward_mask(self, states: Int[Tensor, "states width"]) -> Bool[Tensor, "states actions"]:
        last = (states != OPEN).sum(1, keepdim=True) - 1
        return (states.gather(1, last) == self._moves) & (last > 0)

    def step(self, states: Int[Tensor, "states width"], actions: Int[Tensor, " states"]) -> Int[Tensor, "states width"]:
        return states.scatter(1, (states != OPEN).sum(1, keepdim=True), actions[:, None])

    def step_back(
        self,
        states: Int[Tensor, "states width"],
        actions: Int[Tensor, " states"],  # noqa: ARG002 (what there is to take back, the state says)
    ) -> Int[Tensor, "states width"]:
        return states.scatter(1, (states != OPEN).sum(1, keepdim=True) - 1, OPEN)
