"""The terminal: answers to stdout, everything else to stderr."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from videollava_cli.errors import OutputClosedError, OutputError
from videollava_cli.media import MediaKind, Medium
from videollava_cli.process import point_to_nothing
from videollava_cli.settings import Settings

if TYPE_CHECKING:
    from rich.console import Console as RichConsole
    from rich.console import RenderableType
    from rich.progress import Progress

BOLD_RED, DIM, RESET = "\x1b[1;31m", "\x1b[2m", "\x1b[0m"
LINES_AROUND = 4  # of the terminal, not for a picture but for the text around it
LAST_CONTROL = 0x9F  # of Unicode's two blocks of control characters, C0 and C1
SECONDS_BETWEEN_LINES = 60.0  # of a meter off a terminal, as in a cluster's log


class Console:
    """The two output streams, and how much to say on the second."""

    def __init__(self, *, is_quiet: bool = False, is_verbose: bool = False) -> None:
        self.is_quiet = is_quiet
        self.is_verbose = is_verbose
        self._is_line_open = False

    def answer(self, text: str) -> None:
        """Write a piece of an answer to stdout, at once; raises an OutputClosedError if its reader went away."""
        if sys.stdout is None:  # closed by the caller, as in `>&-`
            return
        # What the stream cannot hold, such as a file name that is no Unicode, is written out as escapes.
        encoding = sys.stdout.encoding or "utf-8"
        encodable = text.encode(encoding, "backslashreplace").decode(encoding)
        if text:
            self._is_line_open = not text.endswith("\n")
        with _write_errors():
            sys.stdout.write(printable(encodable) if sys.stdout.isatty() else encodable)
            sys.stdout.flush()

    def end_line(self) -> None:
        """End the line that stdout stands in, if there is one, as after an answer that was stopped."""
        if self._is_line_open:
            self.answer("\n")

    def picture_screen(self) -> "RichConsole | None":
        """Return stdout as a terminal in which pictures can be drawn; None if it is none, or without colours."""
        if sys.stdout is None or not sys.stdout.isatty():
            return None
        from rich.console import Console as RichConsole

        screen = RichConsole(file=sys.stdout, highlight=False, markup=False)
        screen.height = max(screen.height - LINES_AROUND, 1)
        return None if screen.no_color or screen.color_system is None else screen

    def draw(self, screen: "RichConsole", *pictures: "RenderableType") -> None:
        """Draw pictures, or print lines of text, in the terminal that is stdout; raises as `answer` does."""
        with _write_errors():
            for picture in pictures:
                screen.print(printable(picture) if isinstance(picture, str) else picture, end="")

    def notice(self, text: str) -> None:
        """Say on stderr what the user should know."""
        if not self.is_quiet:
            self._say(f"note: {text}", DIM)

    def media_notices(self, media: Sequence[Medium], settings: Settings) -> None:
        """Pass on what was noticed while reading media, and with --verbose which frames were taken."""
        is_partial = (settings.start, settings.end, settings.at) != (None, None, None)
        if is_partial and not any(medium.kind is MediaKind.VIDEO for medium in media):
            self.notice("--start, --end and --at choose frames of a video, and here is none")
        for medium in media:
            for notice in medium.notices:
                self.notice(notice)
            if medium.stamps:
                for detail in medium.details:
                    self.detail(detail)
                frames = ", ".join(f"{stamp.index} ({stamp.seconds:.2f} s)" for stamp in medium.stamps)
                self.detail(f"{medium.name}: frames {frames}")

    def detail(self, text: str) -> None:
        """Say on stderr what is shown with --verbose only."""
        if self.is_verbose:
            self._say(text, DIM)

    def report(self, text: str) -> None:
        """Show on stderr what the user asked to see, as it is."""
        if sys.stderr is not None:  # closed by the caller, as in `2>&-`
            _print_error(printable(text))

    def error(self, text: str) -> None:
        """Say on stderr, in one line, what went wrong."""
        self._say(f"error: {' '.join(text.split())}", BOLD_RED)

    @contextmanager
    def status(self, text: str) -> Iterator[None]:
        """Show that something is going on, while it does, if stderr is a terminal."""
        with self.progress() as show:
            show(text)
            yield

    @contextmanager
    def progress(self) -> Iterator[Callable[[str], None]]:
        """Give a function that shows a text in place of its last one, "" for none, if stderr is a terminal."""
        if self.is_quiet or sys.stderr is None or not sys.stderr.isatty():
            yield lambda _: None
            return
        from rich.console import Console as RichConsole

        status = RichConsole(stderr=True).status("")

        def show(text: str) -> None:
            status.update(printable(text))
            (status.start if text else status.stop)()

        try:
            yield show
        finally:
            status.stop()

    def _say(self, text: str, style: str) -> None:
        if sys.stderr is None:  # closed by the caller, as in `2>&-`
            return
        line = f"vllava: {printable(text)}"
        if sys.stderr.isatty() and not os.environ.get("NO_COLOR"):
            line = f"{style}{line}{RESET}"
        _print_error(line)


def _print_error(line: str) -> None:
    assert sys.stderr is not None
    try:
        print(line, file=sys.stderr, flush=True)  # noqa: T201 (this is the place that prints)
    except OSError:  # its reader went away, or its terminal: that is no reason to lose an answer
        point_to_nothing(sys.stderr.fileno())


@contextmanager
def _write_errors() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        raise OutputClosedError("the reader of the output went away") from error
    except OSError as error:
        raise OutputError(f"cannot write the answer: {error.strerror}") from error


def printable(text: str) -> str:
    """Return text with its control characters as escapes, but for newline, tab and the joiners of emoji and scripts."""

    def is_harmless(char: str) -> bool:
        return char in "\n\t\u200c\u200d" or char.isprintable() or (char.isspace() and ord(char) > LAST_CONTROL)

    return "".join(char if is_harmless(char) else ascii(char)[1:-1] for char in text)


def clock(seconds: float) -> str:
    """Return a time as people read it: 7.25 s, 1:07.3, 1:01:07."""
    if seconds < 60:
        return f"{seconds:.2f} s"
    minutes, remainder = divmod(round(seconds, 1), 60)
    if minutes < 60:
        return f"{int(minutes)}:{remainder:04.1f}"
    hours, minutes = divmod(int(round(seconds) // 60), 60)
    return f"{hours}:{minutes:02}:{round(seconds) % 60:02}"


def bytes_in_words(num_bytes: int, unit: str | None = None) -> str:
    """Return a number of bytes as people read it: 14.7 GB.

    `unit` is GiB for memory, as cards are sold (a little of it is in MiB), or GB; by default the largest decimal unit.
    """
    if unit == "GiB":
        return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**30 // 10 else f"{num_bytes / 2**20:.0f} MiB"
    for power, name in ((3, "GB"), (2, "MB"), (1, "kB")):
        if num_bytes >= 1000**power or name == unit:
            return f"{num_bytes / 1000**power:.1f} {name}"
    return f"{num_bytes} bytes"


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table, its first row the head: each column but the last as wide as its longest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    return ["  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[-1]]) for row in rows]


def duration(seconds: float) -> str:
    """Return a duration as people say it: 40 s, 3:07 min, 2:05 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02} min"
    return f"{whole // 3600:,}:{whole // 60 % 60:02} h"


class Meter:
    """Shows on stderr how far a long run is: `bar` is None off a terminal, where a line is printed now and then."""

    def __init__(self, bar: "Progress | None", *, is_hidden: bool) -> None:
        self._bar = bar
        self._is_hidden = is_hidden
        self._last_line = time.monotonic()

    def show(self, num_done: int, num_items: int, words: str) -> None:
        """Show it in words, behind the bar if there is one."""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], total=num_items, completed=num_done, words=words)
            self._bar.start()  # draws it, from the first time on
        elif not self._is_hidden and time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            _print_error(f"vllava: {words}")


@contextmanager
def meter(*, is_hidden: bool) -> Iterator[Meter]:
    """Show how far a run is while it goes on."""
    if is_hidden or sys.stderr is None or not sys.stderr.isatty():
        yield Meter(None, is_hidden=is_hidden or sys.stderr is None)
        return
    from rich.console import Console as RichConsole
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[words]}"))
    # What else is said on stderr meanwhile comes above the bar: rich takes it in.
    bar = Progress(*columns, console=RichConsole(stderr=True), transient=True, redirect_stdout=False)
    bar.add_task("Answering", total=None, words="")
    try:
        yield Meter(bar, is_hidden=False)
    finally:
        bar.stop()
