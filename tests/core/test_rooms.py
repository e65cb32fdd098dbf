"""Who may import whom, read from the source; and that importing the library stays cheap."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

LIBRARY = Path(__file__).parents[2] / "gflowdial"
HEAVY = {"transformers", "accelerate", "peft", "ray", "hypothesis", "torch_scatter", "sklearn", "scipy"}
# A module may import rooms of its own rank or lower ones.
RANK = {
    "shapes": 0,
    "precision": 0,
    "filters": 0,
    "forest": 1,
    "dag": 1,
    "segments": 2,
    "oracle": 3,
    "losses": 3,
    "estimators": 4,
    "envs": 5,
    "sampling": 5,
    "replay": 5,
    "search": 5,
    "training": 6,
    "metrics": 7,
    "testing": 7,
}
MODULES = sorted(LIBRARY.rglob("*.py"))


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


def test_importing_the_library_loads_nothing_heavy() -> None:
    check = (
        "import sys, gflowdial; from gflowdial import Forest, losses, oracle, segments; "
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    loaded = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout.split()
    assert not HEAVY & set(loaded)


def test_unknown_names_are_refused() -> None:
    import gflowdial

    with pytest.raises(AttributeError, match="nothing_here"):
        _ = gflowdial.nothing_here
