"""Tree files: what is written is read, a broken line is named, and a killed search ends as an undisturbed one."""

import json
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from examples.aflow_esc.dialogues import Dialogue, Scene
from examples.aflow_esc.environment import SupportEnvironment, SupportState
from examples.aflow_esc.roles.protocols import Roles, SeekerReply
from examples.aflow_esc.trees import TreeFileError, read, search_scenes, tree_seed, write
from numpy.typing import NDArray

from examples.aflow_esc.strategies import AFLOW
from gflowdial.search import SearchConfig, search

SCENES = [Scene(f"s{n}", f"situation {n}", "fear", "job", f"opening {n}, \u2028 ünicode") for n in range(7)]
CONFIG = SearchConfig(simulations=12, max_depth=3, rollout_length=1)


def draw(dialogue: Dialogue, salt: str) -> float:
    """A number in [0, 1) that hangs on the dialogue alone."""
    return zlib.crc32((salt + repr(dialogue)).encode()) / 2**32


class Hashed:
    """All four roles, each answering by a hash of the dialogue."""

    def __init__(self) -> None:
        self.dialogues_answered = 0

    def log_prior(self, dialogues: Sequence[Dialogue]) -> NDArray[np.float64]:
        weights = np.array([[0.1 + draw(d, name) for name in AFLOW.names] for d in dialogues])
        return np.log(weights / weights.sum(axis=1, keepdims=True))

    def reply(self, dialogues: Sequence[Dialogue], strategies: Sequence[str]) -> list[str]:
        self.dialogues_answered += len(dialogues)
        return [f"{strategy} {draw(d, strategy)}" for d, strategy in zip(dialogues, strategies, strict=True)]

    def respond(self, dialogues: Sequence[Dialogue]) -> list[SeekerReply]:
        numbers = [draw(d, "status") for d in dialogues]
        return [SeekerReply(f"{n}", "left" if n < 0.1 else "helped" if n < 0.3 else "continues") for n in numbers]

    def score(self, dialogues: Sequence[Dialogue]) -> NDArray[np.float64]:
        return np.array([[1 + 4 * draw(d, criterion) for criterion in "abcd"] for d in dialogues])


def environment(max_turns: int = 3) -> SupportEnvironment:
    roles = Hashed()
    return SupportEnvironment(Roles(roles, roles, roles, roles), AFLOW, max_turns)


def searched(path: Path, scenes: Sequence[Scene] = SCENES, **changes: Any) -> Path:
    settings: dict[str, Any] = {"environment": environment(), "seed": 5, "config": CONFIG, "batch_size": 2, **changes}
    search_scenes(scenes=scenes, path=path, **settings)
    return path


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return searched(tmp_path_factory.mktemp("trees") / "trees.jsonl")


def test_a_record_is_the_tree_that_was_found(undisturbed: Path) -> None:
    records = read(undisturbed)
    assert [record.scene for record in records] == SCENES
    for record in records:
        seeds = [tree_seed(5, record.scene.id)]
        found = search(environment(), [SupportState.begin(record.scene)], seeds, CONFIG)
        assert torch.equal(record.forest.parent, found.forest.parent)
        assert record.actions == found.action.tolist()
        for name in ("reward", "visits", "value", "ended"):
            assert [getattr(node, name) for node in record.nodes] == getattr(found, name).tolist()
        leaf_returns = [node.leaf_return for node in record.nodes if node.leaf_return is not None]
        assert leaf_returns == found.leaf_return.tolist()
        for index, (node, state) in enumerate(zip(record.nodes, found.states, strict=True)):
            assert record.dialogue(index) == state.dialogue
            assert node.status == state.status
            if node.prior is not None:
                np.testing.assert_allclose(np.log(node.prior), found.log_prior[index])


def test_writing_what_was_read_gives_the_same_bytes(undisturbed: Path, tmp_path: Path) -> None:
    write(read(undisturbed), tmp_path / "again.jsonl")
    assert (tmp_path / "again.jsonl").read_bytes() == undisturbed.read_bytes()


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_the_batch_size_does_not_matter(undisturbed: Path, tmp_path: Path, batch_size: int) -> None:
    again = searched(tmp_path / "again.jsonl", batch_size=batch_size)
    assert again.read_bytes() == undisturbed.read_bytes()


