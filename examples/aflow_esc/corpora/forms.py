"""The data forms, each with a function from a raw record to the same plain record.

| form | record |
|---|---|
| ``esconv`` | ``{emotion_type, problem_type, situation, dialog: [{speaker, annotation: {strategy}, content}]}`` |
| ``lines`` | ``{emotion_type, problem_type, situation, dialog: [{text, speaker: sys or usr, strategy}]}`` |
| ``extes`` | ``{scene, description, content: [{"User": …} or {"AI": …, "AI Strategy": …}]}`` |
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from examples.aflow_esc.corpora.reading import BrokenLine
from gflowdial.dialogue.values import Speaker


class MalformedError(ValueError):
    """A record that its form does not allow; ``utterance`` is where, if it lies in one."""

    def __init__(self, reason: str, utterance: int | None = None) -> None:
        super().__init__(reason)
        self.utterance = utterance


class Utterance(NamedTuple):
    """One message; ``label`` is the strategy label as the data words it."""

    speaker: Speaker
    text: str
    label: str | None


class Record(NamedTuple):
    """A dialogue as the data tells it; ``outcome`` from 0 to 1 where the seeker rated both ends of it."""

    situation: str
    emotion: str
    problem: str
    utterances: list[Utterance]
    outcome: float | None = None


class Form(NamedTuple):
    """A data form.

    Attributes:
        read: the plain record of a raw one.
        messages: the field that holds its messages.
        marks: fields by which its messages are told from those of other forms.
        inventory: the name of the inventory that its labels are of.
    """

    read: Callable[[Mapping[str, Any]], Record]
    messages: str
    marks: frozenset[str]
    inventory: str

    def __str__(self) -> str:
        return f"{self.messages!r} with messages of {' or '.join(map(repr, sorted(self.marks)))}"


_ESCONV_SPEAKERS: Mapping[str, Speaker] = {
    "seeker": "partner",
    "speaker": "partner",
    "supporter": "agent",
    "listener": "agent",
}
_LINES_SPEAKERS: Mapping[str, Speaker] = {"usr": "partner", "sys": "agent"}


def detect(record: Any) -> str | None:
    """The name of the form that a record looks like; None if none."""
    if not isinstance(record, dict):
        return None
    for name, form in FORMS.items():
        first = next(iter(_as_list(record.get(form.messages))), None)
        if isinstance(first, dict) and not form.marks.isdisjoint(first):
            return name
    return None


def read(record: Any, form: str) -> Record:
    """The plain record.

    Raises:
        MalformedError: a missing field, a wrong type, an unknown speaker, or an empty text.
    """
    if isinstance(record, BrokenLine):
        raise MalformedError(f"line {record.line} is broken JSON ({record.reason})")
    if not isinstance(record, dict):
        raise MalformedError(f"expected an object, not {_kind(record)}")
    return FORMS[form].read(record)


def _esconv(record: Mapping[str, Any]) -> Record:
    return _classic(record, _esconv_utterance)._replace(outcome=_outcome(record))


def _lines(record: Mapping[str, Any]) -> Record:
    return _classic(record, _lines_utterance)


def _extes(record: Mapping[str, Any]) -> Record:
    utterances = _utterances(_field(record, "content", list), _extes_utterance)
    # ExTES names no emotion.
    return Record(_field(record, "description", str), "", _field(record, "scene", str), utterances)


def _classic(record: Mapping[str, Any], parse: Callable[[Mapping[str, Any]], Utterance]) -> Record:
    return Record(
        _field(record, "situation", str),
        _field(record, "emotion_type", str),
        _field(record, "problem_type", str),
        _utterances(_field(record, "dialog", list), parse),
    )


def _outcome(record: Mapping[str, Any]) -> float | None:
    """How much less intense the seeker's emotion was at the end than at first, scaled to [0, 1]: no change is 0.5."""
    ratings = record.get("survey_score")
    seeker = ratings.get("seeker") if isinstance(ratings, dict) else None
    if not isinstance(seeker, dict):
        return None
    rated = [str(seeker.get(f"{end}_emotion_intensity")) for end in ("initial", "final")]
    if not all(text in ("1", "2", "3", "4", "5") for text in rated):
        return None
    # The change is from -4 to 4.
    return (int(rated[0]) - int(rated[1]) + 4) / 8


def _esconv_utterance(message: Mapping[str, Any]) -> Utterance:
    speaker = _speaker(message, _ESCONV_SPEAKERS)
    annotation = _field(message, "annotation", dict)
    label = _label(annotation, "strategy") if speaker == "agent" else None
    return Utterance(speaker, _text(message, "content"), label)


def _lines_utterance(message: Mapping[str, Any]) -> Utterance:
    speaker = _speaker(message, _LINES_SPEAKERS)
    label = _label(message, "strategy") if speaker == "agent" else None
    return Utterance(speaker, _text(message, "text"), label)


def _extes_utterance(message: Mapping[str, Any]) -> Utterance:
    if ("User" in message) == ("AI" in message):
        raise MalformedError("expected either the field 'User' or the field 'AI'")
    if "User" in message:
        return Utterance("partner", _text(message, "User"), None)
    return Utterance("agent", _text(message, "AI"), _label(message, "AI Strategy"))


FORMS: Mapping[str, Form] = {
    "esconv": Form(_esconv, "dialog", frozenset({"content", "annotation"}), "esconv"),
    "lines": Form(_lines, "dialog", frozenset({"text"}), "esconv"),
    "extes": Form(_extes, "content", frozenset({"User", "AI"}), "extes"),
}
"""All forms by name. A record is of the first that fits it."""


def _utterances(messages: list[Any], parse: Callable[[Mapping[str, Any]], Utterance]) -> list[Utterance]:
    parsed = []
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            raise MalformedError(f"expected an object, not {_kind(message)}", index)
        try:
            parsed.append(parse(message))
        except MalformedError as error:
            raise MalformedError(str(error), index) from None
    return parsed


_T = TypeVar("_T")


def _field(record: Mapping[str, Any], name: str, kind: type[_T]) -> _T:
    if name not in record:
        raise MalformedError(f"the field {name!r} is missing")
    value = record[name]
    if not isinstance(value, kind):
        raise MalformedError(f"the field {name!r} must be {_JSON_NAMES[kind]}, not {_kind(value)}")
    return value


def _text(message: Mapping[str, Any], name: str) -> str:
    text = " ".join(_field(message, name, str).split())
    if not text:
        raise MalformedError(f"the field {name!r} is empty")
    return text


def _label(message: Mapping[str, Any], name: str) -> str | None:
    return None if message.get(name) is None else _field(message, name, str)


def _speaker(message: Mapping[str, Any], speakers: Mapping[str, Speaker]) -> Speaker:
    name = _field(message, "speaker", str)
    if name not in speakers:
        raise MalformedError(f"unknown speaker {name!r}; expected one of {', '.join(speakers)}")
    return speakers[name]


_JSON_NAMES: Mapping[type, str] = {
    str: "text",
    list: "a list",
    dict: "an object",
    bool: "true or false",
    int: "a number",
    float: "a number",
    type(None): "null",
}


def _kind(value: Any) -> str:
    return _JSON_NAMES[type(value)]


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
