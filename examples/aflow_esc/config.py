"""The settings of a run: one YAML file, every key checked."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from examples.aflow_esc.strategies import inventory
from gflowdial.estimators.packing import Attention
from gflowdial.training.trees import Untried

Method = Literal[
    "behaviour_cloning",
    "trajectory_balance",
    "subtrajectory_balance",
    "afpo_released",
    "afpo_paper_edge",
    "afpo_paper_state",
    "afpo_anchored",
]
"""What a policy can be trained for; see `methods`."""


class ConfigError(ValueError):
    """Settings that cannot be used; the message names the file, the key and the way out."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _distinct(values: list[Any]) -> list[Any]:
    if repeated := sorted({value for value in values if values.count(value) > 1}):
        raise ValueError(f"{', '.join(map(str, repeated))} comes more than once; name each once")
    return values


def _known_inventory(name: str) -> str:
    return inventory(name).name


class DataConfig(_Section):
    """Which conversations, and how they are split.

    Attributes:
        source: ``"bundled"`` for the project's own scenes, else the path of a corpus file.
        held_out: the share of scenes kept for evaluation.
        split_seed: seed of the split, the same for all seeds of a run.
        limit: at most so many scenes in all; None takes them all.
        max_turns: recorded dialogues are cut after so many of the supporter's turns; None keeps them whole.
    """

    source: str = "bundled"
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.2
    split_seed: int = 0
    limit: Annotated[int, Field(ge=2)] | None = None
    max_turns: Annotated[int, Field(ge=1)] | None = None


class SimulatedRolesConfig(_Section):
    """Roles without a language model."""

    kind: Literal["simulated"]
    max_turns: Annotated[int, Field(ge=1, le=5)] = 4
    world_seed: int = 0


class LocalRolesConfig(_Section):
    """All roles played by one local language model."""

    kind: Literal["local"]
    model: str = "smollm2"
    max_turns: Annotated[int, Field(ge=1)] = 4
    max_new_tokens: Annotated[int, Field(ge=1)] = 24


class SearchConfigSection(_Section):
    """See `gflowdial.search.SearchConfig`; ``batch_size`` scenes are searched in lockstep."""

    simulations: Annotated[int, Field(ge=1)] = 10
    max_depth: Annotated[int, Field(ge=1)] = 10
    rollout_length: Annotated[int, Field(ge=0)] = 3
    kappa: Annotated[float, Field(ge=0)] = 0.1
    prior_weight: Annotated[float, Field(ge=0)] = 1.0
    batch_size: Annotated[int, Field(ge=1)] = 32


class TinyModelConfig(_Section):
    """A small causal transformer, trained from scratch on transcripts of the prior's own conversations."""

    kind: Literal["tiny"]
    hidden_size: Annotated[int, Field(ge=8)] = 64
    layers: Annotated[int, Field(ge=1)] = 2
    heads: Annotated[int, Field(ge=1)] = 4
    transcripts_per_scene: Annotated[int, Field(ge=1)] = 8
    epochs: Annotated[float, Field(gt=0)] = 4.0
    batch_size: Annotated[int, Field(ge=1)] = 16
    learning_rate: Annotated[float, Field(gt=0)] = 3e-3

    @model_validator(mode="after")
    def _check(self) -> "TinyModelConfig":
        # Rotary positions turn pairs of a head's numbers.
        if self.hidden_size % (2 * self.heads):
            raise ValueError(
                f"hidden_size {self.hidden_size} must be a multiple of twice the heads, here {2 * self.heads}"
            )
        return self


class PretrainedModelConfig(_Section):
    """A causal language model that exists already: ``"smollm2"``, or a folder that `transformers` can load."""

    kind: Literal["pretrained"]
    name: str = "smollm2"


class AdapterConfig(_Section):
    """LoRA; the paper's rank and alpha."""

    rank: Annotated[int, Field(ge=1)] = 32
    alpha: Annotated[int, Field(ge=1)] = 64


