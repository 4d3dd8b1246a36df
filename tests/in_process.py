"""Commands run in this process, through the door that the shell uses: `cli.main()` with arguments and streams."""

import io
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest import mock

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
        mock.patch.dict(os.environ, environment),
        mock.patch.multiple(sys, argv=words, stdin=given, **streams),
        _own_warnings(),
    ):
        status = cli.main()
    written = {name: stream.buffer.getvalue().decode() for name, stream in streams.items()}  # type: ignore[attr-defined]
    return Done(int(status), **written)


@contextmanager
def _own_warnings() -> Iterator[None]:
    """Undo what a command does to the warnings of its process."""
    with warnings.catch_warnings():
        yield
