"""How well do logistic regression and a small language model predict the strategies of people?

On ESConv's validation dialogues, split by dialogue; and on two files, of which one is for training and one for testing.
The language model (about 0.25 million parameters) is trained from scratch on the training dialogues, then all of it is
trained by behaviour cloning, which on labels is cross-entropy. Nothing is tuned.

Run: ESCONV_VALID=PATH/esc-valid.txt ESCONV_FAILED=PATH/FailedESConv.json python -m benchmarks label_rows
"""

import os
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks.label_outcomes import EPOCHS, MAX_TOKENS, predict, small_model, trained
from gflowdial.dialogue.config import RunConfig
from gflowdial.dialogue.labels import balanced_guesses, row_of, simple_predictions
from gflowdial.dialogue.report import as_table
from gflowdial.dialogue.setting import Setting


def main() -> None:
    torch.set_num_threads(1)
    valid, failed = os.environ["ESCONV_VALID"], os.environ["ESCONV_FAILED"]
    for title, data in (
        ("validation dialogues, 80:20", {"source": valid}),
        ("failed conversations for training, validation dialogues for testing", {"source": failed, "test": valid}),
    ):
        print(table(title, data), flush=True)


def table(title: str, data: dict[str, str]) -> str:
    """The rows on one split."""
    settings = {
        "task": "examples.aflow_esc.task:TASK",
        "experiment": "labels",
        "seeds": [0],
        "inventory": "esconv",
        "data": data,
        "model": {"kind": "tiny"},
        "training": {"methods": ["behaviour_cloning"], "max_tokens": MAX_TOKENS},
    }
    setting = Setting(RunConfig.model_validate(settings))
    with tempfile.TemporaryDirectory() as folder:
        encoder = small_model(Path(folder), setting.dialogues.train, setting.texts, setting.inventory, seed=0)
        # The same turns for all rows: those that fit the language model.
        setting.__dict__["encoder"] = encoder
        true, guesses = simple_predictions(setting)
        decided = setting.decisions
        learned = trained(Path(folder), encoder, decided.train, np.ones(len(decided.train)), 0, "behaviour_cloning")
        found = predict(learned, decided.held_out)
    guesses["behaviour_cloning"] = [[log_policy.argmax(1) for log_policy in found]]
    guesses["behaviour_cloning_balanced"] = [balanced_guesses(setting, found)]
    rows = {name: row_of(true, by_seed, len(setting.inventory)) for name, by_seed in guesses.items()}
    counts = f"{len(decided.train)} dialogues for training, {len(true)} for testing with {sum(map(len, true))} moves"
    return as_table(rows, f"{title}: {counts}", f"The language model: {EPOCHS:g} epochs, {MAX_TOKENS} tokens.")


if __name__ == "__main__":
    main()
