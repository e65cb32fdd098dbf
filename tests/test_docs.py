"""What the documentation says runs, exists and is complete."""

import os
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from pydantic import BaseModel

from gflowdial.dialogue.config import RunConfig
from gflowdial.losses import LOSSES
from gflowdial.search import SearchConfig

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("docs/**/*.md"), *ROOT.glob("README.md")])
BLOCK = re.compile(r"^```python([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r'^```[^\n]*title="([^"]+)"[^\n]*\n(.*?)^```$', re.MULTILINE | re.DOTALL)
CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAMED_TEST = re.compile(r"(tests/[\w/]+\.py)::(\w+)")
# One thread each: the tests share the machine. With CI set, Hypothesis sets no deadlines.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CI": "true"}


def blocks(page: Path) -> list[tuple[int, str]]:
    """The line and the code of each Python block that is to run: no file, neither ``python notest`` nor
    ``.python .notest``."""
    text = page.read_text(encoding="utf-8")
    return [
        (text.count("\n", 0, found.start(2)), found[2])
        for found in BLOCK.finditer(text)
        if "notest" not in found[1] and "title=" not in found[1]
    ]


def write_files(page: Path, folder: Path) -> None:
    """The files of a page: blocks with a title, those of one title one behind the other."""
    for found in FILE.finditer(page.read_text(encoding="utf-8")):
        with (folder / found[1]).open("a", encoding="utf-8") as file:
            file.write(found[2] + "\n" * 2 * (found[1].endswith(".py")))


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: str(page.relative_to(ROOT)))
def test_python_blocks_run(page: Path, tmp_path: Path) -> None:
    """As a reader would run them: from top to bottom, each going on from those before it, in a process of its own, in a
    folder that holds the files of the page and nothing else."""
    lines: list[str] = []
    for line, code in blocks(page):
        # The empty lines make a traceback name the page's own line.
        lines += [""] * (line - len(lines)) + code.splitlines()
    write_files(page, tmp_path)
    script = tmp_path / f"{page.stem}_page.py"
    script.write_text("\n".join(lines) + "\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_commands_of_the_tasks_page_run(tmp_path: Path) -> None:
    """In an empty folder that holds the files of the page; so every one of its blocks runs."""
    page = ROOT / "docs" / "tasks.md"
    write_files(page, tmp_path)
    programs = {"gflowdial": [sys.executable, "-m", "gflowdial"], "python": [sys.executable]}
    ran = 0
    for block in CONSOLE.findall(page.read_text(encoding="utf-8")):
        for command in block.replace("\\\n", " ").splitlines():
            program, *arguments = shlex.split(command)
            if program in programs:
                done = subprocess.run(
                    [*programs[program], *arguments],
                    cwd=tmp_path,
                    env=ENVIRONMENT,
                    input="Hello, I want to see a film.\nbye\n",
                    capture_output=True,
                    text=True,
                    check=False,
                )
                assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
                ran += 1
    assert ran >= 7


def test_the_pages_are_found() -> None:
    assert sum(len(blocks(page)) for page in PAGES) >= 5


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_named_tests_exist(page: Path) -> None:
    for file, name in NAMED_TEST.findall(page.read_text(encoding="utf-8")):
        assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), f"{page} names {file}::{name}"


def keys(section: type[BaseModel]) -> set[str]:
    """Every key of a section and the sections in it."""
    found = set()
    for name, field in section.model_fields.items():
        found.add(name)
        for part in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(part, type) and issubclass(part, BaseModel):
                found |= keys(part)
    return found


def test_every_key_of_the_settings_is_described() -> None:
    """On the page of the settings; those of the search where they are declared, which the reference shows."""
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    of_search = {field.name for field in fields(SearchConfig)}
    assert not {key for key in keys(RunConfig) - of_search if f"`{key}`" not in text}
    assert not {name for name in of_search if f"\n        {name}: " not in str(SearchConfig.__doc__)}


def test_every_loss_is_in_the_reference() -> None:
    """`gflowdial.losses` is shown as a whole, but for losses that the module of their own name hides."""
    page = (ROOT / "docs" / "reference" / "losses.md").read_text(encoding="utf-8")
    assert "::: gflowdial.losses\n" in page
    hidden = {name for name in LOSSES if (ROOT / "gflowdial" / "losses" / f"{name}.py").exists()}
    assert not {name for name in hidden if f"::: gflowdial.losses.{name}.{name}\n" not in page}
