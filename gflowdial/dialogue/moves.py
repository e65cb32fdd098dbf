"""Moves as data: what the agent can do at a turn, under one name each, with the other wordings that stand for it."""

import difflib
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any


class UnknownMoveError(ValueError):
    """A label that an inventory does not know; the message names it and the closest accepted wordings."""


@dataclass(frozen=True)
class Move:
    """A move of the agent.

    Attributes:
        name: the canonical name, which the language model reads and writes.
        description: what the agent does, in one sentence; it may be shown to a language model.
        synonyms: other wordings that stand for it; case, hyphens and spacing never matter.
    """

    name: str
    description: str = ""
    synonyms: tuple[str, ...] = ()


@dataclass(frozen=True)
class Inventory:
    """An ordered set of moves; an action of the policy is an index into it.

    Raises:
        ValueError: there are no moves, or a wording stands for two of them.
    """

    name: str
    moves: tuple[Move, ...]

    def __post_init__(self) -> None:
        if not self.moves:
            raise ValueError(f"inventory {self.name!r} has no moves: give at least one")
        seen: dict[str, str] = {}
        for move in self.moves:
            for word in (move.name, *move.synonyms):
                if seen.setdefault(_key(word), move.name) != move.name:
                    raise ValueError(
                        f"inventory {self.name!r}: {word!r} stands for {seen[_key(word)]!r} and for {move.name!r}"
                    )
        if len(set(self.names)) < len(self.moves):
            raise ValueError(f"inventory {self.name!r} names a move twice: {', '.join(self.names)}")

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Canonical names, in the order of the actions."""
        return tuple(move.name for move in self.moves)

    def __len__(self) -> int:
        return len(self.moves)

    def resolve(self, label: str) -> str:
        """The canonical name that ``label`` stands for.

        Raises:
            UnknownMoveError: no move has this name or synonym.
        """
        try:
            return self._names_by_key[_key(label)]
        except KeyError:
            close = [self._names_by_key[key] for key in difflib.get_close_matches(_key(label), self._names_by_key)]
            near = list(dict.fromkeys(close)) or list(self.names)
            hint = "the closest are" if close else "it knows"
            raise UnknownMoveError(
                f"unknown move {label!r} for inventory {self.name!r}; {hint} {', '.join(map(repr, near))}"
            ) from None

    def index(self, label: str) -> int:
        """The action that ``label`` stands for.

        Raises:
            UnknownMoveError: no move has this name or synonym.
        """
        return self.names.index(self.resolve(label))

    @cached_property
    def _names_by_key(self) -> dict[str, str]:
        return {_key(word): move.name for move in self.moves for word in (move.name, *move.synonyms)}


def inventories_of(data: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Inventory]:
    """The inventories of JSON data, ``{name: [{"name": …, "description": …, "synonyms": […]}, …]}``, by name.

    Raises:
        ValueError: the data are not of that form.
    """
    try:
        return {
            name: Inventory(
                name, tuple(Move(**{**move, "synonyms": tuple(move.get("synonyms", ()))}) for move in moves)
            )
            for name, moves in data.items()
        }
    except (TypeError, AttributeError) as error:
        raise ValueError(f"the data hold no inventories ({error}): give each move a name") from None


@lru_cache(maxsize=4096)
def _key(label: str) -> str:
    plain = unicodedata.normalize("NFKC", label).casefold()
    # Marks and symbols count: in many scripts they are vowels, and an emoji may be a name.
    words = "".join(" " if unicodedata.category(sign)[0] in "PZC" else sign for sign in plain).split()
    # A label of punctuation alone stands for itself.
    return " ".join(words) or plain.strip()