def test_a_tree_hangs_on_seed_and_scene_not_on_the_scenes_place(undisturbed: Path, tmp_path: Path) -> None:
    turned = read(searched(tmp_path / "turned.jsonl", SCENES[::-1]))
    assert turned[::-1] == read(undisturbed)
    assert read(searched(tmp_path / "other.jsonl", seed=6)) != read(undisturbed)


def test_a_killed_search_resumes_to_the_same_bytes(undisturbed: Path, tmp_path: Path) -> None:
    """Cut at the start and the end of every line, and amid it."""
    content = undisturbed.read_bytes()
    starts = [0, *(i + 1 for i, byte in enumerate(content) if byte == ord("\n"))]
    path = tmp_path / "trees.jsonl"
    for cut in sorted({c for start in starts for c in (start, start + 40, start - 1) if 0 <= c <= len(content)}):
        path.write_bytes(content[:cut])
        assert searched(path).read_bytes() == content


def test_a_resumed_search_forms_the_same_batches(tmp_path: Path) -> None:
    """A language model rounds by the size of the batch: a torn batch is done again as a whole."""

    class Rounding(Hashed):
        def score(self, dialogues: Sequence[Dialogue]) -> NDArray[np.float64]:
            return super().score(dialogues) * (1 - 1e-9 * len(dialogues)) + 1e-8

    roles = Rounding()
    env = SupportEnvironment(Roles(roles, roles, roles, roles), AFLOW, 3)
    path = searched(tmp_path / "trees.jsonl", environment=env, batch_size=4)
    content = path.read_bytes()
    for lines in range(len(SCENES) + 1):
        path.write_bytes(b"".join(line + b"\n" for line in content.split(b"\n")[:lines]))
        assert searched(path, environment=env, batch_size=4).read_bytes() == content


def test_finished_trees_are_not_searched_again(undisturbed: Path, tmp_path: Path) -> None:
    env = environment()
    roles: Any = env.roles.prior
    path = tmp_path / "trees.jsonl"
    path.write_bytes(undisturbed.read_bytes())
    told: list[tuple[int, int]] = []
    searched(path, environment=env, progress=lambda done, total: told.append((done, total)))
    assert roles.dialogues_answered == 0
    assert told == []
    path.write_bytes(b"".join(undisturbed.read_bytes().splitlines(keepends=True)[:4]))
    searched(path, environment=env, progress=lambda done, total: told.append((done, total)))
    assert roles.dialogues_answered > 0
    assert told[0] == (4 * 12 + 2, 7 * 12)
    assert told[-1] == (7 * 12, 7 * 12)


