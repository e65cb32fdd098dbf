"""What the documentation says runs, exists and is complete."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from examples.aflow_esc.config import RunConfig
from pydantic import BaseModel

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("docs/**/*.md"), *ROOT.glob("README.md")])
BLOCK = re.compile(r"^```python([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAMED_TEST = re.compile(r"(tests/[\w/]+\.py)::(\w+)")


def blocks(page: Path) -> list[tuple[int, str]]:
    """The line and the code of each Python block that is to run: neither ``python notest`` nor ``.python .notest``."""
    text = page.read_text(encoding="utf-8")
    return [
        (text.count("\n", 0, found.start(2)), found[2]) for found in BLOCK.finditer(text) if "notest" not in found[1]
    ]


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: str(page.relative_to(ROOT)))
def test_python_blocks_run(page: Path, tmp_path: Path) -> None:
    """As a reader would run them: from top to bottom, each going on from those before it, in a process of its own."""
    lines: list[str] = []
    for line, code in blocks(page):
        # The empty lines make a traceback name the page's own line.
        lines += [""] * (line - len(lines)) + code.splitlines()
    script = tmp_path / f"{page.stem}.py"
    script.write_text("\n".join(lines) + "\n", encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, script], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


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
    text = (ROOT / "docs" / "example.md").read_text(encoding="utf-8")
    assert not {key for key in keys(RunConfig) if f"`{key}`" not in text}
