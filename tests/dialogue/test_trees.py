"""Dialogues in tree files: states come back, what does not fit is named, and another search is not taken for this."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from small_world import MASKED, MOVES, TASK, Hashed, environment, scenes

from gflowdial.dialogue.config import RunConfig
from gflowdial.dialogue.environment import DialogueState
from gflowdial.dialogue.runs import Run, RunError
from gflowdial.dialogue.searching import read_run_trees, search_all, search_config
from gflowdial.dialogue.setting import Setting
from gflowdial.dialogue.task import Task
from gflowdial.dialogue.trees import check_moves, decode_states, encode_states
from gflowdial.search import (
    FiledTree,
    SearchConfig,
    SearchTree,
    TreeFileError,
    enumerate_tree,
    read_trees_file,
    search,
    tree_seed,
    write_trees,
)

CONFIG = SearchConfig(simulations=12, max_depth=3, rollout_length=1)
SETTINGS: dict[str, Any] = {
    "task": "small_world:TASK",
    "experiment": "conversation",
    "seeds": [5],
    "data": {"held_out": 0.3},
    "roles": {"kind": "hashed", "max_turns": 3},
    "search": {"simulations": 12, "max_depth": 3, "rollout_length": 1, "batch_size": 2},
    "model": {"kind": "tiny"},
    "training": {"methods": ["behaviour_cloning"]},
}


def setting(**changes: Any) -> Setting:
    return Setting(RunConfig.model_validate({**SETTINGS, **changes}))


def searched(folder: Path, **changes: Any) -> tuple[Run, Setting]:
    here = setting(**changes)
    run = Run(folder, here.config)
    search_all(run, here, lambda *_: None)
    return run, here


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run, _ = searched(tmp_path_factory.mktemp("run"))
    return run.trees(5)


def placed(content: bytes, folder: Path) -> Path:
    """A run's folder that holds these trees."""
    path = Run(folder, setting().config).trees(5)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("task", [TASK, MASKED])
@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("rollouts", [False, True])
def test_states_come_back(task: Task, stochastic: bool, rollouts: bool, tmp_path: Path) -> None:
    world = environment(task, stochastic=stochastic)
    config = replace(CONFIG, keep_rollouts=rollouts)
    roots = [DialogueState.begin(scene) for scene in scenes()]
    found = search(world, roots, range(7), config)
    trees = [*found.split(), enumerate_tree(world, roots[:1])]
    for tree in trees:
        values = json.loads(json.dumps(encode_states(tree)))
        assert tuple(decode_states(values, tree.forest.parent.tolist(), task)) == tree.states
        check_moves(tree, MOVES)
    filed = [FiledTree({"number": number}, tree) for number, tree in enumerate(trees)]
    write_trees(tmp_path / "trees.jsonl", filed, encode_states)
    back = read_trees_file(tmp_path / "trees.jsonl", partial(decode_states, task=task))
    assert [line.tree.states for line in back] == [tree.states for tree in trees]
    write_trees(tmp_path / "again.jsonl", back, encode_states)
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "trees.jsonl").read_bytes()


