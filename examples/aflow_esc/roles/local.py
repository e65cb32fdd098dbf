"""The four roles played by a local causal language model; judgements are read off its logits, never parsed."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from examples.aflow_esc.dialogues import Dialogue
from examples.aflow_esc.roles.local_model import LocalModel, Prompt
from examples.aflow_esc.roles.protocols import CRITERIA, Roles, SeekerReply, Status
from examples.aflow_esc.strategies import Inventory

_LISTENER = (
    "You are a warm, attentive listener who supports a person in distress. Answer in one or two short sentences."
)
_AUTHOR = "You complete the script of a play."
_JUDGE = "You judge conversations between a person in distress (Seeker) and a listener (Supporter)."

_MEANING = {
    "Empathy": "does the supporter understand and share the seeker's feelings?",
    "Information": "does the supporter say something useful and specific?",
    "Naturalness": "is the reply fluent, and does it fit what the seeker said?",
    "Strategic efficacy": "does the reply help the seeker to move forward?",
}


def local_roles(model: LocalModel, inventory: Inventory, max_new_tokens: int = 32) -> Roles:
    """All four roles on one model; a turn has at most ``max_new_tokens``."""
    return Roles(
        LocalPrior(model, inventory),
        LocalSupporter(model, inventory, max_new_tokens),
        LocalSeeker(model, max_new_tokens),
        LocalRewarder(model),
    )


class LocalPrior:
    """Which strategy the model would take: the logits of the first token of each name, after "Strategy:".

    One pass per batch.

    Raises:
        ValueError: the tokenizer does not tell the inventory's names apart by their first token.
    """

    def __init__(self, model: LocalModel, inventory: Inventory) -> None:
        self.model = model
        self.names = model.probe(["Strategy:"], [f" {name}" for name in inventory.names])
        listed = "\n".join(f"- {strategy.name}: {strategy.definition}" for strategy in inventory.strategies)
        self.task = f"{_JUDGE} These are the supporter's strategies:\n{listed}"

    def log_prior(self, dialogues: Sequence[Dialogue]) -> NDArray[np.float64]:
        """Normalised log-probabilities of the strategies, ``[B, A]``."""
        prompts = [Prompt(self.task, f"{_transcript(d)}\n\nWhich strategy fits best now?") for d in dialogues]
        log_prior: NDArray[np.float64] = self.model.read(prompts, self.names)[:, 0]
        return log_prior


class LocalSupporter:
    """Writes the supporter's next words. The strategy ends the prompt, so that siblings share what stands before it."""

    def __init__(self, model: LocalModel, inventory: Inventory, max_new_tokens: int = 32) -> None:
        self.model, self.max_new_tokens = model, max_new_tokens
        self.definitions = {strategy.name: strategy.definition for strategy in inventory.strategies}

    def reply(self, dialogues: Sequence[Dialogue], strategies: Sequence[str]) -> list[str]:
        """The supporter's words in each dialogue, following the named strategy."""
        prompts = [
            Prompt(
                _LISTENER,
                f"{_transcript(dialogue)}\n\nWrite what the supporter says next. {self.definitions[strategy]}",
                "Supporter:",
            )
            for dialogue, strategy in zip(dialogues, strategies, strict=True)
        ]
        return self.model.write(prompts, self.max_new_tokens)


class LocalSeeker:
    """Writes the seeker's answer, and reads off the answer whether the seeker goes on.

    The model continues the conversation as a script that it writes itself: asked for the seeker's next words in a
    chat, a small model goes on comforting. Then it is asked how whoever says these words feels. With P over
    "grateful", "angry" and "worried", the seeker has "left" when P(angry) exceeds ``leaves_above``, is "helped" when
    P(grateful) exceeds ``helped_above``, and "continues" otherwise. No prompt holds a strategy name.
    """

    def __init__(
        self, model: LocalModel, max_new_tokens: int = 32, helped_above: float = 0.8, leaves_above: float = 0.5
    ) -> None:
        self.model, self.max_new_tokens = model, max_new_tokens
        self.helped_above, self.leaves_above = helped_above, leaves_above
        self.feelings = model.probe(["This person is"], [" grateful", " angry", " worried"])

    def respond(self, dialogues: Sequence[Dialogue]) -> list[SeekerReply]:
        """The seeker's answers."""
        texts = self.model.write([_script(dialogue) for dialogue in dialogues], self.max_new_tokens)
        return [SeekerReply(text, status) for text, status in zip(texts, self.statuses(texts), strict=True)]

    def statuses(self, texts: Sequence[str]) -> list[Status]:
        """What seekers who say these words do next."""
        asked = [
            Prompt("You name feelings.", f'Someone says: "{text}"\nIs this person grateful, angry or worried?')
            for text in texts
        ]
        feelings = np.exp(self.model.read(asked, self.feelings)[:, 0])
        return [self._status(grateful, angry) for grateful, angry, _ in feelings.tolist()]

    def _status(self, grateful: float, angry: float) -> Status:
        if angry > self.leaves_above:
            return "left"
        return "helped" if grateful > self.helped_above else "continues"


class LocalRewarder:
    """Scores the last exchange: Σ_k k·P(k) over the digits 1 to 5, after each criterion's name.

    The four criteria are branches of one packed pass per batch. Measure a model before trusting it: SmolLM2-135M
    puts clearly good exchanges only about 0.1 points above clearly bad ones.

    Raises:
        ValueError: the tokenizer has no single token for a digit after "Empathy: ".
    """

    def __init__(self, model: LocalModel) -> None:
        self.model = model
        asked = "\n".join(f"- {criterion}: {_MEANING[criterion]}" for criterion in CRITERIA)
        self.task = f"{_JUDGE} These are the criteria:\n{asked}"
        # The space ends the beginning: it is a token of its own, and each digit is one.
        self.digits = model.probe([f"{criterion}: " for criterion in CRITERIA], list("12345"))

    def score(self, dialogues: Sequence[Dialogue]) -> NDArray[np.float64]:
        """Expected scores of the last exchange, ``[B, 4]`` in `CRITERIA` order."""
        prompts = [
            Prompt(
                self.task,
                f"{_transcript(dialogue)}\n\nRate the supporter's last turn, with the seeker's answer to it, "
                "from 1 (very poor) to 5 (very good).",
            )
            for dialogue in dialogues
        ]
        scores: NDArray[np.float64] = np.exp(self.model.read(prompts, self.digits)) @ np.arange(1.0, 6.0)
        return scores.clip(1, 5)


def _transcript(dialogue: Dialogue) -> str:
    """The words of a dialogue, a line a turn."""
    return "\n".join(f"{turn.speaker.capitalize()}: {turn.text}" for turn in dialogue.turns)


def _script(dialogue: Dialogue) -> Prompt:
    """The dialogue as a script that is being written, up to the seeker's next words."""
    scene = dialogue.scene
    part = f"The seeker's part ({scene.problem}): {scene.situation}\nThe seeker feels {scene.emotion}."
    return Prompt(_AUTHOR, part, f"{_transcript(dialogue)}\nSeeker:")
