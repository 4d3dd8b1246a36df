"""Commands run in this process, through the door that the shell uses: `cli.main()` with arguments and streams."""

import atexit
import gc
import io
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest import mock

# Both keep streams and variables that they find when they are imported: those of the tests, not of one command.
import huggingface_hub.constants  # noqa: F401
import transformers.utils.logging  # noqa: F401

from videollava_cli import cli


@dataclass(frozen=True, slots=True)
class Done:
    """A command that has ended: its exit status and what it wrote to its two streams."""

    status: int
    stdout: str
    stderr: str


def vllava(*arguments: object, stdin: bytes = b"", **environment: str) -> Done:
    """Run the tool with arguments, bytes on stdin and further environment variables; no stream is a terminal."""
    streams = {name: io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for name in ("stdout", "stderr")}
    given = io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8")
    words = ["vllava", *(os.fspath(word) if isinstance(word, os.PathLike) else str(word) for word in arguments)]
    with (
        _restored_process(),
        mock.patch.dict(os.environ, environment),
        mock.patch.multiple(sys, argv=words, stdin=given, **streams),
        warnings.catch_warnings(),
    ):
        status = cli.main()
    for stream in streams.values():
        stream.flush()
    written = {name: stream.buffer.getvalue().decode() for name, stream in streams.items()}
    return Done(int(status), **written)


@contextmanager
def _restored_process() -> Iterator[None]:
    """Undo what a command does to signals, to the garbage collector, and at the exit of its process."""
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    threshold = gc.get_threshold()
    try:
        yield
    finally:
        atexit.unregister(gc.freeze)
        gc.set_threshold(*threshold)
        for number, handler in handlers.items():
            if handler is not None and signal.getsignal(number) is not handler:  # None: not set by Python
                signal.signal(number, handler)
