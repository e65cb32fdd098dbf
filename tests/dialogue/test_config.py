"""Settings: every wrong key or value gets one message with file, key and way out."""

from pathlib import Path
from typing import Any, Literal

import pytest
from one_file_tasks import SETTINGS
from refusals import settings_file

from gflowdial.dialogue.config import ConfigError, load_config, role_options
from gflowdial.dialogue.model_config import PretrainedModelConfig, TinyModelConfig
from gflowdial.dialogue.moves import Inventory
from gflowdial.dialogue.roles import Roles
from gflowdial.search import SearchConfig

CONFIGS = Path(__file__).parents[2] / "examples"


def config_file(folder: Path, **sections: Any) -> Path:
    return settings_file(folder, {**SETTINGS, **sections})


def section(name: str, **changes: Any) -> dict[str, Any]:
    return {name: {**SETTINGS[name], **changes}}


@pytest.mark.parametrize(
    "path", sorted([*CONFIGS.glob("*.yaml"), *CONFIGS.glob("*/configs/*.yaml")]), ids=lambda path: path.name
)
def test_the_configs_that_come_with_the_examples_are_valid(path: Path) -> None:
    load_config(path)


def test_what_is_not_named_has_its_default(tmp_path: Path) -> None:
    config = load_config(config_file(tmp_path))
    assert config.inventory is None
    assert config.training.decay == 0.9
    assert config.training.max_tokens == 512
    assert isinstance(config.model, TinyModelConfig)


@pytest.mark.parametrize(("given", "read"), [(0, []), (64, [64]), ([], []), ([16, 256], [16, 256])])
def test_search_at_test_time_has_a_list_of_simulations(tmp_path: Path, given: object, read: list[int]) -> None:
    config = load_config(config_file(tmp_path, **section("evaluation", search_simulations=given)))
    assert config.evaluation.search_simulations == read


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"sead": 1}, "sead: no such key; did you mean 'seeds'?"),
    (section("training", temprature=0.1), "training.temprature: no such key; did you mean 'temperature'?"),
    (section("training", zzz=0.1), "training.zzz: no such key"),
    (section("model", hiden_size=8), "model.hiden_size: no such key; did you mean 'hidden_size'?"),
    ({"training": None}, "training is missing"),
    ({"seeds": []}, "seeds: "),
    ({"seeds": [0, -1]}, "seeds.1: Input should be greater than or equal to 0, not -1"),
    ({"seeds": [3, 3, 4]}, "seeds: 3 comes more than once"),
    ({"seeds": "many"}, "seeds: Input should be a valid list, not 'many'"),
    ({"roles": {"max_turns": 2}}, "roles.kind is missing"),
    (section("roles", max_turns=0), "roles.max_turns: Input should be greater than or equal to 1, not 0"),
    (section("model", kind="huge"), "model.kind: 'huge' is none of 'tiny', 'pretrained'"),
    ({"roles": "simulated"}, "roles: "),
    (
        section("training", methods=["afpo_anchord"]),
        "training.methods.0: 'afpo_anchord' is the name of no method: choose",
    ),
    (section("training", methods=["flow_matching"]), "training.methods.0: 'flow_matching' is the name of no method"),
    (section("training", methods=["afpo_anchored"] * 2), "training.methods: afpo_anchored comes more than once"),
    (section("training", temperature=0), "training.temperature: Input should be greater than 0, not 0"),
    (section("training", temperature=float("inf")), "training.temperature: Input should be a finite number, not inf"),
    (section("training", temperature=float("nan")), "training.temperature: "),
    (section("training", decay=1.5), "training.decay: Input should be less than or equal to 1, not 1.5"),
    (section("training", epochs="three"), "training.epochs: Input should be a valid number"),
    (section("training", attention="flash"), "training.attention: Input should be 'sdpa' or 'flex'"),
    (section("model", heads=3), "model: hidden_size 16 must be a multiple of twice the heads, here 6"),
    (section("data", held_out=1), "data.held_out: Input should be less than 1, not 1"),
    (section("data", limit=1), "data.limit: Input should be greater than or equal to 2, not 1"),
    (section("search", simulations=2.5), "search.simulations: Input should be a valid integer"),
    (section("search", simulations=0), "search: simulations is 0: give at least 1"),
    (section("search", max_depth=0), "search: max_depth is 0: give at least 1"),
    (section("search", rollout_length=-1), "search: rollout_length is -1: give at least 0"),
    (section("search", kappa=-0.1), "search: kappa is -0.1: give a finite number, 0 or more"),
    (section("search", prior_weight=float("nan")), "search.prior_weight: Input should be a finite number, not nan"),
    (section("search", batch_size=0), "search.batch_size: Input should be greater than or equal to 1, not 0"),
    (section("search", simulation=4), "search.simulation: no such key; did you mean 'simulations'?"),
    (section("evaluation", episodes=0), "evaluation.episodes: Input should be greater than or equal to 1, not 0"),
    (section("evaluation", search_simulations=[4, 0]), "evaluation.search_simulations.1: Input should be greater"),
    (section("evaluation", search_simulations=[4, 4]), "evaluation.search_simulations: 4 comes more than once"),
    (section("compute", device="tpu"), "compute.device: "),
    (section("compute", dtype="int8"), "compute.dtype: Input should be 'float32', 'bfloat16' or 'float16', not 'int8'"),
]


