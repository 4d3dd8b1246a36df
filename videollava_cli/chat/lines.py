"""Lines that come through a pipe or from a file; knows no terminal."""

import os
import re
from typing import BinaryIO

from videollava_cli.chat.slash import QUOTES, is_open
from videollava_cli.errors import UsageError

LINE_BREAK = re.compile(r"\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*")  # what str.splitlines takes for one
UTF8_MARK = "\ufeff"  # what some editors put at the beginning of a file


class PipedLines:
    """The lines of a stream, those between three quotes together as one.

    Bytes that are no UTF-8 stand as surrogates, as they do in paths.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def read(self, _prompt: str) -> str:
        """Return the next line; nothing is shown.

        Raises:
            EOFError: At the end.
            UsageError: If the stream cannot be read.
        """
        text = self._line()
        while is_open(text):
            try:
                text += "\n" + self._line()
            except EOFError:
                return f"{text}\n{QUOTES}"
        return text

    def _line(self) -> str:
        try:
            line = self._stream.readline()
        except OSError as error:  # such as a stdin that is open for writing only
            raise UsageError(f"cannot read questions from stdin: {error.strerror or error}") from error
        if not line:
            raise EOFError
        return os.fsdecode(line).removeprefix(UTF8_MARK).rstrip("\r\n")


class OneLine:
    """Pieces of an answer brought to one line: line breaks, and the blanks around them, become one space."""

    def __init__(self) -> None:
        self._held = ""
        self._has_begun = False

    def add(self, text: str) -> str:
        """Return what can be printed now; blanks wait for what comes after them, and are left out at either end."""
        whole = self._held + text
        if not self._has_begun:
            whole = whole.lstrip()
        shown = whole.rstrip()
        self._held = whole[len(shown) :]
        self._has_begun = self._has_begun or bool(shown)
        return LINE_BREAK.sub(" ", shown)
