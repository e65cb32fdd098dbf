"""The settings of a run: one YAML file, every key checked."""

import difflib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
    model_validator,
)

from gflowdial.dialogue.data_config import DataConfig, Section
from gflowdial.dialogue.model_config import AdapterConfig, PretrainedModelConfig, TinyModelConfig
from gflowdial.dialogue.task import RoleMaker
from gflowdial.estimators.packing import Attention
from gflowdial.search import SearchConfig
from gflowdial.training.methods import method
from gflowdial.training.trees import Untried


class ConfigError(ValueError):
    """Settings that cannot be used; the message names the file, the key and the way out."""


def _distinct(values: list[Any]) -> list[Any]:
    if repeated := sorted({value for value in values if values.count(value) > 1}):
        raise ValueError(f"{', '.join(map(str, repeated))} comes more than once; name each once")
    return values


def _listed(value: Any) -> Any:
    """Settings of earlier versions hold one number, 0 for none."""
    return [value] * (value != 0) if isinstance(value, int) else value


def _known_method(name: str) -> str:
    loss, at, temperature = name.partition("@")
    method(loss)
    if at and not (temperature.replace(".", "", 1).isdecimal() and float(temperature) > 0):
        raise ValueError(f"{name!r} asks for the temperature {temperature!r}: write METHOD@τ with a number above 0")
    return name


def at_temperature(name: str, default: float) -> tuple[str, float]:
    """The method and the τ of an entry of ``training.methods``, METHOD or METHOD@τ."""
    loss, _, temperature = name.partition("@")
    return loss, float(temperature or default)


class RolesConfig(Section):
    """Who plays whom; the other keys are the options of the kind.

    Attributes:
        kind: a kind of roles of the task, or ``"local"``: one local language model in all roles.
        max_turns: how many turns the agent may take; the task's own number where not given.
    """

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    kind: str
    max_turns: Annotated[int, Field(ge=1)] | None = None


class _SearchBase(Section):
    batch_size: Annotated[int, Field(ge=1)] = 32

    @model_validator(mode="after")
    def _check(self) -> "_SearchBase":
        SearchConfig(**self.model_dump(exclude={"batch_size"}))
        return self


if TYPE_CHECKING:
    SearchSection: TypeAlias = _SearchBase
else:
    # The keys are the fields of `SearchConfig`, whatever they are.
    SearchSection = create_model(
        "SearchSection",
        __base__=_SearchBase,
        __doc__="The fields of `gflowdial.search.SearchConfig`; ``batch_size`` scenes are searched in lockstep.",
        **{field.name: (field.type, field.default) for field in fields(SearchConfig)},
    )