@pytest.mark.parametrize(("sections", "message"), WRONG, ids=[message[:40] for _, message in WRONG])
def test_a_wrong_key_or_value_is_named(tmp_path: Path, sections: dict[str, Any], message: str) -> None:
    path = config_file(tmp_path, **sections)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


def test_all_that_is_wrong_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"seeds: .*; .*sead: no such key"):
        load_config(config_file(tmp_path, seeds=[], sead=1))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1", "is no YAML: "),
        (b"\xff\xfe\xfa", "is no YAML: "),
        (b"", "must hold keys and values"),
        (b"- a\n- b\n", "must hold keys and values"),
        (b"1: 2\n", "1: "),
    ],
)
def test_a_file_that_holds_no_settings_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no config file .*none.yaml"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match=r"cannot be read .*: give the path of a YAML file"):
        load_config(tmp_path)


def test_overrides_lie_on_top_of_the_file(tmp_path: Path) -> None:
    overrides = ["seeds=[7]", "training.temperature=0.3", "compute.jobs=2", "data.source=a=b", "data.limit=null"]
    config = load_config(config_file(tmp_path, compute=None), overrides)
    assert config.seeds == [7]
    assert config.training.temperature == 0.3
    assert config.training.epochs == 1
    assert config.compute.jobs == 2
    assert config.data.source == "a=b"
    assert config.data.limit is None


def test_an_override_may_choose_another_kind_of_model(tmp_path: Path) -> None:
    path = config_file(tmp_path, model={"kind": "tiny"})
    assert load_config(path, ["model.kind=pretrained"]).model == PretrainedModelConfig(kind="pretrained")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epochs", "override 'training.epochs' must read section.key=value"),
        ("=3", "must read section.key=value"),
        ("seeds.first=3", "seeds holds a value, not a section"),
        ("training.epochs=[", "the value is no YAML"),
        ("training.epoch=3", "training.epoch: no such key; did you mean 'epochs'?"),
    ],
)
def test_a_wrong_override_is_named(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(config_file(tmp_path), [override])
    assert message in str(caught.value)


def test_every_option_of_the_search_may_be_set(tmp_path: Path) -> None:
    options = {"simulations": 3, "max_depth": 4, "rollout_length": 0, "kappa": 0.5, "prior_weight": 2.0}
    section = load_config(config_file(tmp_path, search={**options, "keep_rollouts": True})).search
    assert SearchConfig(**section.model_dump(exclude={"batch_size"})) == SearchConfig(**options, keep_rollouts=True)


def make(inventory: Inventory, *, temper: float = 0.5, friends: int, mode: Literal["calm", "wild"] = "calm") -> Roles:
    """Roles of a kind whose options have types."""
    raise NotImplementedError


def test_options_of_roles_are_those_of_their_maker() -> None:
    assert role_options(make, {"friends": 2}) == {"temper": 0.5, "friends": 2, "mode": "calm"}
    assert role_options(make, {"friends": 0, "temper": 1, "mode": "wild"}) == {
        "temper": 1,
        "friends": 0,
        "mode": "wild",
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "roles.friends is missing"),
        ({"friends": 1, "tempre": 1.0}, "roles.tempre: no such key; did you mean 'temper'?"),
        ({"friends": 1, "max_turn": 3}, "roles.max_turn: no such key; did you mean 'max_turns'?"),
        ({"friends": 1, "inventory": "x"}, "roles.inventory: no such key"),
        ({"friends": 1.5}, "roles.friends: Input should be a valid integer"),
        ({"friends": 1, "temper": float("inf")}, "roles.temper: Input should be a finite number, not inf"),
        ({"friends": 1, "mode": "cross"}, "roles.mode: Input should be 'calm' or 'wild', not 'cross'"),
    ],
)
def test_a_wrong_option_of_roles_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        role_options(make, given)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
