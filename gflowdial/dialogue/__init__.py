"""Dialogue tasks: what a conversation is, and the whole line from scenes to a policy, a report and a chat.

A task is one object, `Task`, in one file of its user's; ``gflowdial run --task module:object`` does the rest. What
needs only the core is here; the environment, encoders, policies and stages are modules of this package and need the
extra `dialogue`.
"""

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

__all__ = [
    "CONTINUES",
    "Agent",
    "Corpus",
    "CorpusError",
    "Criterion",
    "Dialogue",
    "Inventory",
    "Judge",
    "Move",
    "Partner",
    "Prior",
    "Problem",
    "PromptTemplate",
    "Prompts",
    "Reply",
    "Roles",
    "Scene",
    "StatusQuestion",
    "StochasticPartner",
    "Task",
    "TaskError",
    "Template",
    "Turn",
    "UnknownMoveError",
    "load_task",
]
