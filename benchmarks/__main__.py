"""Lists the benchmarks, or runs those that are named; ``all`` names every one.

Those that stand beside other libraries run in the environment that `make bench-peers` makes, $PEERS or .venv-peers.

Run: python -m benchmarks [NAME ... | all]
"""

import ast
import importlib
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

BESIDE_PEERS = ("environments", "loss", "torchgfn_agreement")


def suites() -> dict[str, str]:
    """The name and the first line of every module here that has a ``main``; read, not imported: some need peers."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        module = ast.parse(path.read_text())
        mains = [node for node in module.body if isinstance(node, ast.FunctionDef) and node.name == "main"]
        if mains and path.stem != "__main__":
            found[path.stem] = (ast.get_docstring(module) or "").split("\n")[0]
    return found


def main(names: list[str]) -> None:
    known = suites()
    if names == ["all"]:
        names = list(known)
    if unknown := [name for name in names if name not in known]:
        raise SystemExit(f"no benchmark is called {', '.join(unknown)}; there are {', '.join(known)}")
    if not names:
        for name, line in known.items():
            print(f"{name:20} {line}")
    for name in names:
        if name in BESIDE_PEERS and find_spec("gfn") is None:
            run_beside_peers(name)
        else:
            importlib.import_module(f"benchmarks.{name}").main()


def run_beside_peers(name: str) -> None:
    interpreter = Path(os.environ.get("PEERS", ".venv-peers")) / "bin" / "python"
    if not interpreter.exists():
        raise SystemExit(f"{name} stands beside other libraries, and there is no {interpreter}: run `make bench-peers`")
    subprocess.run([interpreter, "-m", "benchmarks", name], check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
