"""What is read off a local model's logits, against plain passes: names along their trie, and scores on any scale."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_model import AFLOW, SUPPORT, TroubledScene, tiny_model

from gflowdial.dialogue.local.model import LocalModel, Prompt
from gflowdial.dialogue.local.roles import LocalJudge, LocalPrior
from gflowdial.dialogue.moves import Inventory, Move
from gflowdial.dialogue.task import Criterion
from gflowdial.dialogue.values import Dialogue

DIALOGUES = [Dialogue.begin(TroubledScene(text[:4], text)) for text in ("I lost my job.", "My dog died.", "Hi.")]


@pytest.fixture(scope="module")
def tiny() -> LocalModel:
    return LocalModel(*tiny_model(), batch_size=2)


def tokens(model: LocalModel, text: str) -> list[int]:
    return list(model.tokenizer(text, add_special_tokens=False)["input_ids"])


def brute_force(model: LocalModel, prompt: Prompt, beginning: str, names: Sequence[str]) -> np.ndarray:
    """The product over a name's tokens of the softmax restricted to what can follow, a plain pass for each."""
    known = [tokens(model, name) for name in names]
    before = tokens(model, model._render(prompt)) + tokens(model, beginning)
    found = []
    for name in known:
        log_prob = 0.0
        for at, token in enumerate(name):
            following = sorted({other[at] for other in known if other[:at] == name[:at]})
            with torch.inference_mode():
                logits = model.model(torch.tensor([before + name[:at]])).logits[0, -1].double()
            log_prob += float(logits[following].log_softmax(0)[following.index(token)])
        found.append(log_prob)
    return np.array(found)


@pytest.mark.parametrize(
    ("names", "several"),
    [
        (["Question", "Information", "Others"], False),
        (["Suggest Options", "Suggest Others", "Suggest Other Options", "Affirmation"], True),
        (["Affirmation", "Affirmation and Reassurance", "Question"], True),
    ],
)
def test_names_that_share_tokens_or_begin_others_have_their_probabilities(
    tiny: LocalModel, names: list[str], several: bool
) -> None:
    inventory = Inventory("some", tuple(Move(name) for name in names))
    prior = LocalPrior(SUPPORT, inventory, tiny)
    assert (len(prior.names.answers.shared) > 1) == several
    end = "\n" if names[0] == "Affirmation" else ""
    got = prior.log_prior(DIALOGUES)
    for row, dialogue in zip(got, DIALOGUES, strict=True):
        prompt = prior._prompt(replace(SUPPORT.prompts.prior, answer=""), dialogue, moves=prior.moves)
        wanted = brute_force(tiny, prompt, "Strategy:", [f" {name}{end}" for name in names])
        np.testing.assert_allclose(row, wanted, atol=1e-3)
    np.testing.assert_allclose(np.exp(got).sum(axis=1), 1)


def test_names_with_first_tokens_of_their_own_are_read_at_one_place(tiny: LocalModel) -> None:
    names = LocalPrior(SUPPORT, AFLOW, tiny).names
    assert names.answers.shared == ((),)
    assert names.answers.options == (tuple(tokens(tiny, f" {name}")[0] for name in AFLOW.names),)
    assert names.beginnings == (tuple(tokens(tiny, "Strategy:")),)


def test_scores_lie_on_their_criterions_scale(tiny: LocalModel) -> None:
    criteria = (
        Criterion("Empathy"),
        Criterion("Harm", 0.0, 1.0),
        Criterion("Information"),
        Criterion("Pace", 2.0, 9.0),
    )
    judge = LocalJudge(replace(SUPPORT, criteria=criteria), tiny)
    scores = judge.score(DIALOGUES)
    assert scores.shape == (3, 4)
    for row, dialogue in zip(scores, DIALOGUES, strict=True):
        prompt = judge._prompt(SUPPORT.prompts.judge, dialogue, **judge.fields)
        for score, criterion in zip(row, criteria, strict=True):
            digits = np.arange(int(criterion.low), int(criterion.high) + 1)
            found = brute_force(tiny, prompt, f"{criterion.name}: ", [str(digit) for digit in digits])
            assert score == pytest.approx(float(np.exp(found) @ digits), abs=1e-3)
            assert criterion.low <= score <= criterion.high
    assert (judge.fields["low"], judge.fields["high"]) == ("0", "9")
    alone = LocalJudge(replace(SUPPORT, criteria=criteria[:1]), tiny)
    np.testing.assert_allclose(alone.score(DIALOGUES).shape, (3, 1))


@pytest.mark.parametrize(("low", "high"), [(0.0, 10.0), (1.5, 5.0), (-1.0, 1.0), (3.0, 3.0)])
def test_scales_that_are_no_digits_are_refused(tiny: LocalModel, low: float, high: float) -> None:
    with pytest.raises(ValueError, match=r"criterion 'odd' goes from .* give whole numbers from 0 to 9"):
        LocalJudge(replace(SUPPORT, criteria=(Criterion("odd", low, high),)), tiny)
