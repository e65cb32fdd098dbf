"""Jobs side by side: all are done once, and one that waits for another begins after it."""

from pathlib import Path

import pytest

from gflowdial.dialogue.config import ComputeConfig
from gflowdial.dialogue.jobs import run_jobs


def note(shared: str, folder: Path, number: int, before: int | None) -> str:
    """Write a file, and say whether the file of an earlier job is there."""
    seen = before is None or (folder / str(before)).exists()
    (folder / str(number)).write_text(shared)
    return f"{number} {seen}"


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_job_begins_after_the_one_it_waits_for(jobs: int, tmp_path: Path) -> None:
    before = [None, 3, 0, None, 2, 1]
    arguments = [(tmp_path, number, earlier) for number, earlier in enumerate(before)]
    after = {number: earlier for number, earlier in enumerate(before) if earlier is not None}
    found = dict(run_jobs(note, arguments, ComputeConfig(jobs=jobs, threads=1), "shared", after))
    assert found == {number: f"{number} True" for number in range(len(before))}
    assert {path.read_text() for path in tmp_path.iterdir()} == {"shared"}


def outer(shared: str, number: int) -> str:
    """Run a job of its own."""
    ((_, inner),) = run_jobs(inside, [(number,)], ComputeConfig(jobs=1, threads=1), "inner")
    return f"{shared} {inner}"


def inside(shared: str, number: int) -> str:
    return f"{shared} {number}"


def test_jobs_within_jobs_keep_what_each_shares() -> None:
    compute = ComputeConfig(jobs=2, threads=1)
    found = dict(run_jobs(outer, [(number,) for number in range(4)], compute, "outer"))
    assert found == {number: f"outer inner {number}" for number in range(4)}
