"""Lists the benchmarks, or runs those that are named.

Run: python -m benchmarks [NAME ...]
"""

import ast
import importlib
import sys
from pathlib import Path


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
    if unknown := [name for name in names if name not in known]:
        raise SystemExit(f"no benchmark is called {', '.join(unknown)}; there are {', '.join(known)}")
    if not names:
        for name, line in known.items():
            print(f"{name:20} {line}")
    for name in names:
        importlib.import_module(f"benchmarks.{name}").main()


if __name__ == "__main__":
    main(sys.argv[1:])