def test_batches_are_on_disk_as_they_finish(undisturbed: Path, tmp_path: Path) -> None:
    class KilledError(Exception):
        pass

    def kill(done: int, total: int) -> None:  # noqa: ARG001
        if done > 4 * 12:
            raise KilledError

    path = tmp_path / "trees.jsonl"
    with pytest.raises(KilledError):
        searched(path, progress=kill)
    assert read(path) == read(undisturbed)[:4]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 6}, "seed"),
        ({"config": SearchConfig(simulations=13, max_depth=3, rollout_length=1)}, "settings"),
        ({"environment": environment(max_turns=4)}, "settings"),
        ({"scenes": SCENES[1:] + SCENES[:1]}, "scene"),
        ({"scenes": SCENES[:3]}, "holds 7 trees for 3 scenes"),
    ],
)
def test_another_search_does_not_touch_the_file(
    undisturbed: Path, tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    path = tmp_path / "trees.jsonl"
    path.write_bytes(undisturbed.read_bytes())
    with pytest.raises(TreeFileError, match=named):
        searched(path, **changes)
    assert path.read_bytes() == undisturbed.read_bytes()


def test_scenes_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no scenes"):
        searched(tmp_path / "trees.jsonl", [])
    with pytest.raises(ValueError, match="s0"):
        searched(tmp_path / "trees.jsonl", [SCENES[0], SCENES[1], SCENES[0]])
    assert list(tmp_path.iterdir()) == []


def at(node: int, field: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(record: dict[str, Any]) -> None:
        record["nodes"][node][field] = value

    return change


BREAKS: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda r: r.pop("seed"), "seed: Field required"),
    (lambda r: r.update(surprise=1), "surprise: Extra inputs"),
    (lambda r: r.update(format=2), "format: Input should be 1"),
    (lambda r: r.update(inventory="nobody's"), "no strategy inventory"),
    (lambda r: r.update(nodes=[]), "nodes: List should have at least 1"),
    (lambda r: r["scene"].pop("opening"), "scene.opening: Field required"),
    (lambda r: r["scene"].update(opening="else"), "node 0: its text is not the scene's opening"),
    (lambda r: r["nodes"][1].pop("reward"), "nodes.1.reward: Field required"),
    (at(1, "reward", "0.5"), "nodes.1.reward: Input should be a valid number"),
    (at(1, "reward", float("nan")), "nodes.1.reward: Input should be a finite number"),
    (at(2, "value", float("inf")), "nodes.2.value: Input should be a finite number"),
    (at(1, "visits", 1.5), "nodes.1.visits: Input should be a valid integer"),
    (at(1, "strategy", "Mesmerism"), "node 1: unknown strategy 'Mesmerism'"),
    (at(1, "supporter", None), "node 1: the supporter's turn is missing"),
    (at(1, "status", "bored"), "nodes.1.status"),
    (at(0, "parent", 0), "node 0: the first node is the root"),
    (at(1, "parent", 1), "node 1: parent 1 makes no tree"),
    (at(1, "parent", -1), "node 1: parent -1 makes no tree"),
    (at(2, "parent", 99), "node 2: parent 99 makes no tree"),
    (at(0, "prior", [0.5] * 8), "node 0: the prior must be 8 probabilities"),
    (at(0, "leaf_return", 0.5), "node 0: leaf_return stands at leaves"),
]


@pytest.mark.parametrize(("change", "reason"), BREAKS)
def test_a_broken_line_is_named(
    undisturbed: Path, tmp_path: Path, change: Callable[[dict[str, Any]], Any], reason: str
) -> None:
    lines = undisturbed.read_text("utf-8").split("\n")
    record = json.loads(lines[2])
    change(record)
    lines[2] = json.dumps(record)
    path = tmp_path / "broken.jsonl"
    path.write_text("\n".join(lines), "utf-8")
    with pytest.raises(TreeFileError) as raised:
        read(path)
    assert str(raised.value).startswith(f"{path}, line 3: {reason}")
    with pytest.raises(TreeFileError, match="line 3"):
        searched(path)


def test_other_broken_files_are_named(undisturbed: Path, tmp_path: Path) -> None:
    lines = undisturbed.read_bytes().splitlines(keepends=True)
    path = tmp_path / "broken.jsonl"
    for content, reason in (
        (b"", "is empty"),
        (lines[0] + b"\n", "line 2: Invalid JSON"),
        (b"{not json\n", "line 1: Invalid JSON"),
        (lines[0] + lines[1][:50], "line 2: the line is torn"),
        (lines[0] + lines[1] + lines[0], "line 3: scene 's0' stands in line 1 already"),
    ):
        path.write_bytes(content)
        with pytest.raises(TreeFileError, match=reason):
            read(path)


def test_two_children_by_one_strategy_are_no_tree(undisturbed: Path, tmp_path: Path) -> None:
    record = json.loads(undisturbed.read_text("utf-8").split("\n")[0])
    record["nodes"].append(dict(record["nodes"][1]))
    path = tmp_path / "broken.jsonl"
    path.write_text(json.dumps(record) + "\n", "utf-8")
    with pytest.raises(TreeFileError, match="two children by"):
        read(path)
