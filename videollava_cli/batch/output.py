"""The file that lines are appended to: its lock, its repair, the lines it holds already.

Each line is written by one call as soon as it is known, so a process that is killed leaves whole lines and at most one
half, which the next run cuts off. The part of a line that a full disk took is cut off at once.
"""

import json
import os
import stat
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from videollava_cli.batch.lines import FIRST_BYTES, digest
from videollava_cli.engine.request import json_text
from videollava_cli.errors import OutputClosedError, OutputError, UsageError


@dataclass(slots=True)
class Held:
    """The content of a file: digests of answered and of failed items, and where its whole lines end, in bytes."""

    answered: set[bytes] = field(default_factory=set)
    failed: set[bytes] = field(default_factory=set)
    num_bytes: int = 0

    def add(self, line: Mapping[str, Any]) -> None:
        """Note a line; an item that failed once and was answered later is answered."""
        key = digest(line)
        if "error" not in line:
            self.answered.add(key)
            self.failed.discard(key)
        elif key not in self.answered:
            self.failed.add(key)


def read_held(path: Path) -> Held:
    """Return the content of a file without changing it; nothing if there is none.

    Raises:
        UsageError: If it is no file of ours.
        OutputError: If it cannot be read.
    """
    held = Held()
    try:
        if not path.is_file():
            return held
        with path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n") and _is_half(line, path):
                    break
                held.add(_parsed(line, path))
                held.num_bytes += len(line)
    except OSError as error:
        raise OutputError(f"cannot read {str(path)!r}: {error.strerror or error}") from error
    return held


class Results:
    """An open file of lines that this process alone writes. Use it as a context manager.

    Args:
        path: The file; made if it is not there. A pipe or a device is written and not read.
        is_fresh: Empty it first.
        redo_failed: Drop the lines of failed items, so that they can be asked again.

    Raises:
        UsageError: If another process writes it, or it is no file of ours.
        OutputError: If it cannot be opened.
    """

    def __init__(self, path: Path, *, is_fresh: bool = False, redo_failed: bool = False) -> None:
        self.path = path
        with ExitStack() as stack:
            self._descriptor = _open(path, stack)
            self._is_regular = stat.S_ISREG(os.fstat(self._descriptor).st_mode)
            try:
                self.held = self._prepare(stack, is_fresh=is_fresh, redo_failed=redo_failed)
            except OSError as error:
                raise OutputError(f"cannot read or repair {str(path)!r}: {error.strerror or error}") from error
            self._open = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, which unlocks it."""
        self._open.close()

    def write(self, line: Mapping[str, Any]) -> None:
        """Append a line.

        Raises:
            OutputClosedError: If the file is a pipe whose reader went away.
            OutputError: If it cannot be written, such as on a full disk; earlier lines stay.
        """
        content = memoryview(json_text(line).encode())
        size = len(content)
        try:
            while content:
                content = content[os.write(self._descriptor, content) :]
        except BrokenPipeError as error:
            raise OutputClosedError("the reader of the output went away") from error
        except OSError as error:
            if self._is_regular:
                os.ftruncate(self._descriptor, self.held.num_bytes)
            raise OutputError(
                f"cannot write {str(self.path)!r}: {error.strerror}; what it holds is kept: make room, and run the "
                f"same command again to go on"
            ) from error
        self.held.num_bytes += size
        self.held.add(line)

    def _prepare(self, stack: ExitStack, *, is_fresh: bool, redo_failed: bool) -> Held:
        if not self._is_regular:
            return Held()
        if is_fresh:
            os.ftruncate(self._descriptor, 0)
            return Held()
        held = read_held(self.path)
        os.ftruncate(self._descriptor, held.num_bytes)
        self._end_last_line(held)
        if redo_failed and held.failed:
            self._drop_failed(stack)
            return read_held(self.path)
        return held

    def _end_last_line(self, held: Held) -> None:
        """End a last line that is whole but for its end, as an editor may leave it."""
        with self.path.open("rb") as file:
            file.seek(max(0, held.num_bytes - 1))
            if file.read(1) not in (b"\n", b""):
                held.num_bytes += os.write(self._descriptor, b"\n")

    def _drop_failed(self, stack: ExitStack) -> None:
        """Put a file without the lines of failed items in the place of this one, at once and under a lock."""
        unfinished = self.path.with_name(f".{self.path.name}.unfinished")
        descriptor = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o666)
        stack.callback(os.close, descriptor)
        try:
            _lock(descriptor, unfinished, stack)
            with self.path.open("rb") as file, open(os.dup(descriptor), "wb") as kept:
                kept.writelines(line for line in file if "error" not in _parsed(line, self.path))
                kept.flush()
                os.fsync(descriptor)
            os.replace(unfinished, self.path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
        self._descriptor = descriptor  # the file before stays locked until both are closed


def _open(path: Path, stack: ExitStack) -> int:
    """Return a descriptor for appending to a file, locked if it is a regular one; the stack closes it."""
    try:
        while True:
            is_stream = path.exists() and not path.is_file()
            flags = os.O_WRONLY if is_stream else os.O_RDWR | os.O_CREAT
            descriptor = os.open(path, flags | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)
            with ExitStack() as attempt:
                attempt.callback(os.close, descriptor)
                if not is_stream:
                    _lock(descriptor, path, attempt)
                if is_stream or (path.exists() and os.path.samestat(os.fstat(descriptor), path.stat())):
                    stack.push(attempt.pop_all())
                    return descriptor
            # Another process put a new file in its place before we had the lock: try again.
    except OSError as error:
        raise OutputError(f"cannot open {str(path)!r} for writing: {error.strerror or error}") from error


def _lock(descriptor: int, path: Path, stack: ExitStack) -> None:
    """Lock an open file until it is closed, or this process ends in whatever way.

    Where the file system has no such locks, a file beside it, `NAME.lock`, stands for one until the stack is closed.

    Raises:
        UsageError: If another process writes it, or it cannot be locked.
    """
    import filelock

    try:
        is_locked = filelock.lock_descriptor(descriptor, blocking=False)
    except OSError:  # a file system without locks
        stand_in = filelock.SoftFileLock(path.with_name(f"{path.name}.lock"))
        try:
            stack.enter_context(stand_in.acquire(blocking=False))
        except filelock.Timeout as error:
            raise UsageError(
                f"another process is writing {str(path)!r}, or was killed: if none is, remove {stand_in.lock_file!r}"
            ) from error
        except OSError as error:
            raise UsageError(f"cannot lock {str(path)!r}: {error.strerror or error}") from error
        return
    if not is_locked:
        raise UsageError(f"another process is writing {str(path)!r}: wait for it, or give another -o")


def _is_half(line: bytes, path: Path) -> bool:
    """Return whether a line without an end is the beginning of one of ours, which a killed process left."""
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