class TrainingConfig(_Section):
    """How policies are trained.

    Attributes:
        methods: which, by name; see `methods`.
        temperature: τ of the target R = exp(G/τ).
        untried: what becomes of strategies that the search never tried; see `gflowdial.training.trees.Untried`.
        floor: the share of ``untried: floor``.
        kl_weight: β of AFPO's faithful variants.
        ranking_weight: γ of AFPO's faithful variants.
        max_tokens: prefixes longer than this lose their earliest turns; a search tree that has one is refused.
        tokens_per_pass: how many tokens the language model reads at once; see `FlowTrainingArguments`.
        attention: how it attends along packed prefixes; see `gflowdial.estimators.packing.Attention`.
    """

    methods: Annotated[list[Method], Field(min_length=1), AfterValidator(_distinct)]
    epochs: Annotated[float, Field(gt=0)] = 3.0
    batch_size: Annotated[int, Field(ge=1)] = 4
    learning_rate: Annotated[float, Field(gt=0)] = 2e-5
    head_learning_rate: Annotated[float, Field(gt=0)] | None = None
    temperature: Annotated[float, Field(gt=0)] = 0.1
    decay: Annotated[float, Field(gt=0, le=1)] = 0.9
    untried: Untried = "masked"
    floor: Annotated[float, Field(gt=0)] = 0.1
    kl_weight: Annotated[float, Field(ge=0)] = 0.1
    ranking_weight: Annotated[float, Field(ge=0)] = 1.0
    max_tokens: Annotated[int, Field(ge=32)] = 1024
    tokens_per_pass: Annotated[int, Field(ge=1)] = 4096
    attention: Attention = "sdpa"


class EvaluationConfig(_Section):
    """How policies are evaluated.

    Attributes:
        episodes: conversations a scene and policy, where the outcome is sampled.
        search_simulations: simulations a turn of MCTS at test time; 0 leaves that row out.
    """

    episodes: Annotated[int, Field(ge=1)] = 8
    search_simulations: Annotated[int, Field(ge=0)] = 64


class ComputeConfig(_Section):
    """How many jobs run at once, and how many threads each has; fixed, so that results do not depend on the machine."""

    jobs: Annotated[int, Field(ge=1)] = 1
    threads: Annotated[int, Field(ge=1)] = 2


class RunConfig(_Section):
    """A whole run.

    Attributes:
        experiment: ``"conversation"`` learns from search in the roles' environment; ``"labels"`` learns from the
            strategies of recorded dialogues.
        seeds: every stage is done once for each.
        inventory: the strategies' inventory.
    """

    experiment: Literal["conversation", "labels"]
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**32)]], Field(min_length=1), AfterValidator(_distinct)]
    inventory: Annotated[str, AfterValidator(_known_inventory)] = "aflow"
    data: DataConfig = DataConfig()
    roles: Annotated[SimulatedRolesConfig | LocalRolesConfig, Field(discriminator="kind")] | None = None
    search: SearchConfigSection = SearchConfigSection()
    model: Annotated[TinyModelConfig | PretrainedModelConfig, Field(discriminator="kind")]
    adapter: AdapterConfig = AdapterConfig()
    training: TrainingConfig
    evaluation: EvaluationConfig = EvaluationConfig()
    compute: ComputeConfig = ComputeConfig()


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read and check a YAML file, with ``section.key=value`` overrides on top.

    Raises:
        ConfigError: the file is missing, no YAML mapping, or a key or value is wrong.
    """
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"there is no config file {path}: give the path of a YAML file") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}): give the path of a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(settings, dict):
        raise ConfigError(f"{path} must hold keys and values, as in the configs that come with the example")
    for override in overrides:
        _apply(settings, override)
    try:
        return RunConfig.model_validate(settings)
    except ValidationError as error:
        reasons = "; ".join(_reason(dict(problem)) for problem in error.errors(include_url=False))
        raise ConfigError(f"{path}: {reasons}") from None


def _apply(settings: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"override {override!r} must read section.key=value")
    *sections, last = key.split(".")
    for section in sections:
        if not isinstance(settings.setdefault(section, {}), dict):
            raise ConfigError(f"override {override!r}: {section} holds a value, not a section")
        settings = settings[section]
    try:
        settings[last] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise ConfigError(f"override {override!r}: the value is no YAML") from None


def _reason(problem: Mapping[str, Any]) -> str:
    # The tag of a union stands in the place of the error, but in no file.
    place = [str(part) for part in problem["loc"] if part not in ("simulated", "local", "tiny", "pretrained")]
    key = ".".join(place)
    if problem["type"] == "missing":
        return f"{key} is missing"
    if problem["type"] == "union_tag_not_found":
        return f"{key}.kind is missing"
    if problem["type"] == "union_tag_invalid":
        return f"{key}.kind: {problem['ctx']['tag']!r} is none of {problem['ctx']['expected_tags']}"
    if problem["type"] == "value_error":
        return f"{key}: {problem['ctx']['error']}"
    if problem["type"] != "extra_forbidden":
        return f"{key}: {problem['msg']}, not {problem['input']!r}"
    close = difflib.get_close_matches(place[-1], _known_keys(RunConfig), n=1)
    return f"{key}: no such key" + (f"; did you mean {close[0]!r}?" if close else "")


def _known_keys(section: type[BaseModel]) -> list[str]:
    keys = []
    for name, field in section.model_fields.items():
        keys.append(name)
        for part in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(part, type) and issubclass(part, BaseModel):
                keys.extend(_known_keys(part))
    return keys
