"""How far a long run is, on stderr: a bar on a terminal, a line now and then elsewhere; knows numbers only."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

SECONDS_BETWEEN_LINES = 60.0  # off a terminal, as in a cluster's log


class Meter(Protocol):
    """Shows how far a run is."""

    def show(self, num_done: int, num_items: int, words: str) -> None:
        """Show it in words, or as a bar with words behind it, in place of those before."""


def duration(seconds: float) -> str:
    """Return a duration as people say it: 40 s, 3:07 min, 2:05 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02} min"
    return f"{whole // 3600:,}:{whole // 60 % 60:02} h"


@contextmanager
def meter(*, is_hidden: bool) -> Iterator[Meter]:
    """Show how far a run is while it goes on."""
    if is_hidden or sys.stderr is None:
        yield _Nothing()
    elif not sys.stderr.isatty():
        yield _Lines()
    else:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[words]}"))
        # What else is said on stderr meanwhile comes above the bar: rich takes it in.
        bar = Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False)
        try:
            yield _Bar(bar, bar.add_task("Answering", total=None, words=""))
        finally:
            bar.stop()


class _Nothing:
    def show(self, num_done: int, num_items: int, words: str) -> None:
        """Show nothing."""


class _Lines:
    def __init__(self) -> None:
        self._last = time.monotonic()

    def show(self, num_done: int, num_items: int, words: str) -> None:
        """Print a line if the last one is long ago."""
        if time.monotonic() - self._last < SECONDS_BETWEEN_LINES:
            return
        self._last = time.monotonic()
        print(f"vllava: {words}", file=sys.stderr, flush=True)  # noqa: T201 (this is its place)


class _Bar:
    def __init__(self, progress: "Progress", task: "TaskID") -> None:
        self._progress = progress
        self._task = task

    def show(self, num_done: int, num_items: int, words: str) -> None:
        """Draw the bar, from the first time on."""
        self._progress.update(self._task, total=num_items, completed=num_done, words=words)
        self._progress.start()
