"""Keeping a conversation on disk while it goes on."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from videollava_cli.chat.store import write_transcript
from videollava_cli.chat.transcript import Transcript
from videollava_cli.console import Console
from videollava_cli.errors import OutputError


class Keeper:
    """Writes a conversation down whenever it has changed.

    Args:
        path: The file; None to write nothing.
        written: What the file holds and is gone on with; None if this is another conversation.
        console: Where it is said, once, that writing failed.
    """

    def __init__(self, path: Path | None, written: Transcript | None, console: Console) -> None:
        self._path = path
        self._written = written
        self._console = console
        self._has_failed = False

    def keep(self, transcript: Transcript) -> None:
        """Write the conversation down; one that has not begun does not replace the last one."""
        has_begun = bool(transcript.turns) or self._written is not None
        if self._path is None or transcript == self._written or not has_begun:
            return
        try:
            with _uninterrupted():
                write_transcript(transcript, self._path)
        except OutputError as error:
            if not self._has_failed:
                self._console.error(str(error))
            self._has_failed = True
        else:
            self._written, self._has_failed = transcript, False


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let no Ctrl-C come between; one that is pressed meanwhile does nothing."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
