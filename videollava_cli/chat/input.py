"""The line editor of a terminal, with history, search and completion; the owner of prompt_toolkit."""

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

from videollava_cli.chat.commands import COMMANDS, is_open
from videollava_cli.reader.urls import without_logins


class Editor:
    """A line editor on a terminal; the file `history`, if there is one, holds the lines that were typed."""

    def __init__(self, terminal: TextIO, history: Path | None) -> None:
        self._session: PromptSession[str] = PromptSession(
            history=SavedHistory(str(history)) if history else InMemoryHistory(),
            completer=SlashCompleter(),
            complete_while_typing=False,  # a Tab that comes before the menu would be lost
            # Enter ends a line, but not within three quotes.
            multiline=Condition(lambda: is_open(self._session.default_buffer.text)),
            prompt_continuation="... ",
            input=create_input(terminal),
            output=create_output(_screen()),
            style=Style.from_dict({"prompt": "bold"}),
        )

    def read(self, prompt: str) -> str:
        """Return the next line, or lines between three quotes; Ctrl-D raises EOFError, Ctrl-C KeyboardInterrupt."""
        return self._session.prompt(FormattedText([("class:prompt", prompt)]))


class SlashCompleter(Completer):
    """Completes the names of slash commands, and paths or settings after those that take one."""

    def __init__(self) -> None:
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """Yield what could stand where the cursor is."""
        text = document.text_before_cursor.lstrip()
        name, blank, argument = text.partition(" ")
        argument = argument.lstrip()
        if not blank:
            if text.startswith("/") and "/" not in text[1:]:
                yield from _matching(text, {each.name: each.help for each in COMMANDS.values()})
        elif command := COMMANDS.get(name):
            if command.argument in ("PATH", "FILE"):
                yield from self._paths.get_completions(Document(argument, len(argument)), complete_event)
            elif " " not in argument:
                yield from _matching(argument, dict.fromkeys(command.choices, ""))


def _matching(begun: str, meanings: dict[str, str]) -> Iterable[Completion]:
    for word, meaning in meanings.items():
        if word.startswith(begun):
            yield Completion(word, start_position=-len(begun), display_meta=meaning)


class SavedHistory(FileHistory):
    """The lines that were typed, in a file; a line that cannot be written there is left out."""

    def store_string(self, string: str) -> None:
        """Add a line, without what no Unicode can hold, and without users and passwords of URLs."""
        with suppress(OSError):
            super().store_string(without_logins(string).encode("utf-8", "replace").decode())


def _screen() -> TextIO:
    """Return the terminal on which the prompt is drawn: stdout or stderr if it is one, else the controlling one."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and stream.isatty():
            return stream
    try:
        return open("/dev/tty", "w", encoding="utf-8")
    except OSError:
        return open(os.devnull, "w", encoding="utf-8")
