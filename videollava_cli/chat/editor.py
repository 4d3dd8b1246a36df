"""Lines that are typed at a terminal, with history, search and completion; the owner of prompt_toolkit."""

import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import FileHistory, InMemoryHistory
from prompt_toolkit.input import create_input
from prompt_toolkit.output import create_output
from prompt_toolkit.styles import Style

from videollava_cli.chat.slash import COMMANDS, PATH_COMMANDS, is_open
from videollava_cli.settings import ANSWER_KEYS

STYLE = Style.from_dict({"prompt": "bold"})
CONTINUATION = "... "


class Editor:
    """A line editor on the terminal.

    Args:
        lines: The file of the lines that were typed; None to keep them in memory only.
        terminal: What to read from, if it is not stdin.
    """

    def __init__(self, lines: Path | None, terminal: TextIO | None = None) -> None:
        self._session: PromptSession[str] = PromptSession(
            history=KeptLines(str(lines)) if lines else InMemoryHistory(),
            completer=SlashCompleter(),
            complete_while_typing=False,  # a Tab that comes before the menu would be lost
            # Enter ends a line, but not within three quotes.
            multiline=Condition(lambda: is_open(self._session.default_buffer.text)),
            prompt_continuation=CONTINUATION,
            input=create_input(terminal or sys.stdin),
            output=create_output(_shown_on()),
            style=STYLE,
        )

    def read(self, prompt: str) -> str:
        """Return the next line, or the next lines between three quotes.

        Raises:
            EOFError: At Ctrl-D.
            KeyboardInterrupt: At Ctrl-C.
        """
        return self._session.prompt(FormattedText([("class:prompt", prompt)]))


class SlashCompleter(Completer):
    """Completes the names of slash commands, paths after those that take one, and settings after /set."""

    def __init__(self) -> None:
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """Yield what could stand where the cursor is."""
        text = document.text_before_cursor.lstrip()
        command, blank, rest = text.partition(" ")
        if not blank:
            if _is_command_being_typed(text):
                yield from _matching(text, {each.name: each.help for each in COMMANDS})
        elif command in PATH_COMMANDS:
            path = rest.lstrip()
            yield from self._paths.get_completions(Document(path, len(path)), complete_event)
        elif command == "/set" and " " not in (key := rest.lstrip()):
            yield from _matching(key, dict.fromkeys(ANSWER_KEYS, ""))


def _matching(begun: str, meanings: dict[str, str]) -> Iterable[Completion]:
    for word, meaning in meanings.items():
        if word.startswith(begun):
            yield Completion(word, start_position=-len(begun), display_meta=meaning)


def _is_command_being_typed(text: str) -> bool:
    return text.startswith("/") and " " not in text and "/" not in text[1:]


class KeptLines(FileHistory):
    """The lines that were typed, in a file; what cannot be written there is not missed."""

    def store_string(self, string: str) -> None:
        """Add a line, without what no Unicode can hold."""
        with suppress(OSError):
            super().store_string(string.encode("utf-8", "replace").decode())


def _shown_on() -> TextIO:
    """Return the terminal on which the prompt is drawn: stdout or stderr if it is one, else the controlling one.

    stdout is left alone where it is none: it takes answers only.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and stream.isatty():
            return stream
    try:
        return open("/dev/tty", "w", encoding="utf-8")
    except OSError:
        return open(os.devnull, "w", encoding="utf-8")
