"""A conversation as a value: scenes, turns and dialogue prefixes, and their form as chat messages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Speaker = Literal["agent", "partner"]
"""Who speaks: the agent, whose moves a policy chooses, or its partner. A task gives both their names."""

Message = Mapping[str, str]
"""A chat message with the keys ``role`` and ``content``, as chat templates and servers take it."""

_CHAT_ROLES: Mapping[Speaker, str] = {"agent": "assistant", "partner": "user"}


@dataclass(frozen=True)
class Scene:
    """Where a conversation starts. A task that knows more about its scenes adds fields in a frozen subclass.

    Attributes:
        id: unique within a set of scenes; splits and random streams depend on it.
        opening: the partner's first words.
    """

    id: str
    opening: str


@dataclass(frozen=True)
class Turn:
    """The uninterrupted words of one speaker; a turn of the agent may name the move that it follows."""

    speaker: Speaker
    text: str
    move: str | None = None


@dataclass(frozen=True)
class Dialogue:
    """A dialogue prefix: the state of a dialogue policy when it ends with a turn of the partner."""

    scene: Scene
    turns: tuple[Turn, ...]

    @staticmethod
    def begin(scene: Scene) -> "Dialogue":
        """The prefix that holds the partner's opening alone."""
        return Dialogue(scene, (Turn("partner", scene.opening),))

    @staticmethod
    def from_messages(messages: Sequence[Message], scene: Scene | None = None) -> "Dialogue":
        """A dialogue from chat messages: ``assistant`` is the agent, ``user`` the partner, ``system`` is left out.

        Args:
            messages: in order; each has ``role`` and ``content``, a message of the agent perhaps ``move``.
            scene: where the conversation starts; by default one whose opening is the partner's first message.

        Raises:
            ValueError: a message has another role or no content, or the partner says nothing and there is no scene.
        """
        speakers: dict[str, Speaker] = {role: speaker for speaker, role in _CHAT_ROLES.items()}
        turns = []
        for number, message in enumerate(messages):
            role, text = message.get("role", ""), message.get("content", "")
            if role == "system":
                continue
            if role not in speakers or not text:
                raise ValueError(
                    f"message {number} has role {role!r} and content {text!r}: give 'system', 'user' or 'assistant', "
                    "and text"
                )
            turns.append(Turn(speakers[role], text, message.get("move") if role == "assistant" else None))
        if scene is None:
            opening = next((turn.text for turn in turns if turn.speaker == "partner"), None)
            if opening is None:
                raise ValueError("no message has the role 'user': give one, or a scene")
            scene = Scene("messages", opening)
        return Dialogue(scene, tuple(turns))

    def to_messages(self, system: str | None = None) -> list[Message]:
        """The turns as chat messages, behind a ``system`` message if one is given."""
        before = [] if system is None else [{"role": "system", "content": system}]
        return [*before, *({"role": _CHAT_ROLES[turn.speaker], "content": turn.text} for turn in self.turns)]

    def then(self, *turns: Turn) -> "Dialogue":
        """This prefix with ``turns`` behind it."""
        return Dialogue(self.scene, self.turns + turns)

    def without_moves(self) -> "Dialogue":
        """What the partner can hear: the words, not the moves behind them."""
        said = (turn if turn.move is None else Turn(turn.speaker, turn.text) for turn in self.turns)
        return Dialogue(self.scene, tuple(said))

    @property
    def moves(self) -> tuple[str, ...]:
        """The agent's moves so far, in order."""
        return tuple(turn.move for turn in self.turns if turn.move is not None)

    @property
    def agent_turns(self) -> int:
        """How many turns the agent has had."""
        return sum(turn.speaker == "agent" for turn in self.turns)
