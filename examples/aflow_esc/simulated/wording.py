"""All words of the simulated roles. Every supporter's phrase belongs to one strategy, so the words alone name it."""

from collections.abc import Mapping
from typing import NamedTuple

from examples.aflow_esc.simulated.world import Hidden

SUPPORTER: Mapping[str, tuple[str, ...]] = {
    "Reflective Statements": (
        "So what stays with you most is how sudden it was.",
        "I hear that one part of you still keeps asking why.",
        "It sounds like two wishes are pulling you apart here.",
        "You are saying that the waiting is the worst of it.",
        "If I follow you, the silence around it weighs on you.",
    ),
    "Clarification": (
        "Can you tell me more about when this began?",
        "Which part of it is hardest on an ordinary day?",
        "What went through your mind when that happened?",
        "How does this show in your evenings and nights?",
        "Who else is part of this, as you see it?",
    ),
    "Emotional Validation": (
        "Anyone in your place would feel shaken by this.",
        "Your feelings make sense after what you went through.",
        "It is all right to feel this way about it.",
        "Being this upset is a natural answer to such strain.",
        "You have every reason to feel hurt right now.",
    ),
    "Empathetic Statements": (
        "I am so sorry that you carry this on your own.",
        "My heart goes out to you as you tell me this.",
        "I am glad you told me, and I am with you.",
        "That must ache, and I want to stay beside you.",
        "I can almost feel how heavy this is for you.",
    ),
    "Affirmation": (
        "It took real courage to say that out loud.",
        "You have kept going through a lot, and that counts.",
        "I can see how much care you put into this.",
        "You handled that moment with more strength than you think.",
        "Reaching out today shows how much you want things to change.",
    ),
    "Collaborative Planning": (
        "Shall we pick one small step together for this week?",
        "Let us sketch tomorrow morning together, piece by piece.",
        "We could decide together what comes first and what can wait.",
        "Let us write a short plan that feels doable to you.",
        "Together we can find a time to try this out.",
    ),
    "Suggest Options": (
        "You could write a letter, or ask for a short talk.",
        "One way is to rest first, another is to call someone.",
        "Perhaps a walk, a list, or an early night would help.",
        "You might ask for more time or hand one task over.",
        "Some people try a fixed hour for it, others take a break.",
    ),
    "Share Information": (
        "Studies find that sleep and mood feed each other closely.",
        "There are free services nearby that deal with exactly this.",
        "Research shows that such weeks often pass in waves.",
        "By the usual rules you are entitled to ask for support.",
        "Stress like this is known to cloud memory for a while.",
    ),
}

_FEELING: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("overwhelmed", "guarded"): (
        "Everything hurts, and words change nothing.",
        "I can barely breathe, leave it.",
        "It is unbearable, and nobody understands.",
    ),
    ("overwhelmed", "open"): (
        "Everything hurts, but please stay with me.",
        "I can barely breathe, thanks for listening.",
        "It is unbearable, though telling you helps.",
    ),
    ("upset", "guarded"): (
        "I feel awful, you hardly know me.",
        "It still hurts, you cannot see it.",
        "I am low, not that it matters.",
    ),
    ("upset", "open"): (
        "I feel awful, but trust you.",
        "It still hurts, and you see it.",
        "I am low, glad you listen though.",
    ),
    ("uneasy", "guarded"): (
        "A bit better, but talking is odd.",
        "I am calmer, still I hold back.",
        "It weighs less, though I stay careful.",
    ),
    ("uneasy", "open"): (
        "It is a bit better, thank you.",
        "I am calmer now, it helps to talk.",
        "It weighs less when you say that.",
    ),
    ("calm", "guarded"): (
        "I am fine, this talk is not helping.",
        "The worst is over, no thanks to this.",
        "I feel all right, yet not heard.",
    ),
    ("calm", "open"): (
        "I feel lighter, thank you.",
        "I can breathe again, you helped.",
        "The worst is over, I am grateful.",
    ),
}

_THINKING: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("lost", "waiting"): (
        "I cannot even say what it is.",
        "My thoughts just go in circles.",
        "It is all one big fog.",
    ),
    ("lost", "ready"): (
        "I want out, but out of what?",
        "I would act if I knew why.",
        "Something must change, whatever it is.",
    ),
    ("groping", "waiting"): (
        "I half see where it comes from.",
        "Parts of it begin to add up.",
        "There is some reason behind it.",
    ),
    ("groping", "ready"): (
        "I half see it and would move.",
        "Parts add up, so I could try.",
        "There is some reason, I am willing.",
    ),
    ("clear", "waiting"): (
        "I know the cause, acting is hard.",
        "I see it well, I feel stuck.",
        "The picture is clear, yet I wait.",
    ),
    ("clear", "ready"): (
        "I know the cause and would start.",
        "I see it well, so what now?",
        "The picture is clear, I am ready.",
    ),
}

_HELPED = (
    "I know how to go on now.",
    "This gives me enough for now.",
    "I can take it from here.",
    "Tonight I will sleep.",
)

_LEAVING = (
    "This is pointless, I am leaving.",
    "Forget it, coming here was wrong.",
    "I am done talking, goodbye.",
    "You do not listen, I am going.",
)

STRATEGY_OF: Mapping[str, str] = {phrase: name for name, phrases in SUPPORTER.items() for phrase in phrases}


class Surface(NamedTuple):
    """What shows of the hidden state: its coarse levels."""

    distress: str
    trust: str
    clarity: str
    readiness: str


def surface(hidden: Hidden) -> Surface:
    """The coarse levels that the seeker's words give away."""
    return Surface(
        ("calm", "calm", "uneasy", "upset", "overwhelmed")[hidden.distress],
        "open" if hidden.trust >= 2 else "guarded",
        ("lost", "groping", "clear", "clear")[hidden.clarity],
        "ready" if hidden.readiness else "waiting",
    )


def feelings(hidden: Hidden) -> tuple[str, ...]:
    """Variants of the sentence that shows distress and trust."""
    shown = surface(hidden)
    return _FEELING[shown.distress, shown.trust]


def thoughts(hidden: Hidden, status: str) -> tuple[str, ...]:
    """Variants of the sentence that shows clarity and readiness, or that the seeker goes."""
    if status == "helped":
        return _HELPED
    if status == "left":
        return _LEAVING
    shown = surface(hidden)
    return _THINKING[shown.clarity, shown.readiness]


def all_phrases() -> list[str]:
    """Every phrase that the simulated roles can say; a seeker's turn is two of them."""
    seeker = [phrase for table in (_FEELING, _THINKING) for phrases in table.values() for phrase in phrases]
    return [*STRATEGY_OF, *seeker, *_HELPED, *_LEAVING]
