"""The terminal: answers to stdout, everything else to stderr; knows nothing of models or media."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from videollava_cli.errors import OutputClosedError, OutputError

if TYPE_CHECKING:
    from rich.console import Console as RichConsole
    from rich.console import RenderableType

BOLD_RED, DIM, RESET = "\x1b[1;31m", "\x1b[2m", "\x1b[0m"
LINES_AROUND = 4  # of the terminal, not for a picture but for the text around it
LAST_CONTROL = 0x9F  # of Unicode's two blocks of control characters, C0 and C1


class Console:
    """The two output streams, and how much to say on the second."""

    def __init__(self, *, is_quiet: bool = False, is_verbose: bool = False) -> None:
        self.is_quiet = is_quiet
        self.is_verbose = is_verbose

    def answer(self, text: str) -> None:
        """Write a piece of an answer to stdout, at once.

        Raises:
            OutputClosedError: If its reader went away.
            OutputError: If it cannot be written for another reason, such as a full disk.
        """
        if sys.stdout is None:  # closed by the caller, as in `>&-`
            return
        # What the stream cannot hold, such as a file name that is no Unicode, is written out as escapes.
        encoding = sys.stdout.encoding or "utf-8"
        encodable = text.encode(encoding, "backslashreplace").decode(encoding)
        with _write_errors():
            sys.stdout.write(printable(encodable) if sys.stdout.isatty() else encodable)
            sys.stdout.flush()

    def picture_screen(self) -> "RichConsole | None":
        """Return stdout as a terminal in which pictures can be drawn; None if it is none, or without colours."""
        if sys.stdout is None or not sys.stdout.isatty():
            return None
        from rich.console import Console as RichConsole

        screen = RichConsole(file=sys.stdout, highlight=False, markup=False)
        screen.height = max(screen.height - LINES_AROUND, 1)
        return None if screen.no_color or screen.color_system is None else screen

    def draw(self, screen: "RichConsole", *pictures: "RenderableType") -> None:
        """Draw pictures, or print lines of text, in the terminal that is stdout.

        Raises:
            OutputClosedError: If the terminal went away.
            OutputError: If it cannot be written to for another reason.
        """
        with _write_errors():
            for picture in pictures:
                screen.print(printable(picture) if isinstance(picture, str) else picture, end="")

    def notice(self, text: str) -> None:
        """Say on stderr what the user should know."""
        if not self.is_quiet:
            self._say(f"note: {text}", DIM)

    def detail(self, text: str) -> None:
        """Say on stderr what is shown with --verbose only."""
        if self.is_verbose:
            self._say(text, DIM)

    def report(self, text: str) -> None:
        """Show on stderr what the user asked to see, as it is."""
        if sys.stderr is not None:  # closed by the caller, as in `2>&-`
            print(printable(text), file=sys.stderr, flush=True)  # noqa: T201 (this is the place that prints)

    def error(self, text: str) -> None:
        """Say on stderr, in one line, what went wrong."""
        self._say(f"error: {' '.join(text.split())}", BOLD_RED)

    @contextmanager
    def status(self, text: str) -> Iterator[None]:
        """Show that something is going on, while it does, if stderr is a terminal."""
        if self.is_quiet or sys.stderr is None or not sys.stderr.isatty():
            yield
            return
        from rich.console import Console as RichConsole

        with RichConsole(stderr=True).status(printable(text)):
            yield

    def _say(self, text: str, style: str) -> None:
        if sys.stderr is None:  # closed by the caller, as in `2>&-`
            return
        line = f"vllava: {printable(text)}"
        if sys.stderr.isatty() and not os.environ.get("NO_COLOR"):
            line = f"{style}{line}{RESET}"
        print(line, file=sys.stderr, flush=True)  # noqa: T201 (this is the place that prints)


@contextmanager
def _write_errors() -> Iterator[None]:
    """Turn what stdout raises into one line."""
    try:
        yield
    except BrokenPipeError as error:
        raise OutputClosedError("the reader of the output went away") from error
    except OSError as error:
        raise OutputError(f"cannot write the answer: {error.strerror}") from error


def printable(text: str) -> str:
    """Return text whose control characters, but for newline and tab, are written out as escapes.

    The joiners of emoji and of scripts such as Devanagari are kept.
    """
    return "".join(
        char
        if char in "\n\t\u200c\u200d" or char.isprintable() or (char.isspace() and ord(char) > LAST_CONTROL)
        else ascii(char)[1:-1]
        for char in text
    )


def clock(seconds: float) -> str:
    """Return a time as people read it: 7.25 s, 1:07.3, 1:01:07."""
    if seconds < 60:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds, 1), 60)
    if minutes < 60:
        return f"{int(minutes)}:{rest:04.1f}"
    hours, minutes = divmod(int(round(seconds) // 60), 60)
    return f"{hours}:{minutes:02}:{round(seconds) % 60:02}"


def bytes_in_words(num_bytes: int, unit: str | None = None) -> str:
    """Return a number of bytes as people read it: 14.7 GB.

    Args:
        num_bytes: How many.
        unit: GiB for memory, as cards are sold (a little of it is in MiB), or GB; by default the largest decimal unit
            of which there is one.
    """
    if unit == "GiB":
        return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**30 // 10 else f"{num_bytes / 2**20:.0f} MiB"
    for power, name in ((3, "GB"), (2, "MB"), (1, "kB")):
        if num_bytes >= 1000**power or name == unit:
            return f"{num_bytes / 1000**power:.1f} {name}"
    return f"{num_bytes} bytes"
