"""The file that lines are appended to: its lock, its repair, the lines it holds already.

A killed process leaves whole lines and at most one half, which the next run cuts off.
"""

import json
import os
import stat
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from videollava_cli.batch.lines import LINE_KEYS, digests, path_in
from videollava_cli.engine.request import json_text
from videollava_cli.errors import OutputClosedError, OutputError, UsageError
from videollava_cli.text import parsed

FIRST_BYTES = b'{"id": '  # of every line
SECOND_KEY = ', "media": '
MAX_LINE_BYTES = 64 << 20  # of a line, to tell our files from others without reading them


@dataclass(slots=True)
class Held:
    """The content of a file: digests of answered and of failed items, number formats, and the bytes of whole lines."""

    answered: set[bytes] = field(default_factory=set)
    failed: set[bytes] = field(default_factory=set)
    compute_dtypes: set[str] = field(default_factory=set)
    num_bytes: int = 0

    def add(self, line: Mapping[str, Any]) -> None:
        """Note a line; an item that failed once and was answered later is answered."""
        keys = digests(line, path_in(line))
        if isinstance(dtype := line.get("compute_dtype"), str):  # lines of 0.1.0 have none
            self.compute_dtypes.add(dtype)
        if "error" not in line:
            self.answered.update(keys)
            self.failed.difference_update(keys)
        else:
            self.failed.update(key for key in keys if key not in self.answered)


def read_held(path: Path) -> Held:
    """Return the content of a file, none if it is not there; raises UsageError if it is no file of ours."""
    held = Held()
    try:
        if not path.is_file():
            return held
        with path.open("rb") as file:
            for line in file:
                try:
                    entry = _parsed(line, path)
                except UsageError:
                    # A machine that lost its power may leave zeros where the line should be.
                    is_lost = held.num_bytes > 0 and not line.strip(b"\0")
                    if not is_lost and not _is_half(line, is_first=not held.num_bytes):
                        raise
                    break
                held.add(entry)
                held.num_bytes += len(line)
    except OSError as error:
        raise OutputError(f"cannot read {str(path)!r}: {error.strerror or error}") from error
    return held


def is_results(path: Path) -> bool:
    """Return whether a file begins as the lines of a batch do; raises OSError if it cannot be read."""
    with path.open("rb") as file:
        line = file.readline(MAX_LINE_BYTES)
    return _is_half(line, is_first=True) or _entry(line) is not None


class Results:
    """A file, open until the context's end, of lines that this process alone writes; a pipe is written and not read.

    `is_fresh` empties it first, `redo_failed` drops the lines of failed items.

    Raises UsageError if another process writes it or it is no file of ours, OutputError if it cannot be opened.
    """

    def __init__(self, path: Path, *, is_fresh: bool = False, redo_failed: bool = False) -> None:
        self.path = path
        self.held = Held()
        with ExitStack() as stack:
            self._descriptor = _open(path, stack)
            self._is_regular = stat.S_ISREG(os.fstat(self._descriptor).st_mode)
            try:
                if self._is_regular and is_fresh:
                    read_held(path)  # raises if it is no file of ours, which nobody wants emptied
                    os.ftruncate(self._descriptor, 0)
                elif self._is_regular:
                    self._repair()
                    if redo_failed and self.held.failed:
                        self._drop_failed(stack)
                        self.held = read_held(path)
            except OSError as error:
                raise OutputError(f"cannot read or repair {str(path)!r}: {error.strerror or error}") from error
            self._open = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def write(self, line: Mapping[str, Any]) -> None:
        """Append a line by one call; if the disk takes only a part of it, cut that off and raise OutputError."""
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

    def _repair(self) -> None:
        self.held = read_held(self.path)
        os.ftruncate(self._descriptor, self.held.num_bytes)
        with self.path.open("rb") as file:
            file.seek(max(0, self.held.num_bytes - 1))
            if file.read(1) not in (b"\n", b""):  # an editor may leave a last line without its end
                self.held.num_bytes += os.write(self._descriptor, b"\n")

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


def _parsed(line: bytes, path: Path) -> dict[str, Any]:
    if (entry := _entry(line)) is not None:
        return entry
    shown = line[:40].decode("utf-8", "replace")
    raise UsageError(f"{str(path)!r} holds what is no line of a batch, {shown!r}: give another -o")


def _entry(line: bytes) -> dict[str, Any] | None:
    """Return the object of a whole line of ours; None for anything else, such as a line of --questions."""
    try:
        entry = parsed(json.loads, line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and entry.keys() >= set(LINE_KEYS) else None


def _is_half(line: bytes, *, is_first: bool) -> bool:
    """Return whether the end of a file is the beginning of a line of ours.

    In the first line of a file the key after the id must be ours, too: many files of others begin with an id.
    """
    if line.endswith(b"\n") or not (line.startswith(FIRST_BYTES) or FIRST_BYTES.startswith(line)):
        return False
    text = line.decode("utf-8", "replace")
    if not text[len(FIRST_BYTES) :].strip("-0123456789"):  # it ends before the id, or in a number
        return True
    if text[len(FIRST_BYTES)] not in '"-0123456789':
        return False
    try:
        _, end = json.JSONDecoder().raw_decode(text, len(FIRST_BYTES))
    except ValueError:  # it ends in a text
        return True
    try:
        parsed(json.loads, text)
    except ValueError:
        return not is_first or text.startswith(SECOND_KEY, end) or SECOND_KEY.startswith(text[end:])
    return False  # a whole object, of somebody else
