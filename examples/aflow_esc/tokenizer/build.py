"""Train the bundled tokenizer anew: ``python -m examples.aflow_esc.tokenizer.build``.

A byte-level BPE, so that every text has tokens. It merges across words: the simulated roles speak in set phrases, and a
phrase that is one or two tokens makes a small transformer several times faster. The scenes' openings are left out: one
that became a token of its own would mean nothing in a scene that was held out.
"""

from collections.abc import Iterator
from pathlib import Path

from examples.aflow_esc.simulated import all_phrases
from examples.aflow_esc.simulated.tables import EMOTIONS, PROBLEMS
from examples.aflow_esc.strategies import AFLOW, ESCONV, EXTES
from gflowdial.dialogue.language_models import train_tokenizer


def corpus() -> Iterator[str]:
    """What the tokenizer learns from, in the form that dialogues are encoded in."""
    for phrase in all_phrases():
        yield f"\nSeeker: {phrase}"
        yield f"\nSupporter: {phrase}"
        yield f" {phrase}"
    yield from ["A seeker and a supporter talk. Emotion:", ". Problem:"] * 20
    for label in (*EMOTIONS, *PROBLEMS):
        yield f" {label}"
    for inventory in (AFLOW, ESCONV, EXTES):
        for name in inventory.names:
            # Often, so that every name becomes a token.
            yield from ["\nStrategy:", f" {name}"] * 20


if __name__ == "__main__":
    train_tokenizer(corpus()).save_pretrained(Path(__file__).parent)
