"""Prompts as data: emotional support's are what they always were, and what is said never becomes a template."""

import pytest
from tiny_model import AFLOW, SUPPORT, TroubledScene, tiny_model

from gflowdial.dialogue.local.model import LocalModel, Prompt
from gflowdial.dialogue.local.roles import LocalAgent, LocalJudge, LocalPartner, LocalPrior
from gflowdial.dialogue.moves import Inventory, Move
from gflowdial.dialogue.task import Criterion, Task
from gflowdial.dialogue.values import Dialogue, Scene, Turn

SCENE = TroubledScene("1", "I lost my job.", "Laid off after ten years.", "fear", "job crisis")
DIALOGUE = Dialogue.begin(SCENE).then(
    Turn("agent", "What happened?", "Clarification"), Turn("partner", "They closed the shop.")
)
TRANSCRIPT = "Seeker: I lost my job.\nSupporter: What happened?\nSeeker: They closed the shop."
JUDGE = "You judge conversations between a person in distress (Seeker) and a listener (Supporter)."


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Prompt, tuple[str, ...]]]:
    """Every prompt that a model is given, with the beginnings of answers that are read behind it."""
    found: list[tuple[Prompt, tuple[str, ...]]] = []
    read, write = LocalModel.read, LocalModel.write

    def reading(self: LocalModel, prompts: list[Prompt], probe: object) -> object:
        beginnings = tuple(map(self.tokenizer.decode, probe.beginnings))  # type: ignore[attr-defined]
        found.extend((prompt, beginnings) for prompt in prompts)
        return read(self, prompts, probe)  # type: ignore[arg-type]

    def writing(self: LocalModel, prompts: list[Prompt], *args: object, **options: object) -> list[str]:
        found.extend((prompt, ()) for prompt in prompts)
        return write(self, prompts, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(LocalModel, "read", reading)
    monkeypatch.setattr(LocalModel, "write", writing)
    return found


@pytest.fixture(scope="module")
def tiny() -> LocalModel:
    return LocalModel(*tiny_model())


def test_the_prompts_of_emotional_support(tiny: LocalModel, asked: list[tuple[Prompt, tuple[str, ...]]]) -> None:
    LocalPrior(SUPPORT, AFLOW, tiny).log_prior([DIALOGUE])
    strategies = """\
- Reflective Statements: Mirror the heart of what the seeker said so that they can look at it.
- Clarification: Ask an open question that makes the problem clearer.
- Emotional Validation: Say that the seeker's feelings are understandable and allowed.
- Empathetic Statements: Show warmth and that one feels with the seeker.
- Affirmation: Name a strength or effort of the seeker and honour it.
- Collaborative Planning: Work out a next step together with the seeker.
- Suggest Options: Offer possible steps for the seeker to choose from.
- Share Information: Tell a fact or resource that bears on the problem."""
    system = f"{JUDGE} These are the supporter's strategies:\n{strategies}"
    prior = Prompt(system, f"{TRANSCRIPT}\n\nWhich strategy fits best now?")
    assert asked.pop() == (prior, ("Strategy:",))

    LocalAgent(SUPPORT, AFLOW, tiny, max_new_tokens=4).reply([DIALOGUE], ["Affirmation"])
    agent = Prompt(
        "You are a warm, attentive listener who supports a person in distress. Answer in one or two short sentences.",
        f"{TRANSCRIPT}\n\nWrite what the supporter says next. Name a strength or effort of the seeker and honour it.",
        "Supporter:",
    )
    assert asked.pop() == (agent, ())

    spoken = DIALOGUE.then(Turn("agent", "I hear you."))
    words = LocalPartner(SUPPORT, tiny, max_new_tokens=4).respond([spoken])[0].text
    status = Prompt("You name feelings.", f'Someone says: "{words}"\nIs this person grateful, angry or worried?')
    assert asked.pop() == (status, ("This person is",))
    partner = Prompt(
        "You complete the script of a play.",
        "The seeker's part (job crisis): Laid off after ten years.\nThe seeker feels fear.",
        f"{TRANSCRIPT}\nSupporter: I hear you.\nSeeker:",
    )
    assert asked.pop() == (partner, ())

    LocalJudge(SUPPORT, tiny).score([DIALOGUE])
    criteria = """\
- Empathy: does the supporter understand and share the seeker's feelings?
- Information: does the supporter say something useful and specific?
- Naturalness: is the reply fluent, and does it fit what the seeker said?
- Strategic efficacy: does the reply help the seeker to move forward?"""
    judge = Prompt(
        f"{JUDGE} These are the criteria:\n{criteria}",
        f"{TRANSCRIPT}\n\nRate the supporter's last turn, with the seeker's answer to it, "
        "from 1 (very poor) to 5 (very good).",
    )
    assert asked == [(judge, ("Empathy: ", "Information: ", "Naturalness: ", "Strategic efficacy: "))]


def test_braces_in_what_was_said_are_words(tiny: LocalModel, asked: list[tuple[Prompt, tuple[str, ...]]]) -> None:
    odd = "{scene.id} {transcript} {0} {missing!r} {{x}} }{"
    inventory = Inventory("odd", (Move("Ask", odd), Move("Tell", odd)))
    task = Task("odd", (inventory,), lambda: [], {}, (Criterion("good", question=odd),), agent="{a}", partner="{b}")
    dialogue = Dialogue.begin(Scene("s", odd)).then(Turn("agent", odd, "Ask"), Turn("partner", odd))
    LocalPrior(task, inventory, tiny).log_prior([dialogue])
    LocalAgent(task, inventory, tiny, max_new_tokens=3).reply([dialogue], ["Ask"])
    LocalPartner(task, tiny, max_new_tokens=3).respond([dialogue])
    LocalJudge(task, tiny).score([dialogue])
    LocalPartner(SUPPORT, tiny).statuses([odd])
    assert len(asked) == 5
    for prompt, _ in asked:
        assert odd in prompt.system + prompt.user + prompt.answer
    assert f"{{b}}: {odd}\n{{a}}: {odd}\n{{b}}: {odd}" in asked[0][0].user


def test_a_task_without_own_prompts_has_some(tiny: LocalModel, asked: list[tuple[Prompt, tuple[str, ...]]]) -> None:
    inventory = Inventory("plain", (Move("Ask"), Move("Tell", "Say something.")))
    task = Task("plain", (inventory,), lambda: [], {}, (Criterion("clear", 0.0, 3.0), Criterion("true", 0.0, 3.0)))
    LocalPrior(task, inventory, tiny).log_prior([Dialogue.begin(Scene("s", "Hello."))])
    assert asked[0][0].system.endswith("These are the moves of Agent:\n- Ask\n- Tell: Say something.")
    LocalJudge(task, tiny).score([Dialogue.begin(Scene("s", "Hello."))])
    assert asked[1][0].user.endswith("from 0 (poor) to 3 (good).")
