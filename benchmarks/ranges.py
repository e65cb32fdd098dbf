"""Whether the tests of language models pass with the lowest and the newest versions that `pyproject.toml` allows.

Each pair of versions of transformers and peft is installed into an environment of its own, under `.ranges/`, with the
torch of `constraints.txt`. Half an hour; run it before a release.

Run: python -m benchmarks ranges
"""

import json
import re
import subprocess
import sys
import venv
from pathlib import Path

from benchmarks.provenance import write_results, write_table
from benchmarks.tables import table

ROOT = Path(__file__).parent.parent
PACKAGES = ("transformers", "peft")
TESTS = ("tests/estimators", "tests/training", "tests/dialogue")


def lowest(package: str) -> str:
    """The version at which the range of ``package`` in `pyproject.toml` starts."""
    found = re.search(rf'"{package}>=([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    if found is None:
        raise ValueError(f"pyproject.toml gives no lowest version of {package}")
    return found[1]


def environment(name: str, wanted: list[str]) -> Path:
    """The interpreter of an environment in which the project is installed with these requirements."""
    folder = ROOT / ".ranges" / name
    python = folder / "bin" / "python"
    venv.create(folder, with_pip=True, clear=True)
    (torch,) = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch==")]
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, torch], check=True)
    subprocess.run([*install, torch, *wanted, "--editable", f"{ROOT}[dev]"], check=True)
    return python


def installed(python: Path) -> dict[str, str]:
    """The versions in an environment."""
    listed = subprocess.run([python, "-m", "pip", "list", "--format", "json"], check=True, capture_output=True)
    versions = {each["name"]: each["version"] for each in json.loads(listed.stdout)}
    return {package: versions[package] for package in ("torch", *PACKAGES)}


def tested(python: Path) -> tuple[str, list[str]]:
    """The last line of the tests, and the names of those that fail."""
    command = [str(python), "-m", "pytest", "-q", "-n", "auto", "-p", "no:cacheprovider", "-m", "not slow", *TESTS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines() or [done.stderr.strip()[-200:]]
    failed = [line.split(" - ")[0].split()[1] for line in lines if line.startswith(("FAILED", "ERROR"))]
    return lines[-1].strip("= "), failed


def main() -> None:
    rows, results = [], []
    for name, wanted in {
        "lowest": [f"{package}=={lowest(package)}" for package in PACKAGES],
        "newest": [f"{package}>={lowest(package)}" for package in PACKAGES],
    }.items():
        python = environment(name, wanted)
        versions = installed(python)
        line, failed = tested(python)
        print(name, versions, line, *failed, sep="\n", file=sys.stderr, flush=True)
        results.append({"name": name, "versions": versions, "tests": line, "failed": failed})
        rows.append([name, *versions.values(), line])
    write_results("ranges", {"runs": results})
    write_table("ranges", table(("versions", "torch", *PACKAGES, "tests"), rows))
    if any(result["failed"] for result in results):
        raise SystemExit("some tests fail: let the range start, or end, where they pass")


if __name__ == "__main__":
    main()
