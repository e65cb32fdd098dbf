"""What a local model writes: greedily as `transformers` does, samples that depend on seed and prompt alone."""

import numpy as np
import pytest
import torch
from tiny_model import AFLOW, SUPPORT, TroubledScene, tiny_model

from gflowdial.dialogue.local.model import LocalModel, Prompt, _Draw, _whole_sentences
from gflowdial.dialogue.local.roles import LocalAgent, LocalPartner, SampledPartner, local_roles
from gflowdial.dialogue.roles import Partner, StochasticPartner
from gflowdial.dialogue.values import Dialogue, Turn

PROMPTS = [Prompt("s", text) for text in ("I lost my job.", "My friend has not spoken to me.", "Hi.")]
DIALOGUES = [
    Dialogue.begin(TroubledScene(text[:4], text)).then(Turn("agent", "Go on."))
    for text in ("I am sad.", "My dog died.")
]


@pytest.fixture(scope="module")
def tiny() -> LocalModel:
    return LocalModel(*tiny_model(), batch_size=3)


def test_by_default_the_most_probable_words_are_written(tiny: LocalModel) -> None:
    model, tokenizer = tiny_model()
    plain = LocalModel(model, tokenizer)
    for prompt, text in zip(PROMPTS, tiny.write(PROMPTS, 12), strict=True):
        ids = torch.tensor([plain._tokens(plain._render(prompt))])
        with torch.inference_mode():
            new = model.generate(  # type: ignore[operator]
                ids,
                do_sample=False,
                max_new_tokens=12,
                min_new_tokens=2,
                eos_token_id=plain._end_tokens,
                pad_token_id=0,
            )[0, ids.shape[1] :]
        assert text == tokenizer.decode(new, skip_special_tokens=True).lstrip().split("\n")[0].strip()


def test_samples_depend_on_seed_and_prompt_alone(tiny: LocalModel) -> None:
    drawn = tiny.write(PROMPTS, 12, temperature=1.0, seed=3)
    assert drawn == [tiny.write([prompt], 12, temperature=1.0, seed=3)[0] for prompt in PROMPTS]
    assert drawn == tiny.write(PROMPTS[::-1], 12, temperature=1.0, seed=3)[::-1]
    assert drawn != tiny.write(PROMPTS, 12, temperature=1.0, seed=4)
    assert len(set(tiny.write(PROMPTS[:1] * 5, 12, temperature=1.0))) > 1
    assert len(set(tiny.write(PROMPTS[:1] * 5, 12))) == 1
    assert tiny.write(PROMPTS, 12, temperature=1e-6) == tiny.write(PROMPTS, 12)
    with pytest.raises(ValueError, match=r"temperature is -1\.0: give 0"):
        tiny.write(PROMPTS, 12, temperature=-1.0)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_a_draw_has_the_probabilities_of_the_softmax(temperature: float) -> None:
    logits = torch.tensor([1.0, 0.0, -1.0, 2.0, -torch.inf])
    draw = _Draw([Prompt("s", "u", draw=number) for number in range(4000)], temperature, seed=0)
    chosen = draw(torch.empty(0), logits.expand(4000, 5)).argmax(dim=1)
    shares = np.bincount(chosen.numpy(), minlength=5) / 4000
    np.testing.assert_allclose(shares, (logits / temperature).softmax(0).numpy(), atol=0.025)
    assert shares[-1] == 0


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("I hear you. That is hard. What do", "I hear you. That is hard."),
        ('She said "Go!" and then', 'She said "Go!"'),
        ("It costs 3.50 dollars and", "It costs 3.50 dollars and"),
        ("Yes.", "Yes."),
        ("你好。我", "你好。"),
        ("no end here", "no end here"),
        ("", ""),
    ],
)
def test_whole_sentences(text: str, kept: str) -> None:
    assert _whole_sentences(text) == kept


def test_only_texts_that_were_cut_lose_their_last_words(tiny: LocalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [Prompt("s", f"{number} things.") for number in range(12)]
    whole = tiny.write(prompts, 12)
    monkeypatch.setattr("gflowdial.dialogue.local.model._whole_sentences", lambda text: text[:1])
    shortened = tiny.write(prompts, 12, whole_sentences=True)
    for prompt, before, after in zip(prompts, whole, shortened, strict=True):
        ended = tiny.write([prompt], 40)[0] == before
        assert after == (before if ended else before[:1])
    assert whole != shortened


def test_a_sampled_partner_answers_in_several_ways(tiny: LocalModel) -> None:
    partner = SampledPartner(LocalPartner(SUPPORT, tiny, max_new_tokens=8, temperature=1.0, seed=1), draws=4)
    assert isinstance(partner, StochasticPartner)
    assert not isinstance(partner, Partner)
    replies = partner.replies(DIALOGUES)
    assert [len(each) for each in replies] == [4, 4]
    assert all(reply.probability == 0.25 for each in replies for reply in each)
    assert len({reply.text for reply in replies[0]}) > 1
    assert replies == [partner.replies([dialogue])[0] for dialogue in DIALOGUES]
    texts = [reply.text for reply in replies[0]]
    assert [reply.status for reply in replies[0]] == partner.partner.statuses(texts)
    with pytest.raises(ValueError, match="draws is 0: give at least 1"):
        SampledPartner(partner.partner, 0)


def test_roles_are_deterministic_unless_told(tiny: LocalModel) -> None:
    assert isinstance(local_roles(SUPPORT, AFLOW, tiny).partner, LocalPartner)
    stochastic = local_roles(SUPPORT, AFLOW, tiny, max_new_tokens=8, draws=3, temperature=0.7)
    assert isinstance(stochastic.partner, SampledPartner)
    assert len(stochastic.partner.replies(DIALOGUES)[0]) == 3


def test_an_agent_may_sample(tiny: LocalModel) -> None:
    moves = ["Clarification"] * 6
    sampling = LocalAgent(SUPPORT, AFLOW, tiny, max_new_tokens=8, temperature=1.0, whole_sentences=True)
    assert len(set(sampling.reply(DIALOGUES[:1] * 6, moves))) > 1
    assert len(set(LocalAgent(SUPPORT, AFLOW, tiny, max_new_tokens=8).reply(DIALOGUES[:1] * 6, moves))) == 1