class TrainingConfig(Section):
    """How policies are trained.

    Attributes:
        methods: which, by name: one of `gflowdial.training.methods`, or a loss of `gflowdial.losses`; METHOD@τ trains
            for a target of its own.
        start: the method whose policy training goes on from, as from METHOD to METHOD@τ; None: the language model.
        tuning: ``"adapter"`` trains LoRA on the language model, ``"full"`` all its weights.
        temperature: τ of the target R = exp(G/τ).
        rollouts: trajectories of the policy in training, per scene and step, that join the scene's tree; 0 for none. A
            method that learns on policy learns from them alone.
        epsilon: the share of uniform exploration in rollouts that join trees.
        replay: how many trajectories of a scene's tree a step looks at beside new ones; None: all.
        replay_priority: β of the replay: half of the probability is even, half in proportion to exp(β·G).
        rounds: how often trees are searched and trained on. From the second round on, the policy that was learned so
            far is the prior of the search, and the new trees join the old ones.
        evaluations: how often in a training the loss on the validation scenes is computed, and, where conversations can
            be enumerated, what the policy makes of validation and of training scenes. The weights that are best on
            validation scenes are kept: of the least total variation where it is known, else of the least loss; of a
            method that learns on policy those of the greatest return. 0, or no validation scenes: the last weights.
        patience: after how many evaluations without better weights training stops; None: never.
        untried: what becomes of moves that the search never tried; see `gflowdial.training.trees.Untried`.
        floor: the share of ``untried: floor``.
        outcome: whether the return of a recorded dialogue is its outcome, as its file rates it, instead of 1; dialogues
            without a rating are left out of training then.
        kl_weight: β of AFPO's faithful variants.
        ranking_weight: γ of AFPO's faithful variants.
        max_tokens: prefixes longer than this lose their earliest turns; a search tree that has one is refused.
        tokens_per_pass: how many tokens the language model reads at once; see `FlowTrainingArguments`.
        attention: how it attends along packed prefixes; see `gflowdial.estimators.packing.Attention`.
        each: by method, the settings of this section that it has for itself.
    """

    methods: Annotated[
        list[Annotated[str, AfterValidator(_known_method)]], Field(min_length=1), AfterValidator(_distinct)
    ]
    epochs: Annotated[float, Field(gt=0)] = 3.0
    batch_size: Annotated[int, Field(ge=1)] = 4
    start: str | None = None
    tuning: Literal["adapter", "full"] = "adapter"
    learning_rate: Annotated[float, Field(gt=0)] = 2e-5
    head_learning_rate: Annotated[float, Field(gt=0)] | None = None
    temperature: Annotated[float, Field(gt=0)] = 0.1
    decay: Annotated[float, Field(gt=0, le=1)] = 0.9
    rollouts: Annotated[int, Field(ge=0)] = 0
    epsilon: Annotated[float, Field(ge=0, le=1)] = 0.1
    replay: Annotated[int, Field(ge=1)] | None = None
    replay_priority: Annotated[float, Field(ge=0)] = 0.0
    rounds: Annotated[int, Field(ge=1)] = 1
    evaluations: Annotated[int, Field(ge=0)] = 0
    patience: Annotated[int, Field(ge=1)] | None = None
    untried: Untried = "free"
    floor: Annotated[float, Field(gt=0)] = 0.1
    outcome: bool = False
    kl_weight: Annotated[float, Field(ge=0)] = 0.1
    ranking_weight: Annotated[float, Field(ge=0)] = 1.0
    max_tokens: Annotated[int, Field(ge=32)] = 1024
    tokens_per_pass: Annotated[int, Field(ge=1)] = 4096
    attention: Attention = "sdpa"
    each: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> "TrainingConfig":
        for name, own in self.each.items():
            if name not in self.methods:
                raise ValueError(f"each: {name!r} is none of the methods: choose one of {', '.join(self.methods)}")
            if wrong := {"methods", "each", "tuning", "max_tokens", "attention"} & {*own}:
                raise ValueError(f"each.{name}: {', '.join(sorted(wrong))} is the same for all methods")
            self.of(name)
        if self.start is not None and len(self.methods) > 1:
            raise ValueError("start is of one method: give it in `each`")
        for name in self.each:
            started = [name]
            while (start := self.of(started[-1]).start) is not None:
                if start not in self.methods or start in started:
                    raise ValueError(f"start of {name!r} is {start!r}: name another of the methods, and no circle")
                started.append(start)
        return self

    def of(self, method: str) -> "TrainingConfig":
        """The section as it is for one method."""
        own = self.each.get(method, {})
        return (
            TrainingConfig.model_validate({**self.model_dump(exclude={"each"}), **own, "methods": [method]})
            if own
            else self
        )


class WishesConfig(Section):
    """What a policy is wished for, where it is to serve many wishes; see `gflowdial.dialogue.wishes.Wishes`.

    Attributes:
        temperatures: the least and the greatest τ.
        weights: whether the weights of the criteria are wished too.
        per_step: how many wishes a pass of training is read at.
    """

    temperatures: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]
    weights: bool = False
    per_step: Annotated[int, Field(ge=1)] = 4


class EvaluationConfig(Section):
    """How policies are evaluated.

    Attributes:
        episodes: conversations a scene and policy, where the outcome is sampled.
        search_simulations: simulations per turn of MCTS at test time, a row each; an empty list leaves search out.
        write_dialogues: whether played dialogues, or predictions of labels, are written beside the results.
    """

    episodes: Annotated[int, Field(ge=1)] = 8
    search_simulations: Annotated[
        list[Annotated[int, Field(ge=1)]], BeforeValidator(_listed), AfterValidator(_distinct)
    ] = [64]  # noqa: RUF012 (pydantic copies it)
    write_dialogues: bool = False


