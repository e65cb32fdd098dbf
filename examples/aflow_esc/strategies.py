"""Strategy inventories as data: names, definitions, accepted wordings, and the maps onto AFlow's eight."""

from collections.abc import Mapping
from types import MappingProxyType

from gflowdial.dialogue.moves import Inventory, Move


ESCONV = Inventory(
    "esconv",
    (
        Move("Question", "Ask about the problem so that the seeker can tell more.", ("Questions",)),
        Move(
            "Restatement or Paraphrasing",
            "Say back in other, shorter words what the seeker has told.",
            ("Restatement", "Paraphrasing", "Restatements or Paraphrasing"),
        ),
        Move(
            "Reflection of feelings",
            "Put the feelings behind the seeker's words into words.",
            ("Reflection of feeling", "Reflecting feelings"),
        ),
        Move("Self-disclosure", "Tell of a similar experience or feeling of one's own.", ("Self disclosure",)),
        # "Approval and Reassurance" and "Direct Guidance" are what an early label set called these two.
        Move(
            "Affirmation and Reassurance",
            "Point to the seeker's strengths and encourage them.",
            ("Approval and Reassurance", "Affirmation", "Reassurance"),
        ),
        Move(
            "Providing Suggestions",
            "Offer ways to change the situation without dictating one.",
            ("Direct Guidance", "Suggestions", "Providing Suggestion", "Provide Suggestions"),
        ),
        Move("Information", "Give useful facts, resources or answers.", ("Providing Information",)),
        Move("Others", "Greet, thank, or do anything that no other strategy covers.", ("Other",)),
    ),
)

_REFLECTIVE = Move(
    "Reflective Statements",
    "Mirror the heart of what the seeker said so that they can look at it.",
    ("Reflective Statement", "Reflective Listening"),
)
_CLARIFICATION = Move(
    "Clarification", "Ask an open question that makes the problem clearer.", ("Clarifications", "Clarify")
)
_VALIDATION = Move(
    "Emotional Validation", "Say that the seeker's feelings are understandable and allowed.", ("Validation",)
)
_EMPATHETIC = Move(
    "Empathetic Statements",
    "Show warmth and that one feels with the seeker.",
    ("Empathetic Statement", "Empathic Statements", "Empathy"),
)
_AFFIRMATION = Move(
    "Affirmation", "Name a strength or effort of the seeker and honour it.", ("Affirmations", "Affirm")
)
_OPTIONS = Move(
    "Suggest Options", "Offer possible steps for the seeker to choose from.", ("Suggest Option", "Suggesting Options")
)
_PLANNING = Move(
    "Collaborative Planning", "Work out a next step together with the seeker.", ("Collaborative Plan",)
)
_INFORMATION = Move(
    "Share Information", "Tell a fact or resource that bears on the problem.", ("Sharing Information",)
)

AFLOW = Inventory(
    "aflow",
    (
        _REFLECTIVE,
        _CLARIFICATION,
        _VALIDATION,
        _EMPATHETIC,
        _AFFIRMATION,
        _PLANNING,
        _OPTIONS,
        _INFORMATION,
    ),
)

EXTES = Inventory(
    "extes",
    (
        _REFLECTIVE,
        _CLARIFICATION,
        _VALIDATION,
        _EMPATHETIC,
        _AFFIRMATION,
        Move("Offer Hope", "Give the seeker grounds to expect that things can get better.", ("Offering Hope",)),
        Move(
            "Avoid Judgment and Criticism",
            "Stay accepting and neutral about what the seeker did or felt.",
            ("Avoid Judgement and Criticism", "Avoid Judgment"),
        ),
        _OPTIONS,
        _PLANNING,
        Move(
            "Provide Different Perspectives",
            "Show another way to look at the situation.",
            ("Provide Different Perspective", "Providing Different Perspectives"),
        ),
        Move(
            "Reframe Negative Thoughts",
            "Turn a harsh thought of the seeker into a fairer one.",
            ("Reframing Negative Thoughts", "Reframe Negative Thought"),
        ),
        _INFORMATION,
        Move(
            "Normalize Experiences",
            "Say that many people react in this way.",
            ("Normalise Experiences", "Normalize Experience", "Normalizing Experiences"),
        ),
        Move(
            "Promote Self-Care Practices",
            "Encourage rest, movement or other care for oneself.",
            ("Promote Self-Care", "Self-Care Practices"),
        ),
        Move("Stress Management", "Offer a way to calm body and mind.", ("Stress Management Techniques",)),
        Move("Others", "Greet, thank, or do anything that no other strategy covers.", ("Other",)),
    ),
)

ESCONV_TO_AFLOW: Mapping[str, str | None] = MappingProxyType(
    {
        "Question": "Clarification",
        "Restatement or Paraphrasing": "Reflective Statements",
        "Reflection of feelings": "Emotional Validation",
        "Self-disclosure": "Empathetic Statements",
        "Affirmation and Reassurance": "Affirmation",
        "Providing Suggestions": "Suggest Options",
        "Information": "Share Information",
        "Others": None,
    }
)
"""What an ESConv label means to AFlow; None: no AFlow strategy, masked wherever labels count."""

EXTES_TO_AFLOW: Mapping[str, str | None] = MappingProxyType(
    {
        **{name: name for name in AFLOW.names},
        "Offer Hope": "Affirmation",
        "Avoid Judgment and Criticism": "Emotional Validation",
        "Provide Different Perspectives": "Reflective Statements",
        "Reframe Negative Thoughts": "Reflective Statements",
        "Normalize Experiences": "Emotional Validation",
        "Promote Self-Care Practices": "Suggest Options",
        "Stress Management": "Suggest Options",
        "Others": None,
    }
)
"""What an ExTES label means to AFlow; None: no AFlow strategy, masked wherever labels count."""

INVENTORIES = (AFLOW, ESCONV, EXTES)
"""All of them; a run takes AFlow's unless it names another."""
