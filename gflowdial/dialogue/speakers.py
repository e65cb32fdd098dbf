"""Who puts the moves of a chat into words: the run's own agent, the language model, or the moves' descriptions."""

from collections.abc import Sequence
from dataclasses import dataclass
from secrets import randbits

from gflowdial.dialogue.local.roles import LocalAgent
from gflowdial.dialogue.moves import Inventory
from gflowdial.dialogue.roles import Agent
from gflowdial.dialogue.setting import Setting
from gflowdial.dialogue.values import Dialogue


@dataclass(frozen=True)
class Speaker:
    """Who writes, and how, in words for the person who reads it."""

    agent: Agent
    manner: str


@dataclass(frozen=True)
class DescribingAgent:
    """Says what the move does, where no role can write."""

    inventory: Inventory

    def reply(self, dialogues: Sequence[Dialogue], moves: Sequence[str]) -> list[str]:
        """The descriptions of the moves."""
        descriptions = {move.name: move.description or move.name for move in self.inventory.moves}
        return [f"[{descriptions[move]}]" for _, move in zip(dialogues, moves, strict=True)]


def speaker_of(setting: Setting) -> Speaker:
    """The speaker of a run's chat: of its own roles, else of its language model, else of the descriptions."""
    config = setting.config
    roles, model = config.roles, config.model
    if roles is not None and roles.kind != "local":
        made = setting.roles
        manner = "Replies are chosen from a fixed list of phrases." if made.canned else "Replies are the task's own."
        return Speaker(made.agent, manner)
    if roles is None and model.kind == "tiny":
        return Speaker(DescribingAgent(setting.inventory), "Replies are canned: each says what the move does.")
    if roles is not None:
        name, key = str((roles.model_extra or {}).get("model", "smollm2")), "roles.model"
    else:
        assert model.kind == "pretrained"
        name, key = model.name, "model.name"
    writing = {"max_new_tokens": 60, "temperature": 0.7, "whole_sentences": True, "seed": randbits(32)}
    agent = LocalAgent(setting.task, setting.inventory, setting.local_model(name, key), **writing)
    return Speaker(agent, f"Replies are written by the language model {name}, sampled anew each time.")
