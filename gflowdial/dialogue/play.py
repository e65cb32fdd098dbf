"""Whole conversations of a policy in the roles' environment, many at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gflowdial.dialogue.environment import DialogueEnvironment, DialogueState, StochasticDialogueEnvironment
from gflowdial.dialogue.policies import DialoguePolicy
from gflowdial.dialogue.values import Dialogue, Scene
from gflowdial.search import Transition, tree_seed


@dataclass(frozen=True)
class Episode:
    """One conversation and how it went.

    Attributes:
        state: where it ended.
        episode_return: G.
        entropies: entropy of the policy at each of its turns, in nats.
    """

    state: DialogueState
    episode_return: float
    entropies: tuple[float, ...]

    @property
    def dialogue(self) -> Dialogue:
        """All that was said."""
        return self.state.dialogue


def play(
    environment: DialogueEnvironment,
    policy: DialoguePolicy,
    scenes: Sequence[Scene],
    episodes: int,
    seed: int,
    on_turn: Callable[[], None] | None = None,
) -> list[list[Episode]]:
    """Play ``episodes`` conversations from every scene, all in lockstep; moves are sampled from the policy.

    Every conversation draws from a random stream of its own, from the seed, its scene and its number.

    Returns:
        The episodes of each scene.
    """
    states = [DialogueState.begin(scene) for scene in scenes for _ in range(episodes)]
    streams = [
        np.random.default_rng(tree_seed(seed, f"{scene.id} episode {k}")) for scene in scenes for k in range(episodes)
    ]
    rewards: list[list[float]] = [[] for _ in states]
    entropies: list[list[float]] = [[] for _ in states]
    while running := [index for index, state in enumerate(states) if not environment.ended(state)]:
        dialogues = [states[index].dialogue for index in running]
        log_policy = environment.restrict(policy.log_policy(dialogues), dialogues)
        actions = np.empty(len(running), dtype=np.int64)
        for row, index in enumerate(running):
            probability = np.exp(log_policy[row])
            actions[row] = streams[index].choice(len(probability), p=probability / probability.sum())
            entropies[index].append(float(-probability @ np.where(probability > 0, log_policy[row], 0.0)))
        made = _answers(environment, [states[i] for i in running], actions, [streams[i] for i in running])
        for index, transition in zip(running, made, strict=True):
            states[index] = transition.state
            rewards[index].append(transition.reward)
        if on_turn is not None:
            on_turn()
    done = [
        Episode(state, environment.trajectory_return(reward, state), tuple(entropy))
        for state, reward, entropy in zip(states, rewards, entropies, strict=True)
    ]
    return [done[start : start + episodes] for start in range(0, len(done), episodes)]


def _answers(
    environment: DialogueEnvironment,
    states: list[DialogueState],
    actions: np.ndarray[tuple[int], np.dtype[np.int64]],
    streams: list[np.random.Generator],
) -> list[Transition[DialogueState]]:
    """What follows each action; a stochastic partner's answer is drawn from the conversation's own stream."""
    if not isinstance(environment, StochasticDialogueEnvironment):
        return environment.step(states, actions)
    return [
        answers[stream.choice(len(answers), p=[answer.probability for answer in answers])]
        for answers, stream in zip(environment.outcomes(states, actions), streams, strict=True)
    ]
