"""The files around the code agree: version, changelog, citation, Makefile and the guide for contributors."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
ARXIV = re.compile(r"arXiv[: ](\d{4}\.\d{4,5})")
# Names in backquotes with a folder or a known ending. Placeholders like <name> do not match.
FILE = re.compile(r"`([\w.-]+/[\w./-]*|[\w-]+\.(?:md|toml|cff|txt|yml))`")
LINK = re.compile(r"\]\((?!https?://)([^)#]+)")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def version() -> str:
    found = re.search(r'^version = "(.+)"$', read("pyproject.toml"), re.MULTILINE)
    assert found is not None
    return found[1]


def test_the_citation_has_the_version() -> None:
    assert yaml.safe_load(read("CITATION.cff"))["version"] == version()


def test_the_changelog_has_a_section_for_the_version() -> None:
    sections = re.findall(r"^## \[(.+?)\]", read("CHANGELOG.md"), re.MULTILINE)
    assert sections[0] == version()
    assert len(set(sections)) == len(sections)


def test_cited_papers_are_sources_of_the_library() -> None:
    sources = {found for path in (ROOT / "gflowdial").rglob("*.py") for found in ARXIV.findall(path.read_text("utf-8"))}
    cited = [
        ARXIV.findall(paper["identifiers"][0]["value"])[0]
        for paper in yaml.safe_load(read("CITATION.cff"))["references"]
    ]
    assert len(set(cited)) == len(cited)
    assert set(cited) <= sources


def test_make_help_describes_every_target() -> None:
    targets = re.findall(r"^\.PHONY: (.+)$", read("Makefile"), re.MULTILINE)[0].split()
    command = ["make", "--no-print-directory", "help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    described = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert list(described) == targets
    assert all(described.values())


def test_the_guide_names_files_that_exist() -> None:
    guide = read("CONTRIBUTING.md")
    named = {*FILE.findall(guide), *LINK.findall(guide), *re.findall(r"tests/\w+/\w+\.py", guide)}
    assert len(named) >= 10
    assert not {name for name in named if not (ROOT / name).exists()}


@pytest.mark.parametrize("name", ["haggling", "tutoring"])
def test_a_task_has_at_most_sixty_lines_beside_the_rules_of_its_world(name: str) -> None:
    before, rest = read(f"examples/{name}.py").split("# The rules of the world.\n")
    assert sum(bool(line.strip()) for line in (before + rest.split("# The task.")[1]).splitlines()) <= 60
