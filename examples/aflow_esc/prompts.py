"""What language models in the roles of emotional support are told."""

from gflowdial.dialogue.task import Prompts, PromptTemplate, StatusQuestion

_JUDGE = "You judge conversations between a person in distress (Seeker) and a listener (Supporter)."

PROMPTS = Prompts(
    prior=PromptTemplate(
        f"{_JUDGE} These are the supporter's strategies:\n{{moves}}",
        "{transcript}\n\nWhich strategy fits best now?",
        "Strategy:",
    ),
    # The strategy ends the prompt, so that siblings share what stands before it.
    agent=PromptTemplate(
        "You are a warm, attentive listener who supports a person in distress. Answer in one or two short sentences.",
        "{transcript}\n\nWrite what the supporter says next. {description}",
        "Supporter:",
    ),
    partner=PromptTemplate(
        "You complete the script of a play.",
        "The seeker's part ({scene.problem}): {scene.situation}\nThe seeker feels {scene.emotion}.",
        "{transcript}\nSeeker:",
    ),
    judge=PromptTemplate(
        f"{_JUDGE} These are the criteria:\n{{criteria}}",
        "{transcript}\n\nRate the supporter's last turn, with the seeker's answer to it, "
        "from 1 (very poor) to 5 (very good).",
    ),
    status=StatusQuestion(
        PromptTemplate(
            "You name feelings.",
            'Someone says: "{text}"\nIs this person grateful, angry or worried?',
            "This person is",
        ),
        answers=("grateful", "angry", "worried"),
        above={"left": ("angry", 0.5), "helped": ("grateful", 0.8)},
    ),
)
"""For a `Scene` with ``situation``, ``emotion`` and ``problem``, and a task whose speakers are Supporter and Seeker."""
