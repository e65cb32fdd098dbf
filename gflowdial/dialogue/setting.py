"""From a run's settings to the things they name: conversations, roles, environment, encoder, policies."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field
from transformers import PreTrainedModel

from gflowdial.dialogue.config import ConfigError, RunConfig, role_options
from gflowdial.dialogue.corpus import Corpus, CorpusError
from gflowdial.dialogue.data_config import DataConfig
from gflowdial.dialogue.encoding import DialogueEncoder, DialogueTexts
from gflowdial.dialogue.environment import DialogueEnvironment, DialogueState
from gflowdial.dialogue.language_models import language_model, load_tokenizer
from gflowdial.dialogue.local import LocalModel, local_roles
from gflowdial.dialogue.moves import Inventory
from gflowdial.dialogue.policies import LearnedPolicy
from gflowdial.dialogue.roles import Roles
from gflowdial.dialogue.runs import Run, RunError
from gflowdial.dialogue.splits import Parts, first_of_each, split_by_scene
from gflowdial.dialogue.task import Task, load_task
from gflowdial.dialogue.values import Dialogue, Scene
from gflowdial.dialogue.wishes import Wish, Wishes
from gflowdial.estimators.language_model import LanguageModelPolicy
from gflowdial.search import enumerate_tree

_Item = TypeVar("_Item", Scene, Dialogue)


@dataclass(frozen=True)
class Setting:
    """What a run's stages work with.

    Attributes:
        config: the run's settings.
        folder: the run's folder; None before there is one.
        strict: whether the first fault in the data stops everything.
    """

    config: RunConfig
    folder: Path | None = None
    strict: bool = False

    @staticmethod
    def of(run: Run) -> "Setting":
        """The setting of a run that was begun."""
        return Setting(run.config, run.folder)

    @cached_property
    def task(self) -> Task:
        """What a conversation is.

        Raises:
            ConfigError: the run names no task.
            TaskError: there is no such task.
        """
        if self.config.task is None:
            raise ConfigError("task is missing: name it with --task module:object, or in the config file")
        return load_task(self.config.task)

    @cached_property
    def inventory(self) -> Inventory:
        """The moves."""
        try:
            return self.task.inventory(self.config.inventory)
        except ValueError as error:
            raise ConfigError(f"inventory: {error}") from None

    @cached_property
    def corpus(self) -> Corpus | None:
        """The recorded dialogues, or None where the run takes scenes of the task."""
        source = self.config.data.source
        if source in ("bundled", "generated"):
            return None
        return self._loaded(source)

    @cached_property
    def test_corpus(self) -> Corpus | None:
        """The recorded dialogues of the file that is held out as a whole, if the run names one."""
        test = self.config.data.test
        return None if test is None else self._loaded(test)

    def _loaded(self, file: str) -> Corpus:
        if self.task.load is None:
            raise ConfigError(f"data.source: task {self.task.name!r} reads no files of dialogues; leave it 'bundled'")
        try:
            return self.task.load(Path(file), self.inventory, self.strict)
        except CorpusError:
            raise
        except ValueError as error:
            raise ConfigError(f"inventory: {error}") from None

    @cached_property
    def outcomes(self) -> dict[str, float]:
        """By scene id how well a recorded dialogue ended, from 0 to 1, where its file rates it."""
        corpora = (self.corpus, self.test_corpus)
        return {name: outcome for corpus in corpora if corpus for name, outcome in corpus.outcomes.items()}

    @cached_property
    def licence(self) -> str:
        """Under what licence the data of the run are."""
        stated = (
            self.task.licence if self.corpus is None else f"not stated; see where {self.config.data.source} is from"
        )
        return self.config.data.licence or stated

    @cached_property
    def dialogues(self) -> Parts[list[Dialogue]]:
        """Recorded dialogues in the run's inventory, in the parts that their files declare; shares of the rest.

        Raises:
            ConfigError: the run has none, or two files name their dialogues alike.
        """
        if self.corpus is None:
            raise ConfigError("data.source: learning from labels needs recorded dialogues; name a corpus file")
        data, declared = self.config.data, self.corpus.parts
        found: dict[str, list[Dialogue]] = {"train": [], "validation": [], "held_out": []}
        for dialogue in self.corpus.dialogues[: data.limit]:
            found[declared.get(dialogue.scene.id, "train")].append(dialogue)
        if self.test_corpus is not None:
            found["held_out"] = self.test_corpus.dialogues[: data.limit]
            if {d.scene.id for d in found["held_out"]} & {d.scene.id for d in self.corpus.dialogues}:
                raise ConfigError(f"data.test: {data.test} names its dialogues as data.source does; rename one file")
        rest = data.model_copy(update={part: 0.0 for part in ("validation", "held_out") if found[part]})
        train, validation, held_out = _split(found["train"], rest)
        return Parts(train, validation or found["validation"], held_out or found["held_out"])

    @cached_property
    def decisions(self) -> Parts[list[tuple[Dialogue, list[int]]]]:
        """The recorded dialogues that have labelled turns, with the indices of these.

        Raises:
            ConfigError: a part has dialogues, but none with labelled turns.
        """
        parts = Parts(
            *(
                [
                    (dialogue, turns)
                    for dialogue in part
                    if (turns := self.encoder.decisions(dialogue, self.config.data.max_turns))
                ]
                for part in self.dialogues
            )
        )
        if self.config.training.outcome:
            known = self.outcomes
            train, validation = (
                [each for each in part if each[0].scene.id in known] for part in (parts.train, parts.validation)
            )
            parts = Parts(train, validation, parts.held_out)
            if not parts.train:
                raise ConfigError("training.outcome: no training dialogue has an outcome; leave it false")
        for name, part, found in zip(("training", "validation", "held-out"), self.dialogues, parts, strict=True):
            if part and not found:
                raise ConfigError(
                    f"data.source: no {name} dialogue has a labelled turn of the {self.task.agent.lower()} that fits "
                    f"in training.max_tokens, {self.encoder.max_tokens}; name another corpus, or raise it"
                )
        return parts

    @cached_property
    def scenes(self) -> Parts[list[Scene]]:
        """The scenes of each part; of generated ones, validation and held-out parts have the first of each group."""
        data = self.config.data
        if self.corpus is not None:
            return Parts(*([dialogue.scene for dialogue in part] for part in self.dialogues))
        if data.source == "bundled":
            return _split(self.task.scenes()[: data.limit], data)
        group = self.task.group
        parts = _split(self._generated(), data, group)
        if group is None:
            return parts
        return Parts(parts.train, first_of_each(parts.validation, group), first_of_each(parts.held_out, group))

    def _generated(self) -> Sequence[Scene]:
        data = self.config.data
        if self.task.generate is None:
            raise ConfigError(f"data.source: task {self.task.name!r} generates no scenes; leave it 'bundled'")
        assert data.scenes is not None
        try:
            return self.task.generate(min(data.scenes, data.limit or data.scenes))
        except ValueError as error:
            raise ConfigError(f"data.scenes: {error}") from None

    @cached_property
    def roles(self) -> Roles:
        """Who plays whom.

        Raises:
            ConfigError: the run names no roles, a kind that the task does not have, or options that do not fit it.
        """
        config = self.config.roles
        if config is None:
            raise ConfigError(
                f"roles is missing: a conversation needs roles of a kind, {', '.join([*self.task.roles, 'local'])}"
            )
        options = dict(config.model_extra or {})
        if config.kind == "local" and "local" not in self.task.roles:
            return self._local_roles(**role_options(self._local_roles, options))
        if config.kind not in self.task.roles:
            raise ConfigError(f"roles.kind: {config.kind!r} is none of {', '.join([*self.task.roles, 'local'])}")
        make = self.task.roles[config.kind]
        try:
            return make(self.inventory, **role_options(make, options))
        except ConfigError:
            raise
        except ValueError as error:
            raise ConfigError(f"inventory: {error}") from None

    def _local_roles(
        self,
        *,
        model: str = "smollm2",
        max_new_tokens: Annotated[int, Field(ge=1)] = 24,
        draws: Annotated[int, Field(ge=1)] = 1,
        temperature: Annotated[float, Field(ge=0)] = 0.0,
        seed: int = 0,
    ) -> Roles:
        """A local language model in all roles; see `gflowdial.dialogue.local.local_roles`."""
        local = self.local_model(model, "roles.model")
        return local_roles(self.task, self.inventory, local, max_new_tokens, draws, temperature, seed)

    def local_model(self, name: str, key: str) -> LocalModel:
        """The language model of this name for prompts and replies, loaded once; messages name the setting ``key``."""
        if name not in self._local_models:
            self._local_models[name] = LocalModel(*language_model(name, key, self.config.compute))
        return self._local_models[name]

    @cached_property
    def _local_models(self) -> dict[str, LocalModel]:
        return {}

    @property
    def is_enumerable(self) -> bool:
        """Whether every history of a scene can be played through."""
        return self.config.roles is not None and self.roles.enumerable

    def check_size(self) -> None:
        """
        Raises:
            ConfigError: the conversations of a scene, whose exact flow is to be computed, are too many to play through.
        """
        turns = self.environment.max_turns
        # Few conversations need no trial.
        if self.is_enumerable and self.environment.num_actions**turns > 10_000:
            try:
                enumerate_tree(self.environment, [DialogueState.begin(self.scenes.held_out[0])])
            except ValueError as error:
                reason = str(error).partition(":")[0]
                raise ConfigError(f"roles.max_turns: {turns} turns are too many ({reason}); lower it") from None

    @cached_property
    def environment(self) -> DialogueEnvironment:
        """The roles' conversation."""
        roles = self.roles
        assert self.config.roles is not None
        return DialogueEnvironment.of(self.task, roles, self.inventory, self.config.roles.max_turns)

    @property
    def texts(self) -> DialogueTexts:
        """The texts that policies read."""
        return DialogueTexts(self.task.template, self.task.agent, self.task.partner)

    @cached_property
    def encoder(self) -> DialogueEncoder:
        """How dialogues become tokens."""
        return DialogueEncoder(
            load_tokenizer(self.config.model, self.task.tokenizer or self.own_tokenizer, self.config.compute),
            self.inventory,
            self.texts,
            self.config.training.max_tokens,
        )

    @property
    def own_tokenizer(self) -> Path:
        """Where the tokenizer is that the run trains, if the task has none for a model trained from scratch."""
        return (self.folder or Path()) / "tokenizer"

    @cached_property
    def wishes(self) -> Wishes | None:
        """What policies are trained for, where they depend on a wish.

        Raises:
            ConfigError: the wishes do not fit the task or the rest of the settings.
        """
        wished, training = self.config.wishes, self.config.training
        if wished is None:
            return None
        if self.config.experiment == "labels":
            raise ConfigError("wishes: recorded dialogues have no returns to wish for; leave the section out")
        if training.untried == "floor":
            raise ConfigError("wishes: they do not go with training.untried: floor; choose free")
        try:
            wishes = Wishes.of(self.task, wished.temperatures, weighted=wished.weights)
            wishes.check(Wish(training.temperature))
        except ValueError as error:
            raise ConfigError(f"wishes: {error}") from None
        return wishes

    def untrained(self, run: Run) -> LearnedPolicy:
        """A policy before training: it is the language model's own prior."""
        adapter, training = self.config.adapter, self.config.training

        def build(base: PreTrainedModel) -> LearnedPolicy:
            names = self.encoder.names
            common: dict[str, Any] = {
                "attention": training.attention,
                "conditions": 0 if self.wishes is None else self.wishes.conditions,
            }
            if training.tuning == "full":
                model = LanguageModelPolicy(base, names, reference="initial", **common)
            else:
                model = LanguageModelPolicy.with_lora(base, names, rank=adapter.rank, alpha=adapter.alpha, **common)
            wish = None if self.wishes is None else Wish(training.temperature)
            return LearnedPolicy(model, self.encoder, wishes=self.wishes, wish=wish)

        return self._on_base(run, build)

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
        attention = self.config.training.attention
        return self._on_base(run, lambda base: LearnedPolicy.from_pretrained(folder, base, attention=attention))

    def _on_base(self, run: Run, build: Callable[[PreTrainedModel], LearnedPolicy]) -> LearnedPolicy:
        """A policy on the language model of the run: on the copy that plays the roles, or a fresh one."""
        model = self.config.model
        name = str(run.base) if model.kind == "tiny" else model.name
        # A second policy on one copy would put its adapter on top of the first one's.
        local = self._local_models.pop(name, None)
        policy = build(local.model if local else language_model(name, "model.name", self.config.compute)[0])
        if local:
            local.lend = policy.model.lent
        return policy


def _split(items: Sequence[_Item], data: DataConfig, group: Callable[[Scene], str] | None = None) -> Parts[list[_Item]]:
    fractions = [1 - data.held_out - data.validation, data.validation, data.held_out]
    try:
        return Parts(*split_by_scene(items, fractions, data.split_seed, group))
    except ValueError as error:
        raise ConfigError(f"data.held_out: {error} (data.limit is {data.limit})") from None
