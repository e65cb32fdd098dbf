"""Who may import whom, read from the source; files of a readable length; and that importing the library stays cheap."""

import ast
import importlib
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "gflowdial"
HEAVY = {"transformers", "accelerate", "peft", "ray", "hypothesis", "torch_scatter", "sklearn", "scipy"}
# A module may import rooms of its own rank or lower ones.
RANK = {
    "shapes": 0,
    "numerics": 0,
    "filters": 0,
    "faces": 0,
    "layouts": 1,
    "forest": 1,
    "dag": 1,
    "segments": 2,
    "oracle": 3,
    "losses": 3,
    "envs": 4,
    "estimators": 5,
    "sampling": 6,
    "replay": 6,
    "search": 6,
    "training": 7,
    "dialogue": 8,
    "metrics": 7,
    "testing": 8,
    "__main__": 9,
}
MODULES = sorted(LIBRARY.rglob("*.py"))
FACES = ["gflowdial", *sorted(f"gflowdial.{path.parent.name}" for path in LIBRARY.glob("*/__init__.py"))]
LONGEST = 400


def imports(path: Path) -> set[str]:
    """Every module that a file imports, wherever it does."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively; name the module in full"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room(path: Path) -> str:
    return path.relative_to(LIBRARY).with_suffix("").parts[0]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(LIBRARY)))
def test_imports_point_downwards(path: Path) -> None:
    if path == LIBRARY / "__init__.py":
        return
    assert room(path) in RANK, f"{path} stands in no room; give it a rank"
    for name in imports(path):
        top, *rest = name.split(".")
        assert top not in ("examples", "benchmarks"), f"{path} imports {name}"
        if top != "gflowdial":
            continue
        # `from gflowdial import Forest` names the class, which lives in the room `forest`.
        target = "forest" if rest[0] == "Forest" else rest[0]
        assert RANK[target] <= RANK[room(path)], f"{path} imports {name}, which stands above it"


def test_no_imports_go_in_circles() -> None:
    """Nor do those of type checkers; only the faces that load lazily look up at what they show."""
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in MODULES
    }
    lazy = {name for name, path in modules.items() if "lazy_face(__name__" in path.read_text()}
    graph = {}
    for name, path in modules.items():
        named = {target if target in modules else target.rpartition(".")[0] for target in imports(path)}
        # `from package import name` runs the package, and the module of that name if there is one.
        graph[name] = set() if name in lazy else named & modules.keys() - {name}
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("folder", ["gflowdial", "examples", "benchmarks"])
def test_no_file_is_too_long_to_read(folder: str) -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in (ROOT / folder).rglob("*.py")}
    assert not {str(path): length for path, length in lengths.items() if length > LONGEST}


def test_importing_the_library_loads_nothing_heavy() -> None:
    check = (
        "import sys, gflowdial; from gflowdial import Forest, losses, oracle, segments; "
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    loaded = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout.split()
    assert not HEAVY & set(loaded)


def test_every_room_shows_its_face() -> None:
    check = (
        "import gflowdial; assert gflowdial.envs.Hypergrid and gflowdial.sampling.sample_forward and gflowdial.Dag; "
        "assert gflowdial.replay.Replay and gflowdial.training.train and gflowdial.metrics.total_variation; "
        "assert gflowdial.numerics.masked_log_softmax is gflowdial.estimators.masked_log_softmax"
    )
    subprocess.run([sys.executable, "-c", check], check=True)


@pytest.mark.parametrize("name", FACES)
def test_what_a_face_lists_is_there(name: str) -> None:
    face = importlib.import_module(name)
    assert set(getattr(face, "__all__", ())) <= set(dir(face))
    for shown in getattr(face, "__all__", ()):
        assert getattr(face, shown) is not None
    with pytest.raises(AttributeError, match=f"'{name}' has no attribute 'nothing_here'"):
        _ = face.nothing_here
