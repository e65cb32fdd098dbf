"""Tree files: what is written is read, a broken line is named, and a killed search ends as an undisturbed one."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from test_mcts import State, Toy
from worlds import Chancy, Masked, same

from gflowdial.search import (
    FiledTree,
    SearchConfig,
    SearchTree,
    TreeFileError,
    enumerate_tree,
    read_trees_file,
    search,
    search_to_file,
    tree_seed,
    write_trees,
)

CONFIG = SearchConfig(simulations=12, max_depth=3, rollout_length=1)
NAMES = [f"s{n} \u2028 ünicode" for n in range(7)]


def encode(tree: SearchTree[State]) -> list[int]:
    """The last number of each state; the parent has the others."""
    return [state[-1] for state in tree.states]


def decode(values: Sequence[int], parent: Sequence[int]) -> list[State]:
    states: list[State] = []
    for value, above in zip(values, parent, strict=True):
        if not isinstance(value, int):
            raise ValueError(f"{value!r} is no number")
        states.append((value,) if above < 0 else (*states[above], value))
    return states


def searched(path: Path, names: Sequence[str] = NAMES, **changes: Any) -> Path:
    settings: dict[str, Any] = {"environment": Toy(), "seed": 5, "config": CONFIG, "batch_size": 2, **changes}
    seed, config = settings.pop("seed"), settings["config"]
    headers = [{"scene": {"id": name}, "settings": {"simulations": config.simulations}, "seed": seed} for name in names]
    roots, seeds = [(NAMES.index(name),) for name in names], [tree_seed(seed, name) for name in names]
    search_to_file(roots=roots, headers=headers, seeds=seeds, path=path, encode=encode, decode=decode, **settings)
    return path


def read(path: Path) -> list[FiledTree[State]]:
    return read_trees_file(path, decode)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return searched(tmp_path_factory.mktemp("trees") / "trees.jsonl")


def test_a_file_holds_the_trees_that_were_found(undisturbed: Path) -> None:
    filed = read(undisturbed)
    assert [line.header["scene"] for line in filed] == [{"id": name} for name in NAMES]
    for number, line in enumerate(filed):
        same(line.tree, search(Toy(), [(number,)], [tree_seed(5, NAMES[number])], CONFIG))


def chance_states(values: Sequence[State], parent: Sequence[int]) -> list[State]:  # noqa: ARG001
    return [tuple(value) for value in values]


@pytest.mark.parametrize("world", [Masked(3, 0.2), Chancy(3, 0.2, masking=0.3)])
def test_every_kind_of_tree_comes_back(world: Masked, tmp_path: Path) -> None:
    path = tmp_path / "trees.jsonl"
    config = SearchConfig(simulations=20, max_depth=2, rollout_length=2, keep_rollouts=True)
    found = search(world, [(0,), (1,)], [3, 4], config).split()
    small = enumerate_tree(type(world)(2, 0.7), [(0,)], max_nodes=10_000)
    trees = [*found, small]
    write_trees(path, [FiledTree({"n": n}, tree) for n, tree in enumerate(trees)], lambda tree: tree.states)
    back = read_trees_file(path, chance_states)
    for line, tree in zip(back, trees, strict=True):
        same(line.tree, tree)
    write_trees(tmp_path / "again.jsonl", back, lambda tree: tree.states)
    assert (tmp_path / "again.jsonl").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_the_batch_size_does_not_matter(undisturbed: Path, tmp_path: Path, batch_size: int) -> None:
    again = searched(tmp_path / "again.jsonl", batch_size=batch_size)
    assert again.read_bytes() == undisturbed.read_bytes()


def test_a_tree_depends_on_seed_and_scene_not_on_the_scenes_place(undisturbed: Path, tmp_path: Path) -> None:
    turned = searched(tmp_path / "turned.jsonl", NAMES[::-1]).read_bytes().splitlines()
    assert turned[::-1] == undisturbed.read_bytes().splitlines()
    assert searched(tmp_path / "other.jsonl", seed=6).read_bytes() != undisturbed.read_bytes()
    assert tree_seed(0, "a") == 14946763695692304074


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

    class Rounding(Toy):
        def step(self, states: Sequence[State], actions: NDArray[np.int64]) -> list[Any]:
            found = super().step(states, actions)
            return [replace(t, reward=t.reward * (1 - 1e-9 * len(states))) for t in found]

    path = searched(tmp_path / "trees.jsonl", environment=Rounding(), batch_size=4)
    content = path.read_bytes()
    for lines in range(len(NAMES) + 1):
        path.write_bytes(b"".join(line + b"\n" for line in content.split(b"\n")[:lines]))
        assert searched(path, environment=Rounding(), batch_size=4).read_bytes() == content


def test_finished_trees_are_not_searched_again(undisturbed: Path, tmp_path: Path) -> None:
    toy, path = Toy(), tmp_path / "trees.jsonl"
    path.write_bytes(undisturbed.read_bytes())
    told: list[tuple[int, int]] = []
    searched(path, environment=toy, progress=lambda done, total: told.append((done, total)))
    assert not toy.calls
    assert told == []
    path.write_bytes(b"".join(line + b"\n" for line in undisturbed.read_bytes().split(b"\n")[:4]))
    searched(path, environment=toy, progress=lambda done, total: told.append((done, total)))
    assert toy.calls
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
    assert path.read_bytes().split(b"\n")[:-1] == undisturbed.read_bytes().split(b"\n")[:4]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 6}, r"line 1: this tree's seed is 5, not 6: search with the settings"),
        ({"config": replace(CONFIG, simulations=13)}, r"settings is {'simulations': 12}, not {'simulations': 13}"),
        ({"names": NAMES[1:] + NAMES[:1]}, "this tree's scene is"),
        ({"names": NAMES[:3]}, "holds 7 trees for 3 roots"),
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


def test_roots_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "trees.jsonl"
    with pytest.raises(ValueError, match="no roots"):
        searched(path, [])
    with pytest.raises(ValueError, match=r"two roots have the header .*s0"):
        searched(path, [NAMES[0], NAMES[1], NAMES[0]])
    with pytest.raises(ValueError, match="1 roots, 0 headers and 1 seeds"):
        search_to_file(Toy(), [(0,)], [], [0], CONFIG, path, encode=encode, decode=decode)
    assert list(tmp_path.iterdir()) == []


def at(node: int, field: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(record: dict[str, Any]) -> None:
        record[field][node] = value

    return change


def more(**row: Any) -> Callable[[dict[str, Any]], None]:
    """One node more, node 1 again but for ``row``."""

    def change(record: dict[str, Any]) -> None:
        for name in record:
            if name not in ("format", "header"):
                record[name].append(row.get(name, record[name][1]))

    return change


def as_chance(record: dict[str, Any]) -> None:
    """The first leaf moves by chance, with two outcomes of probability 0.8 each."""
    leaf = next(node for node in range(1, len(record["parent"])) if node not in record["parent"])
    record["chance"][leaf], record["log_prior"][leaf], record["ended"][leaf] = True, None, False
    for _ in range(2):
        end = {"parent": leaf, "action": -1, "log_chance": float(np.log(0.8)), "ended": True, "log_prior": None}
        more(**end)(record)


BREAKS: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda r: r.pop("reward"), "reward is missing"),
    (lambda r: r.pop("format"), "format is missing"),
    (lambda r: r.pop("header"), "header is missing"),
    (lambda r: r.update(surprise=1), "surprise is no field"),
    (lambda r: r.update(format=1), "format is 1: this version reads format 2"),
    (lambda r: r.update(header=[]), "the line and its header must be JSON objects"),
    (lambda r: r.update({name: [] for name in r if name not in ("format", "header")}), "parent must be a list"),
    (lambda r: r["visits"].pop(), "visits must be a list with one entry per node"),
    (lambda r: r.update(value=3), "value must be a list"),
    (at(1, "reward", "0.5"), "node 1: reward is '0.5': it must be a finite float"),
    (at(1, "reward", float("nan")), "node 1: reward is nan: it must be a finite float"),
    (at(2, "value", float("inf")), "node 2: value is inf: it must be a finite float"),
    (at(1, "visits", 1.5), "node 1: visits is 1.5: it must be a finite int"),
    (at(1, "visits", True), "node 1: visits is True"),
    (at(1, "visits", 2**63), "node 1: visits is 9223372036854775808"),
    (at(1, "visits", 0), "node 1: visits is 0, below 1"),
    (at(1, "ended", 0), "node 1: ended is 0: it must be a finite bool"),
    (at(1, "action", 7), "node 1: unknown action 7: there are 4"),
    (at(1, "action", -1), "node 1: unknown action -1"),
    (at(0, "parent", 0), "node 0: the first node is the root"),
    (at(0, "action", 0), "node 0: the root is expanded, has action -1"),
    (at(0, "expanded", False), "node 0: the root is expanded"),
    (at(1, "parent", 1), "node 1: parent 1 makes no tree"),
    (at(1, "parent", -1), "node 1: parent -1 makes no tree"),
    (at(2, "parent", 99), "node 2: parent 99 makes no tree"),
    (at(0, "log_prior", [-0.7] * 4), "node 0: log_prior must be 4 log-probabilities"),
    (at(0, "log_prior", [0.0, None, None]), "node 1: log_prior must be 3 log-probabilities"),
    (at(0, "log_prior", [0.0, None, None, None]), "node 1: action 3 is forbidden by the prior of its parent 0"),
    (at(0, "log_prior", None), "node 0: log_prior is null at a node that is expanded and acts"),
    (at(0, "log_prior", ["a"] * 4), "node 0: log_prior must be 4"),
    (at(0, "ended", True), "node 0: the root is expanded, has action -1 and has not ended"),
    (at(1, "log_chance", -0.5), "node 1: log_chance is -0.5: it must be 0"),
    (at(1, "expanded", False), "node 4: it is expanded, and its parent 1 is not"),
    (more(), "node 13: its parent 0 has two children by action 3"),
    (at(1, "chance", True), "node 1: log_prior must be null where the node ended or chance moves"),
    (as_chance, "node 5: the probabilities of its outcomes do not sum to (0, 1]"),
    (at(1, "state", "x"), "state: 'x' is no number"),
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
    assert "resume the search" in str(raised.value)
    with pytest.raises(TreeFileError, match="line 3"):
        searched(path)


def test_what_stands_below_an_end_is_named(undisturbed: Path, tmp_path: Path) -> None:
    """An ended node with a child, and a state that could not be told apart."""
    record = json.loads(undisturbed.read_text("utf-8").split("\n")[0])
    inner = max(record["parent"])
    record["ended"][inner], record["log_prior"][inner] = True, None
    path = tmp_path / "broken.jsonl"
    path.write_text(json.dumps(record) + "\n", "utf-8")
    with pytest.raises(TreeFileError, match=f"its parent {inner} has ended"):
        read(path)
    path.write_bytes(undisturbed.read_bytes())
    with pytest.raises(TreeFileError, match="line 1: state: there are 1 states for"):
        read_trees_file(path, lambda values, parent: [(0,)])  # noqa: ARG005


def test_other_broken_files_are_named(undisturbed: Path, tmp_path: Path) -> None:
    lines = undisturbed.read_bytes().split(b"\n")
    path = tmp_path / "broken.jsonl"
    for content, reason in (
        (b"", "is empty"),
        (lines[0] + b"\n\n", "line 2: invalid JSON"),
        (b"{not json\n", "line 1: invalid JSON"),
        (b"\xff\n", "line 1: invalid JSON"),
        (b"[]\n", "line 1: the line and its header must be JSON objects"),
        (lines[0] + b"\n" + lines[1][:50], "line 2: the line is torn"),
        (b"\n".join([lines[0], lines[1], lines[0], b""]), "line 3: a tree of this header stands in line 1 already"),
    ):
        path.write_bytes(content)
        with pytest.raises(TreeFileError, match=reason):
            read(path)
