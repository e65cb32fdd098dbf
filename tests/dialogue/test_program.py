"""The program ``gflowdial``: its help, and what it says where the extra is not installed."""

import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from gflowdial.__main__ import main

WITHOUT = """
import sys

for name in ("pydantic", "yaml", "rich", "transformers", "peft", "scipy", "sklearn"):
    sys.modules[name] = None
sys.argv = ["gflowdial", "run", "--config", "none.yaml", "--output", "run"]
from gflowdial.__main__ import main

sys.exit(main())
"""


def test_it_is_a_console_script() -> None:
    (script,) = entry_points(group="console_scripts", name="gflowdial")
    assert script.value == "gflowdial.__main__:main"


def test_without_the_extra_it_says_how_to_install_it(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert line.endswith("needs the extra `dialogue`: pip install 'gflowdial[dialogue]'")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["search", "train", "evaluate", "run", "study", "chat"])
def test_every_command_has_its_help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["gflowdial", command, "--help"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 0
    assert f"usage: gflowdial {command}" in capsys.readouterr().out
