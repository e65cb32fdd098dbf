"""Studies: many runs of the line that answer one question, with a table, a plot and intervals.

A study is data, a `Study`; `STUDIES` holds those of ``gflowdial study NAME``.
"""

from gflowdial.dialogue.studies.catalogue import STUDIES
from gflowdial.dialogue.studies.study import Cell, Plot, Study

__all__ = ["STUDIES", "Cell", "Plot", "Study"]
