"""Progress on the terminal: what is being done, how much is left, and for how long."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Report = Callable[[str, int, int], None]
"""Told what was just done, how many steps are done, and of how many."""
Stage = Callable[[str], AbstractContextManager[Report]]
"""From the name of a stage to what is told its progress."""


@contextmanager
def stage(name: str) -> Iterator[Report]:
    """A bar for one stage; where the output is no terminal, a line for every tenth of it."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(name, console).report
        return
    columns = (
        TextColumn("[bold]{task.fields[stage]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", stage=name, total=None)
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)


@contextmanager
def unseen(_: str) -> Iterator[Report]:
    """Shows nothing: for stages that run beside others."""
    yield lambda *_: None


class _Lines:
    def __init__(self, name: str, console: Console) -> None:
        self.name, self.console, self.tenth = name, console, -1

    def report(self, what: str, done: int, total: int) -> None:
        tenth = 10 * done // max(total, 1)
        if tenth > self.tenth:
            self.tenth = tenth
            self.console.print(f"{self.name}: {done} of {total} ({what})", highlight=False)