class ComputeConfig(Section):
    """Where and how things are computed.

    Attributes:
        jobs: how many jobs run at once.
        threads: how many threads each has; fixed, so that results do not depend on the machine.
        device: where language models are: ``"cpu"``, ``"cuda"``, ``"cuda:1"``…; ``"auto"`` is a GPU where there is one.
        dtype: in what precision language models compute in the roles, in play, evaluation and chat.
    """

    jobs: Annotated[int, Field(ge=1)] = 1
    threads: Annotated[int, Field(ge=1)] = 2
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")] = "auto"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"


class RunConfig(Section):
    """A whole run.

    Attributes:
        task: the task as ``module:object``; the command line's ``--task`` says it too.
        experiment: ``"conversation"`` learns from search in the roles' environment; ``"labels"`` learns from the moves
            of recorded dialogues.
        seeds: every stage is done once for each.
        inventory: the name of the inventory; the task's first where not given.
        wishes: what one policy is trained for beside ``training.temperature``, at which it is evaluated.
    """

    task: str | None = None

    experiment: Literal["conversation", "labels"]
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**32)]], Field(min_length=1), AfterValidator(_distinct)]
    inventory: str | None = None
    data: DataConfig = DataConfig()
    roles: RolesConfig | None = None
    search: SearchSection = SearchSection()
    model: Annotated[TinyModelConfig | PretrainedModelConfig, Field(discriminator="kind")]
    adapter: AdapterConfig = AdapterConfig()
    training: TrainingConfig
    wishes: WishesConfig | None = None
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
        raise ConfigError(f"{path} must hold keys and values, one per line")
    for override in overrides:
        _apply(settings, override)
    try:
        return RunConfig.model_validate(settings)
    except ValidationError as error:
        reasons = "; ".join(_reason(dict(problem)) for problem in error.errors(include_url=False))
        raise ConfigError(f"{path}: {reasons}") from None


def with_overrides(config: RunConfig, overrides: Mapping[str, Any]) -> RunConfig:
    """The settings with other values of some keys, as ``{"training.epochs": 2}``.

    Raises:
        ConfigError: a key or value is wrong.
    """
    settings = config.model_dump(mode="json")
    for key, value in overrides.items():
        _set(settings, key, value)
    try:
        return RunConfig.model_validate(settings)
    except ValidationError as error:
        reasons = "; ".join(_reason(dict(problem)) for problem in error.errors(include_url=False))
        raise ConfigError(f"overrides {dict(overrides)}: {reasons}") from None


def _apply(settings: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"override {override!r} must read section.key=value")
    try:
        _set(settings, key, yaml.safe_load(value))
    except yaml.YAMLError:
        raise ConfigError(f"override {override!r}: the value is no YAML") from None


def _set(settings: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        if not isinstance(settings.setdefault(section, {}), dict):
            raise ConfigError(f"override {f'{key}={value}'!r}: {section} holds a value, not a section")
        settings = settings[section]
    settings[last] = value


def role_options(make: RoleMaker, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a kind of roles, checked against the maker's signature.

    Raises:
        ConfigError: an option is unknown or has a wrong value.
    """
    options: dict[str, Any] = {
        name: (parameter.annotation, ... if parameter.default is parameter.empty else parameter.default)
        for name, parameter in inspect.signature(make, eval_str=True).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    form = create_model(
        "RoleOptions",
        __config__=ConfigDict(extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True),
        **options,
    )
    try:
        checked = form.model_validate(dict(given))
    except ValidationError as error:
        raise ConfigError(
            "; ".join(_reason(dict(p), "roles.", form) for p in error.errors(include_url=False))
        ) from None
    return {name: getattr(checked, name) for name in options}


def _reason(problem: Mapping[str, Any], section: str = "", form: type[BaseModel] | None = None) -> str:
    # The tag of a union stands in the place of the error, but in no file.
    place = [str(part) for part in problem["loc"] if part not in ("tiny", "pretrained")]
    key = section + ".".join(place)
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
    # Options of a kind of roles stand beside the keys that every kind has.
    known = _known_keys(RunConfig) if form is None else _known_keys(form) + _known_keys(RolesConfig)
    close = difflib.get_close_matches(place[-1], known, n=1)
    return f"{key}: no such key" + (f"; did you mean {close[0]!r}?" if close else "")


def _known_keys(section: type[BaseModel]) -> list[str]:
    keys = []
    for name, field in section.model_fields.items():
        keys.append(name)
        for part in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(part, type) and issubclass(part, BaseModel):
                keys.extend(_known_keys(part))
    return keys
