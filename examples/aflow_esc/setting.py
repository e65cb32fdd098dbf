"""From a run's settings to the things they name: conversations, roles, environment, encoder, policies."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from examples.aflow_esc.config import ConfigError, DataConfig, RunConfig
from examples.aflow_esc.corpora import Corpus, load_corpus, relabel, split_by_scene
from examples.aflow_esc.dialogues import Dialogue, Scene
from examples.aflow_esc.encoding import DialogueEncoder
from examples.aflow_esc.environment import SupportEnvironment
from examples.aflow_esc.language_models import load_pretrained, load_tokenizer
from examples.aflow_esc.policies import LearnedPolicy
from examples.aflow_esc.roles.local import local_roles
from examples.aflow_esc.roles.local_model import LocalModel
from examples.aflow_esc.roles.protocols import Roles
from examples.aflow_esc.roles.simulated import SimulatedRoles, simulated_roles
from examples.aflow_esc.runs import Run, RunError
from examples.aflow_esc.scenes import bundled_scenes
from examples.aflow_esc.strategies import AFLOW, ESCONV_TO_AFLOW, EXTES_TO_AFLOW, Inventory, inventory
from gflowdial.estimators.language_model import LanguageModelPolicy

_Item = TypeVar("_Item", Scene, Dialogue)

_TO_AFLOW = {"esconv": ESCONV_TO_AFLOW, "extes": EXTES_TO_AFLOW}


@dataclass(frozen=True)
class Setting:
    """What a run's stages work with.

    Attributes:
        config: the run's settings.
        strict: whether the first fault in the data stops everything.
    """

    config: RunConfig
    strict: bool = False

    @cached_property
    def inventory(self) -> Inventory:
        """The strategies."""
        return inventory(self.config.inventory)

    @cached_property
    def corpus(self) -> Corpus | None:
        """The recorded dialogues, or None where the run takes the bundled scenes."""
        source = self.config.data.source
        return None if source == "bundled" else load_corpus(Path(source), strict=self.strict)

    @cached_property
    def dialogues(self) -> tuple[list[Dialogue], list[Dialogue]]:
        """Recorded dialogues in the run's inventory, for training and held out.

        Raises:
            ConfigError: the run has none, or their labels cannot be named in its inventory.
        """
        if self.corpus is None:
            raise ConfigError("data.source: learning from labels needs recorded dialogues; name a corpus file")
        dialogues = self.corpus.dialogues
        if self.corpus.inventory != self.inventory:
            if self.inventory != AFLOW:
                raise ConfigError(
                    f"inventory: the labels are {self.corpus.inventory.name}'s; choose that or aflow, "
                    f"not {self.inventory.name}"
                )
            dialogues = [relabel(dialogue, _TO_AFLOW[self.corpus.inventory.name]) for dialogue in dialogues]
        data = self.config.data
        train, held_out = _split(dialogues[: data.limit], data)
        return train, held_out

    @cached_property
    def decisions(self) -> tuple[list[tuple[Dialogue, list[int]]], list[tuple[Dialogue, list[int]]]]:
        """The recorded dialogues that have labelled turns, with the indices of these, for training and held out.

        Raises:
            ConfigError: a part has none.
        """
        train, held_out = (
            [
                (dialogue, turns)
                for dialogue in part
                if (turns := self.encoder.decisions(dialogue, self.config.data.max_turns))
            ]
            for part in self.dialogues
        )
        for name, found in (("training", train), ("held-out", held_out)):
            if not found:
                raise ConfigError(
                    f"data.source: no {name} dialogue has a labelled turn of the supporter that fits in "
                    f"training.max_tokens, {self.encoder.max_tokens}; name another corpus, or raise it"
                )
        return train, held_out

    @cached_property
    def scenes(self) -> tuple[list[Scene], list[Scene]]:
        """Scenes for training and held out."""
        if self.corpus is not None:
            train, held_out = ([dialogue.scene for dialogue in part] for part in self.dialogues)
        else:
            train, held_out = _split(bundled_scenes()[: self.config.data.limit], self.config.data)
        return train, held_out

    @cached_property
    def roles(self) -> Roles:
        """Who plays whom.

        Raises:
            ConfigError: the run names no roles, or roles that do not know its inventory.
        """
        match self.config.roles:
            case None:
                raise ConfigError("roles is missing: a conversation needs roles of kind 'simulated' or 'local'")
            case config if config.kind == "simulated":
                try:
                    return simulated_roles(self.inventory, config.world_seed, config.max_turns)
                except ValueError as error:
                    raise ConfigError(f"inventory: {error}") from None
            case config:
                model, tokenizer = load_pretrained(config.model, "roles.model")
                return local_roles(LocalModel(model, tokenizer), self.inventory, config.max_new_tokens)

    @property
    def is_enumerable(self) -> bool:
        """Whether every history of a scene can be played through."""
        return isinstance(self.roles, SimulatedRoles)

    @cached_property
    def environment(self) -> SupportEnvironment:
        """The roles' conversation."""
        roles = self.roles
        assert self.config.roles is not None
        return SupportEnvironment(roles, self.inventory, self.config.roles.max_turns)

    @cached_property
    def encoder(self) -> DialogueEncoder:
        """How dialogues become tokens."""
        return DialogueEncoder(load_tokenizer(self.config.model), self.inventory, self.config.training.max_tokens)

    def language_model(self, run: Run, seed: int) -> PreTrainedModel:
        """A fresh copy of the language model that policies of this seed stand on."""
        model = self.config.model
        if model.kind == "tiny":
            return AutoModelForCausalLM.from_pretrained(run.base(seed), dtype=torch.float32)
        return load_pretrained(model.name)[0]

    def untrained(self, run: Run, seed: int) -> LanguageModelPolicy:
        """A policy before training: it is the language model's own prior."""
        adapter = self.config.adapter
        return LanguageModelPolicy.with_lora(
            self.language_model(run, seed),
            self.encoder.action_tokens,
            rank=adapter.rank,
            alpha=adapter.alpha,
            attention=self.config.training.attention,
        )

    def learned(self, run: Run, seed: int, method: str) -> LearnedPolicy:
        """A trained policy of the run.

        Raises:
            RunError: it has not been trained.
        """
        folder = run.policy(seed, method)
        if not folder.is_dir():
            raise RunError(
                f"{folder} holds no policy: train it first, or choose among the run's seeds "
                f"({', '.join(map(str, run.config.seeds))}) and methods ({', '.join(run.config.training.methods)})"
            )
        model = LanguageModelPolicy.from_pretrained(
            folder, self.language_model(run, seed), attention=self.config.training.attention
        )
        return LearnedPolicy(model.eval(), self.encoder)


def _split(items: Sequence[_Item], data: DataConfig) -> list[list[_Item]]:
    try:
        return split_by_scene(items, [1 - data.held_out, data.held_out], data.split_seed)
    except ValueError as error:
        raise ConfigError(f"data.held_out: {error} (data.limit is {data.limit})") from None