def test_a_run_s_trees_are_those_that_were_found(undisturbed: Path) -> None:
    here = setting()
    train = here.scenes.train
    trees = read_run_trees(Run(undisturbed.parents[1], here.config), here, 5)
    assert [tree.states[0].dialogue.scene for tree in trees] == train
    assert search_config(here) == CONFIG
    for scene, tree in zip(train, trees, strict=True):
        found = search(environment(), [DialogueState.begin(scene)], [tree_seed(5, scene.id)], CONFIG)
        assert tree.states == found.states
        assert torch.equal(tree.forest.parent, found.forest.parent)
        for name in ("action", "reward", "visits", "value", "ended", "log_prior", "leaf_return"):
            torch.testing.assert_close(getattr(tree, name), getattr(found, name), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_the_batch_size_does_not_matter(undisturbed: Path, tmp_path: Path, batch_size: int) -> None:
    run, _ = searched(tmp_path, search={**SETTINGS["search"], "batch_size": batch_size})
    assert run.trees(5).read_bytes() == undisturbed.read_bytes()


def test_a_killed_search_resumes_to_the_same_bytes(undisturbed: Path, tmp_path: Path) -> None:
    content = undisturbed.read_bytes()
    starts = [0, *(i + 1 for i, byte in enumerate(content) if byte == ord("\n"))]
    for cut in sorted({c for start in starts for c in (start, start + 40, start - 1) if 0 <= c <= len(content)}):
        path = placed(content[:cut], tmp_path)
        searched(tmp_path)
        assert path.read_bytes() == content


def test_finished_trees_are_not_searched_again(undisturbed: Path, tmp_path: Path) -> None:
    here = setting()
    roles: Any = here.roles.prior
    assert isinstance(roles, Hashed)
    run = Run(tmp_path, here.config)
    told: list[tuple[str, int, int]] = []
    placed(undisturbed.read_bytes(), tmp_path)
    search_all(run, here, lambda *what: told.append(what))
    assert roles.dialogues_answered == 0
    assert told == []
    placed(b"".join(undisturbed.read_bytes().splitlines(keepends=True)[:4]), tmp_path)
    search_all(run, here, lambda *what: told.append(what))
    assert roles.dialogues_answered > 0
    assert told[0] == ("simulations, seed 5", 4 * 12 + 1, 5 * 12)
    assert told[-1] == ("simulations, seed 5", 5 * 12, 5 * 12)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"search": {**SETTINGS["search"], "simulations": 13}}, r"search is .*'simulations': 12"),
        ({"roles": {"kind": "hashed", "max_turns": 4}}, "this tree's search is"),
        ({"roles": {"kind": "random", "max_turns": 3}}, "this tree's roles is"),
        ({"task": "small_world:MASKED"}, "this tree's task is 'small', not 'masked'"),
        ({"data": {"held_out": 0.3, "split_seed": 1}}, "this tree's scene is"),
        ({"data": {"held_out": 0.7}}, "holds 5 trees for 2 roots"),
    ],
)
def test_another_search_does_not_touch_the_file(
    undisturbed: Path, tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    path = placed(undisturbed.read_bytes(), tmp_path)
    with pytest.raises(TreeFileError, match=named):
        searched(tmp_path, **changes)
    assert path.read_bytes() == undisturbed.read_bytes()


def test_trees_must_be_those_of_the_training_scenes(undisturbed: Path, tmp_path: Path) -> None:
    here = setting()
    run = Run(tmp_path, here.config)
    with pytest.raises(RunError, match="is missing: search first"):
        read_run_trees(run, here, 5)
    placed(b"".join(undisturbed.read_bytes().splitlines(keepends=True)[:4]), tmp_path)
    with pytest.raises(RunError, match="holds 4 trees, not one for each of the 5 training scenes"):
        read_run_trees(run, here, 5)


def at(node: int, **changes: Any) -> Callable[[dict[str, Any]], None]:
    def change(record: dict[str, Any]) -> None:
        record["state"][node].update(changes)

    return change


SPOKEN, HEARD = ["agent", "Ask 0.1", "Ask"], ["partner", "0.5", None]
BREAKS: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda r: r["state"][0].pop("scene"), "state: the state of the root needs a scene"),
    (lambda r: r["state"][0]["scene"].pop("opening"), r"state: the scene of the root: missing .* \['opening'\]"),
    (lambda r: r["state"][0]["scene"].update(mood=1), r"state: the scene of the root: missing .* \['mood'\]"),
    (lambda r: r["state"][0]["scene"].update(floor="x"), "state: the scene of the root: field 'floor' must be a whole"),
    (lambda r: r["state"][0]["scene"].update(opening="else"), "node 0: its text is not the scene's opening"),
    (lambda r: r["state"][1].pop("turns"), "state: node 1: its state needs turns"),
    (lambda r: r["state"].__setitem__(1, 7), "state: node 1: its state needs turns"),
    (at(1, status="bored"), "state: node 1: .* a status of 'continues', 'helped', 'left'"),
    (at(1, status=None), "state: node 1: .* a status of"),
    (at(1, turns=[["nobody", "Hm.", None], HEARD]), "state: node 1: its state needs turns"),
    (at(1, turns=[["agent", 3, "Ask"], HEARD]), "state: node 1: its state needs turns"),
    (at(1, turns=[["agent", "Hm."], HEARD]), "state: node 1: its state needs turns"),
    (at(1, turns=[["agent", "Hm.", "Mesmerise"], HEARD]), "node 1: its move is 'Mesmerise', but its action"),
    (at(1, turns=[["agent", "Hm.", None], HEARD]), "node 1: its move is None, but its action"),
    (at(1, turns=[HEARD]), "node 1: "),
    (at(1, turns=[]), "node 1: "),
    (at(1, turns=[SPOKEN, HEARD, SPOKEN, HEARD]), "node 1: "),
    (at(1, turns=[HEARD, SPOKEN]), "node 1: "),
    (lambda r: r["action"].__setitem__(1, (r["action"][1] + 1) % 3), "node"),
]


@pytest.mark.parametrize(("change", "reason"), BREAKS)
def test_a_broken_line_is_named(
    undisturbed: Path, tmp_path: Path, change: Callable[[dict[str, Any]], Any], reason: str
) -> None:
    lines = undisturbed.read_text("utf-8").split("\n")
    record = json.loads(lines[2])
    change(record)
    lines[2] = json.dumps(record)
    path = placed("\n".join(lines).encode(), tmp_path)
    here = setting()
    with pytest.raises(TreeFileError, match=f"line 3: {reason}") as raised:
        read_run_trees(Run(tmp_path, here.config), here, 5)
    assert str(raised.value).startswith(f"{path}, line 3: ")
    assert "search" in str(raised.value)


def test_a_wrong_move_is_refused_below_chance_too() -> None:
    tree = search(environment(stochastic=True), [DialogueState.begin(scenes()[0])], [0], CONFIG)
    check_moves(tree, MOVES)
    wrong = replace(tree, action=torch.where(tree.chance, (tree.action + 1) % 3, tree.action))
    with pytest.raises(ValueError, match=r"its move is '.*', but its action '"):
        check_moves(wrong, MOVES)


def test_a_status_that_ends_means_that_the_node_has_ended() -> None:
    tree = search(environment(), [DialogueState.begin(scenes()[0])], [0], CONFIG)
    inner = int((tree.forest.num_children > 0).nonzero()[1])
    states = tuple(replace(s, status="helped") if n == inner else s for n, s in enumerate(tree.states))
    with pytest.raises(ValueError, match=f"node {inner}: its status is 'helped', so it has ended"):
        check_moves(replace(tree, states=states), MOVES)


def test_trees_of_several_scenes_keep_their_states_apart() -> None:
    found = search(environment(), [DialogueState.begin(scene) for scene in scenes()], range(7), CONFIG)
    values = encode_states(found)
    assert sum("scene" in value for value in values) == 7
    assert tuple(decode_states(values, found.forest.parent.tolist(), TASK)) == found.states
    assert isinstance(found, SearchTree)
