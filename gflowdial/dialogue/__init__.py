"""Dialogue tasks: what a conversation is, and all stages from scenes to a policy, a report and a chat.

A task is one object, `Task`, in one Python file of its user; ``gflowdial run --task module:object --config FILE`` does
the rest. The names here need the core alone, as do `gflowdial.dialogue.environment`, which makes a search environment
of a task and its roles, and `gflowdial.dialogue.canned`, which has roles for simulated worlds. Encoders, policies,
stages and the command line are modules of this package too and need the extra ``dialogue``.
"""

from typing import TYPE_CHECKING

from gflowdial.dialogue.corpus import Corpus, CorpusError, Problem
from gflowdial.dialogue.moves import Inventory, Move, UnknownMoveError
from gflowdial.dialogue.roles import (
    CONTINUES,
    Agent,
    Judge,
    Partner,
    Prior,
    Reply,
    Roles,
    StochasticPartner,
)
from gflowdial.dialogue.task import (
    Criterion,
    Prompts,
    PromptTemplate,
    StatusQuestion,
    Task,
    TaskError,
    Template,
    load_task,
)
from gflowdial.dialogue.values import Dialogue, Scene, Turn
from gflowdial.faces import lazy_face

if TYPE_CHECKING:
    from gflowdial.dialogue.encoding import DialogueEncoder
    from gflowdial.dialogue.environment import DialogueEnvironment, DialogueState
    from gflowdial.dialogue.policies import (
        DialoguePolicy,
        GreedyPolicy,
        LearnedPolicy,
        PriorPolicy,
        SearchPolicy,
        UniformPolicy,
    )

__all__ = ["CONTINUES", "Agent", "Corpus", "CorpusError", "Criterion", "Dialogue", "Inventory", "Judge", "Move"]
__all__ += ["Partner", "Prior", "Problem", "PromptTemplate", "Prompts", "Reply", "Roles", "Scene", "StatusQuestion"]
__all__ += ["StochasticPartner", "Task", "TaskError", "Template", "Turn", "UnknownMoveError", "load_task"]
__all__ += ["DialogueEncoder", "DialogueEnvironment", "DialoguePolicy", "DialogueState", "GreedyPolicy"]
__all__ += ["LearnedPolicy", "PriorPolicy", "SearchPolicy", "UniformPolicy"]

__getattr__, _ = lazy_face(
    __name__,
    {
        "encoding": ["DialogueEncoder"],
        "environment": ["DialogueEnvironment", "DialogueState"],
        "policies": [
            "DialoguePolicy",
            "GreedyPolicy",
            "LearnedPolicy",
            "PriorPolicy",
            "SearchPolicy",
            "UniformPolicy",
        ],
    },
)


def __dir__() -> list[str]:
    return sorted(__all__)
