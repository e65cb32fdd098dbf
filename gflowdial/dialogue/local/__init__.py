"""All roles of a task on one local language model. Needs the extra ``lm``."""

from gflowdial.dialogue.local.loading import ModelError, load_language_model
from gflowdial.dialogue.local.model import LocalModel
from gflowdial.dialogue.local.roles import local_roles

__all__ = ["LocalModel", "ModelError", "load_language_model", "local_roles"]
