"""The file that lines are appended to: its lock, its repair, what it holds already; knows no models or media.

A line is written by one call as soon as it is there, so a process that is killed leaves whole lines and at most one
half, which the next one cuts off. What a full disk did not take is cut off at once.
"""

import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from videollava_cli.batch.locks import lock
from videollava_cli.batch.records import FIRST_BYTES, as_text, digest
from videollava_cli.errors import OutputClosedError, OutputError, UsageError


@dataclass(slots=True)
class Held:
    """What a file holds: the digests of answered and of failed items, and where its whole lines end, in bytes."""

    answered: set[bytes] = field(default_factory=set)
    failed: set[bytes] = field(default_factory=set)
    num_bytes: int = 0

    def add(self, line: Mapping[str, Any]) -> None:
        """Note a line; an item that failed once and was answered later is answered."""
        known_as = digest(line)
        if "error" not in line:
            self.answered.add(known_as)
            self.failed.discard(known_as)
        elif known_as not in self.answered:
            self.failed.add(known_as)


def read_held(path: Path) -> Held:
    """Return what a file holds without changing it; nothing if there is none.

    Raises:
        UsageError: If it is no file of ours.
        OutputError: If it cannot be read.
    """
    held = Held()
    try:
        if not path.is_file():
            return held
        with path.open("rb") as file:
            for line in _whole_lines(file, path):
                held.add(_parsed(line, path))
                held.num_bytes += len(line)
    except OSError as error:
        raise OutputError(f"cannot read {str(path)!r}: {error.strerror or error}") from error
    return held


class Results:
    """An open file of lines that this process alone writes. Use it as a context manager.

    Args:
        path: The file; made if it is not there. What is no regular file, such as a pipe, is written and not read.
        is_fresh: Empty it first.
        redo_failed: Drop the lines of failed items, so that they can be asked again.

    Raises:
        UsageError: If another process writes it, or it is no file of ours.
        OutputError: If it cannot be opened.
    """

    def __init__(self, path: Path, *, is_fresh: bool = False, redo_failed: bool = False) -> None:
        self.path = path
        self._descriptor, self._unlock = _opened(path)
        try:
            self.held = self._prepared(is_fresh=is_fresh, redo_failed=redo_failed)
        except OSError as error:
            self.close()
            raise OutputError(f"cannot read or repair {str(path)!r}: {error.strerror or error}") from error
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, which unlocks it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            self._unlock()

    def write(self, line: Mapping[str, Any]) -> None:
        """Append a line.

        Raises:
            OutputClosedError: If the file is a pipe whose reader went away.
            OutputError: If it cannot be written, such as on a full disk; what it held before is kept.
        """
        content = memoryview(as_text(line).encode())
        size = len(content)
        try:
            while content:
                content = content[os.write(self._descriptor, content) :]
        except BrokenPipeError as error:
            raise OutputClosedError("the reader of the output went away") from error
        except OSError as error:
            if _is_regular(self._descriptor):
                os.ftruncate(self._descriptor, self.held.num_bytes)
            raise OutputError(
                f"cannot write {str(self.path)!r}: {error.strerror}; what it holds is kept: make room, and run the "
                f"same command again to go on"
            ) from error
        self.held.num_bytes += size
        self.held.add(line)

    def _prepared(self, *, is_fresh: bool, redo_failed: bool) -> Held:
        if not _is_regular(self._descriptor):
            return Held()
        if is_fresh:
            os.ftruncate(self._descriptor, 0)
            return Held()
        held = read_held(self.path)
        os.ftruncate(self._descriptor, held.num_bytes)
        self._end_last_line(held)
        if redo_failed and held.failed:
            self._drop_failed()
            return read_held(self.path)
        return held

    def _end_last_line(self, held: Held) -> None:
        """End a last line that is whole but for its end, as an editor may leave it."""
        with self.path.open("rb") as file:
            file.seek(max(0, held.num_bytes - 1))
            if file.read(1) not in (b"\n", b""):
                held.num_bytes += os.write(self._descriptor, b"\n")

    def _drop_failed(self) -> None:
        """Put a file without the lines of failed items in the place of this one, at once and under a lock."""
        unfinished = self.path.with_name(f".{self.path.name}.unfinished")
        descriptor = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o666)
        try:
            unlock = lock(descriptor, unfinished)
            with self.path.open("rb") as file, open(os.dup(descriptor), "wb") as kept:
                kept.writelines(line for line in file if "error" not in _parsed(line, self.path))
                kept.flush()
                os.fsync(descriptor)
            os.replace(unfinished, self.path)
        except BaseException:
            os.close(descriptor)
            unfinished.unlink(missing_ok=True)
            raise
        os.close(self._descriptor)
        self._descriptor, self._unlock = descriptor, _both(self._unlock, unlock)


def _both(first: Callable[[], None], second: Callable[[], None]) -> Callable[[], None]:
    def unlock() -> None:
        """Call both."""
        first()
        second()

    return unlock


def _opened(path: Path) -> tuple[int, Callable[[], None]]:
    """Open a file for appending and lock it, unless it is no regular one; return what unlocks it."""
    try:
        while True:
            is_stream = path.exists() and not path.is_file()
            flags = os.O_WRONLY if is_stream else os.O_RDWR | os.O_CREAT
            descriptor = os.open(path, flags | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)
            if is_stream:
                return descriptor, lambda: None
            try:
                unlock = lock(descriptor, path)
            except BaseException:
                os.close(descriptor)
                raise
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor, unlock
            os.close(descriptor)  # another process put a new file in its place before we had the lock
            unlock()
    except OSError as error:
        raise OutputError(f"cannot open {str(path)!r} for writing: {error.strerror or error}") from error


def _is_regular(descriptor: int) -> bool:
    return stat.S_ISREG(os.fstat(descriptor).st_mode)


def _whole_lines(lines: Iterator[bytes], path: Path) -> Iterator[bytes]:
    """Yield lines but for a last one that a killed process left half written."""
    for line in lines:
        if not line.endswith(b"\n") and _is_half(line, path):
            return
        yield line


def _is_half(line: bytes, path: Path) -> bool:
    """Return whether a line without an end is the beginning of one of ours."""
    try:
        _parsed(line, path)
    except UsageError:
        # A machine that lost its power may leave zeros where the line should be.
        if line.startswith(FIRST_BYTES) or FIRST_BYTES.startswith(line) or not line.strip(b"\0"):
            return True
        raise
    return False


def _parsed(line: bytes, path: Path) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError:
        entry = None
    if isinstance(entry, dict) and {"id", "question"} <= entry.keys():
        return entry
    shown = line[:40].decode("utf-8", "replace")
    raise UsageError(
        f"{str(path)!r} holds what is no line of a batch, {shown!r}: give another -o, or --overwrite to empty it"
    )
