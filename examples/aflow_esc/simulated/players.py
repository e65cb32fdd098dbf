"""The four simulated roles over one world."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from examples.aflow_esc.simulated import tables, wording, world
from examples.aflow_esc.simulated.world import Hidden, Mode, Path, World
from examples.aflow_esc.scenes import scene_of
from examples.aflow_esc.strategies import AFLOW
from gflowdial.dialogue.moves import Inventory
from gflowdial.dialogue.roles import Reply, Roles
from gflowdial.dialogue.values import Dialogue


def simulated_roles(
    inventory: Inventory = AFLOW, *, world_seed: int = 0, mode: Mode = "deterministic", draw: int = 0
) -> Roles:
    """A simulated prior, supporter, seeker and rewarder over AFlow's inventory.

    Args:
        inventory: AFlow's; the tables know no other.
        world_seed: chooses wordings, and with ``draw`` what fails in the stochastic mode.
        mode: ``"deterministic"``, or ``"stochastic"``: see `World`.
        draw: numbers the worlds of the stochastic mode.

    Raises:
        ValueError: another inventory, or an unknown mode.
    """
    if inventory != AFLOW:
        raise ValueError(
            f"the simulated roles know the inventory {AFLOW.name!r} only, not {inventory.name!r}; "
            "map the labels onto it, or use the local roles"
        )
    world_ = World(world_seed, mode, draw)
    return Roles(
        SimulatedPrior(world_),
        SimulatedSupporter(world_),
        SimulatedSeeker(world_),
        SimulatedRewarder(world_),
        enumerable=True,
        canned=True,
    )


def path_of(dialogue: Dialogue) -> Path:
    """The supporter's actions, recognised from the words alone.

    Raises:
        ValueError: a supporter's turn that no simulated supporter says.
    """
    return tuple(_recognise(turn.text) for turn in dialogue.turns if turn.speaker == "agent")


def prior_log_probs(hidden: Hidden) -> NDArray[np.float64]:
    """The imperfect supporter's log-probabilities ``[A]``: it reads the surface, and asks and advises too early."""
    shown = wording.surface(hidden)
    weights = np.array([tables.PRIOR[shown.distress][name] for name in AFLOW.names], dtype=np.float64)
    for name in tables.PRIOR_WHEN_CLEAR if shown.clarity == "clear" else ():
        weights[AFLOW.names.index(name)] += tables.PRIOR_CLEAR_BONUS
    return np.asarray(np.log(weights / weights.sum()))


class SimulatedPrior:
    """See `prior_log_probs`."""

    def __init__(self, world: World) -> None:
        self._world = world

    def log_prior(self, dialogues: Sequence[Dialogue]) -> NDArray[np.float64]:
        """Normalised log-probabilities ``[B, A]``; each dialogue ends with the seeker."""
        rows = [prior_log_probs(self._world.hidden(scene_of(d), path_of(d))) for d in dialogues]
        return np.stack(rows) if rows else np.empty((0, len(AFLOW)))


class SimulatedSupporter:
    """Says one of the phrases that belong to the strategy."""

    def __init__(self, world: World) -> None:
        self._world = world

    def reply(self, dialogues: Sequence[Dialogue], moves: Sequence[str]) -> list[str]:
        """The supporter's words in each dialogue.

        Raises:
            UnknownMoveError: a strategy outside AFlow's inventory.
        """
        return [self._reply(d, AFLOW.index(name)) for d, name in zip(dialogues, moves, strict=True)]

    def _reply(self, dialogue: Dialogue, action: int) -> str:
        path = (*path_of(dialogue), action)
        return self._world.choose(wording.SUPPORTER[AFLOW.names[action]], "supporter", scene_of(dialogue), path)


class SimulatedSeeker:
    """Hears the words, moves its hidden state, and shows it through its wording alone."""

    def __init__(self, world: World) -> None:
        self._world = world

    def respond(self, dialogues: Sequence[Dialogue]) -> list[Reply]:
        """The seeker's answers; each dialogue ends with the supporter."""
        return [self._respond(dialogue) for dialogue in dialogues]

    def _respond(self, dialogue: Dialogue) -> Reply:
        scene, path = scene_of(dialogue), path_of(dialogue)
        hidden = self._world.hidden(scene, path)
        status = world.status(hidden)
        feeling = self._world.choose(wording.feelings(hidden), "feeling", scene, path)
        thought = self._world.choose(wording.thoughts(hidden, status), "thought", scene, path)
        return Reply(f"{feeling} {thought}", status)


class SimulatedRewarder:
    """Scores the last exchange by what it did to the hidden state."""

    def __init__(self, world: World) -> None:
        self._world = world

    def score(self, dialogues: Sequence[Dialogue]) -> NDArray[np.float64]:
        """Integer scores in 1…5, ``[B, 4]`` in the order of `world.Scores`.

        Raises:
            ValueError: a dialogue without any supporter's turn: it holds no exchange.
        """
        rows = [self._score(dialogue) for dialogue in dialogues]
        return np.array(rows, dtype=np.float64).reshape(len(rows), len(world.Scores._fields))

    def _score(self, dialogue: Dialogue) -> world.Scores:
        scene, path = scene_of(dialogue), path_of(dialogue)
        if not path:
            raise ValueError(f"scene {scene.id!r}: nothing to score before the supporter has spoken")
        return world.scores(self._world.hidden(scene, path[:-1]), self._world.hidden(scene, path))


_ACTION_OF = {phrase: AFLOW.names.index(name) for phrase, name in wording.STRATEGY_OF.items()}


def _recognise(text: str) -> int:
    try:
        return _ACTION_OF[text]
    except KeyError:
        raise ValueError(
            f"the simulated roles do not understand the supporter's words {text!r}: they know the simulated "
            "supporter's phrases only; use the simulated supporter, or local roles throughout"
        ) from None
