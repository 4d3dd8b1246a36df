"""A program in a pseudo-terminal, driven as a person would: read, type, read on."""

import os
import pty
import re
import select
import signal
import sys
import termios
import time
from typing import Self

ESCAPES = re.compile(rb"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[P_][^\x1b]*\x1b\\|[=>78])")
SECONDS = 120.0  # to wait for what is expected; only a failing test waits so long
CTRL_C, CTRL_D, ENTER = "\x03", "\x04", "\r"


class Terminal:
    """Runs Python with arguments in a terminal of its own, and collects what it prints."""

    def __init__(self, *arguments: object, stdout: int | None = None, stdin: int | None = None, **environment: str):
        self.output = ""
        self.status: int | None = None
        self._seen = 0
        self._is_open = True
        self._raw = b""
        self.pid, self._handle = pty.fork()
        if self.pid == 0:
            for number, handle in ((0, stdin), (1, stdout)):
                if handle is not None:
                    os.dup2(handle, number)
            os.environ.update({"TERM": "xterm-256color", "PROMPT_TOOLKIT_NO_CPR": "1", "COLUMNS": "120", **environment})
            os.execv(sys.executable, [sys.executable, *map(str, arguments)])  # noqa: S606 (no shell is wanted)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        if self._is_open:
            os.close(self._handle)

    def type(self, text: str) -> None:
        """Type a text."""
        os.write(self._handle, text.encode())

    @property
    def raw(self) -> str:
        """All that came, colours and other controls included."""
        return self._raw.decode(errors="replace")

    @property
    def is_echoing(self) -> bool:
        """Whether what is typed is shown."""
        return bool(termios.tcgetattr(self._handle)[3] & termios.ECHO)

    def expect(self, pattern: str) -> str:
        """Read until a pattern comes, behind what was found before; return what came up to its end.

        Raises:
            AssertionError: If it does not come.
        """
        until = time.monotonic() + SECONDS
        while not (found := re.compile(pattern).search(self.output, self._seen)):
            assert time.monotonic() < until, f"{pattern!r} did not come: {self.output[self._seen :]!r}"
            assert self._read(), f"the program ended before {pattern!r} came: {self.output[self._seen :]!r}"
        text = self.output[self._seen : found.end()]
        self._seen = found.end()
        return text

    def end(self) -> int:
        """Read to the end and return the exit status."""
        while self._read():
            pass
        _, status = os.waitpid(self.pid, 0)
        self.status = os.waitstatus_to_exitcode(status)
        return self.status

    def kill(self) -> None:
        """Kill the program as `kill -9` does."""
        os.kill(self.pid, signal.SIGKILL)
        assert self.end() == -signal.SIGKILL

    def hang_up(self) -> int:
        """Close the terminal, as its window is closed, and return the exit status."""
        os.close(self._handle)
        self._is_open = False
        self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.status

    def _read(self) -> bool:
        """Read what comes within a second; return whether there may be more."""
        if not select.select([self._handle], [], [], 1)[0]:
            return True
        try:
            piece = os.read(self._handle, 1 << 16)
        except OSError:  # so Linux tells that the other side was closed
            return False
        self._raw += piece
        self.output = ESCAPES.sub(b"", self._raw).decode(errors="replace").replace("\r", "")
        return bool(piece)
