"""Do outcome ratings of recorded dialogues move a policy that is trained on them with a flow loss?

Each dialogue is a chain whose return is the seeker's relief, (initial - final emotion intensity + 4) / 8. For several
splits a small language model is trained from scratch on the training dialogues, and on it policies with subtrajectory
balance: with the ratings, and, as controls, with the ratings dealt out at random, twice. Printed are the mean KL
divergence of the policies at held-out turns, between rated and random and between the two random ones, and the outcome
of held-out dialogues weighted by agreement, `gflowdial.dialogue.labels.agreed_outcome`.

Run: ESCONV=PATH/FailedESConv.json python -m benchmarks label_outcomes
"""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, PrinterCallback, set_seed

from examples.aflow_esc.task import TASK
from gflowdial.dialogue.encoding import DialogueEncoder, DialogueTexts
from gflowdial.dialogue.labels import agreed_outcome
from gflowdial.dialogue.language_models import train_tiny, train_tokenizer
from gflowdial.dialogue.model_config import TinyModelConfig
from gflowdial.dialogue.moves import Inventory
from gflowdial.dialogue.policies import LearnedPolicy
from gflowdial.dialogue.splits import split_by_scene
from gflowdial.dialogue.trees import recorded_tree
from gflowdial.dialogue.values import Dialogue
from gflowdial.estimators.language_model import LanguageModelPolicy
from gflowdial.training.trainer import FlowTrainer, FlowTrainingArguments

SPLITS, EPOCHS, MAX_TOKENS, TEMPERATURE = 1, 2.0, 1024, 0.1
CONDITIONS = ("rated", "random 1", "random 2")
Decided = list[tuple[Dialogue, list[int]]]


def main() -> None:
    torch.set_num_threads(1)
    inventory = TASK.inventory("esconv")
    assert TASK.load is not None
    corpus = TASK.load(Path(os.environ["ESCONV"]), inventory, False)
    rated = [dialogue for dialogue in corpus.dialogues if dialogue.scene.id in corpus.outcomes]
    texts = DialogueTexts(TASK.template, TASK.agent, TASK.partner)
    print("split, held-out turns, rated dialogues for training and held out, then by condition the agreed outcome")
    kls, relief = [], []
    for split in range(SPLITS):
        train, held_out = split_by_scene(rated, [0.8, 0.2], split)
        with tempfile.TemporaryDirectory() as folder:
            encoder = small_model(Path(folder), train, texts, inventory, split)
            learn, test = ([(d, t) for d in part if (t := encoder.decisions(d))] for part in (train, held_out))
            outcomes = np.array([corpus.outcomes[dialogue.scene.id] for dialogue, _ in learn])
            found = {}
            for number, condition in enumerate(CONDITIONS):
                dealt = outcomes if number == 0 else np.random.default_rng(number).permutation(outcomes)
                found[condition] = predict(trained(Path(folder), encoder, learn, dealt, split), test)
        truth = [np.array([inventory.index(d.turns[t].move or "") for t in turns]) for d, turns in test]
        reached = [corpus.outcomes[dialogue.scene.id] for dialogue, _ in test]
        agreed = [agreed_outcome(truth, [p.argmax(1) for p in found[name]], reached) for name in CONDITIONS]
        pairs = [("rated", "random 1"), ("rated", "random 2"), ("random 1", "random 2")]
        kls.append([kl(found[p], found[q]) for p, q in pairs])
        relief.append([*agreed, float(np.mean(reached))])
        print(split, sum(map(len, truth)), len(learn), len(test), *(f"{value:.3f}" for value in relief[-1]), flush=True)
    first = np.array(kls)
    print(f"KL(rated, random) {first[:, :2].mean():.1e}, KL(random, random) {first[:, 2].mean():.1e} nats a turn")
    means = np.mean(relief, axis=0)
    names = [*CONDITIONS, "all alike"]
    print("agreed outcome:", ", ".join(f"{name} {mean:.3f}" for name, mean in zip(names, means, strict=True)))


def small_model(
    folder: Path, train: Sequence[Dialogue], texts: DialogueTexts, inventory: Inventory, seed: int
) -> DialogueEncoder:
    """The encoder of a language model in ``folder`` that is trained from scratch on the dialogues."""
    tokenizer = train_tokenizer([*texts.of(train), *(f" {name}" for name in inventory.names)] * 2)
    encoder = DialogueEncoder(tokenizer, inventory, texts, MAX_TOKENS)
    transcripts = [encoder.transcript(dialogue)[:MAX_TOKENS] for dialogue in train]
    config = TinyModelConfig(kind="tiny", epochs=4, batch_size=4)
    train_tiny(config, tokenizer, transcripts, seed, folder, torch.device("cpu"))
    return encoder


def trained(
    folder: Path,
    encoder: DialogueEncoder,
    learn: Decided,
    outcomes: NDArray[np.float64],
    seed: int,
    loss: str = "subtrajectory_balance",
) -> LearnedPolicy:
    """A policy on the language model in ``folder``, all of which is trained on the dialogues with these outcomes."""
    set_seed(seed)
    policy = LanguageModelPolicy(AutoModelForCausalLM.from_pretrained(folder), encoder.names)
    inventory = encoder.inventory
    trees = [recorded_tree(*each, inventory, float(outcome)) for each, outcome in zip(learn, outcomes, strict=True)]
    arguments = FlowTrainingArguments(
        output_dir=str(folder),
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=4,
        learning_rate=1e-3,
        lr_scheduler_type="cosine",
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        seed=seed,
    )
    trainer = FlowTrainer(
        policy,
        arguments,
        loss,
        trees,
        tokens=encoder.tree_tokens,
        branch=encoder.branch,
        temperature=TEMPERATURE,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return LearnedPolicy(policy.eval(), encoder)


def predict(policy: LearnedPolicy, test: Decided) -> list[NDArray[np.float64]]:
    """log π at the turns of each dialogue."""
    return [policy.log_policy([Dialogue(d.scene, d.turns[:turn]) for turn in turns]) for d, turns in test]


def kl(p: list[NDArray[np.float64]], q: list[NDArray[np.float64]]) -> float:
    """The mean KL divergence of p from q, in nats per turn."""
    log_p, log_q = np.concatenate(p), np.concatenate(q)
    return float((np.exp(log_p) * (log_p - log_q)).sum(1).mean())


if __name__ == "__main__":
    main()
