"""Runs the command line: ``python -m examples.aflow_esc``."""

import sys

from gflowdial.dialogue.cli import main

sys.exit(main(task="examples.aflow_esc.task:TASK", prog="python -m examples.aflow_esc"))
