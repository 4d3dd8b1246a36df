"""Where media come from: paths, URLs, hf:// names, pipes, stdin and bytes become files on this disk, within limits."""

import difflib
import errno
import os
import select
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from videollava_cli.errors import MediaError, UsageError
from videollava_cli.reader.urls import is_web, local_path, shown_name

MAX_BYTES = 8 << 30  # of a download, a pipe or stdin
COPY_BYTES = 1 << 20
PIPE_SECONDS = 30.0  # without a byte
MORE_ROOM = "point TMPDIR to a disk with more room"
WEB_PAGES = ("text/html", "application/xhtml+xml")  # types of content


def to_file(source: str, scratch: Callable[[], Path], *, offline: bool = False) -> Path:
    """Return the file that a source names, fetched into the folder that `scratch` gives if it is not on this disk.

    A source is a path or its `file://` URL, an `http(s)://` URL, `hf://[datasets/]owner/repo/path`, or `-` for bytes on
    stdin. With `offline`, what would need the network is refused, and hf:// names are looked up in the local cache.
    Raises MediaError.
    """
    if source == "-":
        return _from_stdin(scratch)
    if is_web(source):
        if offline:
            name = shown_name(source)
            raise MediaError(f"offline, so {name} cannot be fetched: leave --offline out or name a local file")
        return _from_web(source, scratch)
    if source[:5].lower() == "hf://":
        from videollava_cli.reader.hub import fetch_file

        return fetch_file(source, offline=offline)
    name = local_path(source)
    if name[:7].lower() == "file://":
        raise MediaError(f"{shown_name(name)!r} names no file of this machine: write file:///PATH, or the path alone")
    path = _on_disk(name)
    return _from_pipe(path, name, scratch) if path.is_fifo() else path


def from_memory(source: Any, scratch: Callable[[], Path]) -> tuple[Path, str]:
    """Copy bytes, or the rest of an open binary file, to a new file; return it and a name for it. Raises MediaError."""
    if isinstance(source, bytes | bytearray | memoryview):
        return _save(BytesIO(bytes(source)).read, scratch(), "bytes", if_empty="'bytes' is empty: 0 bytes"), "bytes"
    file, given = source, getattr(source, "name", None)
    name = os.fsdecode(given) if isinstance(given, str | bytes) else "open file"
    if getattr(file, "closed", False):
        raise MediaError(f"{name!r} is closed: give a file that is open, or its path")

    def read(amount: int) -> bytes:
        try:
            block = file.read(amount) or b""
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "is it open for reading?"
            raise MediaError(f"cannot read {name!r}: {reason}") from error
        if isinstance(block, str):
            raise UsageError(f"{name!r} is open as text: open it with mode 'rb'")
        return block

    if_empty = f"{name!r} has nothing to read: it is empty, or was read to its end, and file.seek(0) goes back"
    return _save(read, scratch(), name, if_empty=if_empty), name


def _on_disk(source: str) -> Path:
    if not source:
        raise MediaError("the name of a medium is empty: give a path, a URL, or - for stdin")
    path = Path(os.path.expanduser(source))
    try:
        found = path.stat()
    except OSError as error:
        raise MediaError(_why_not_there(source, path, error)) from error
    except ValueError as error:  # a zero byte, or no Unicode
        raise MediaError(f"cannot open {source!r}: no file can have this name") from error
    if stat.S_ISDIR(found.st_mode):
        raise MediaError(f"{source!r} is a folder: name the files in it, or ask about all of them by vllava batch")
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISFIFO(found.st_mode):
        raise MediaError(f"{source!r} is neither a file nor a pipe: save what it gives, or pipe it into `vllava ask -`")
    if found.st_size == 0 and not stat.S_ISFIFO(found.st_mode):
        raise MediaError(f"{source!r} is empty: 0 bytes")
    if not os.access(path, os.R_OK):
        raise MediaError(f"cannot open {source!r}: Permission denied")
    return path.absolute()


def _why_not_there(source: str, path: Path, error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return f"{source!r} is a link that leads in a circle: make it anew"
    if os.path.islink(path):  # its name is there
        link = f"{source!r} is a link to {os.readlink(path)!r}"
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            return f"{link}, and there is no such file: make it anew"
        return f"{link}, which cannot be opened: {error.strerror}"
    if not isinstance(error, FileNotFoundError):
        return f"cannot open {source!r}: {error.strerror}"
    advice = "; the URLs that work begin with https, http, hf and file" if "://" in source else _suggestion(path)
    return f"no such file: {shown_name(source)!r}{advice}"


def _suggestion(path: Path) -> str:
    try:
        names = [entry.name for entry in path.parent.iterdir() if entry.exists()]
    except OSError:
        return ""
    found = difflib.get_close_matches(path.name, names, n=1, cutoff=0.75)
    return f"; did you mean {str(path.with_name(found[0]))!r}?" if found else ""


def _from_pipe(path: Path, name: str, scratch: Callable[[], Path]) -> Path:
    """Copy what comes through a named pipe, such as a shell's `<(command)`, as long as something comes."""
    try:
        # A pipe without a writer would otherwise keep us waiting for one, for ever.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as pipe:

            def read(amount: int) -> bytes:
                if select.select([pipe], [], [], PIPE_SECONDS)[0]:
                    return pipe.read(amount) or b""
                raise MediaError(f"nothing came through {name!r} for {PIPE_SECONDS:g} s: is anything writing to it?")

            return _save(read, scratch(), name, if_empty=f"{name!r} is empty: 0 bytes came through the pipe")
    except OSError as error:
        raise MediaError(f"cannot read {name!r}: {error.strerror}") from error


def _from_stdin(scratch: Callable[[], Path]) -> Path:
    if sys.stdin is None or sys.stdin.isatty():
        what = "closed" if sys.stdin is None else "the terminal"
        raise MediaError(f"'-' reads a video or image from stdin, and stdin is {what}: pipe a file into it")

    def read(amount: int) -> bytes:
        try:
            return sys.stdin.buffer.read(amount)
        except OSError as error:  # as of a stdin that is open for writing only
            raise MediaError(f"cannot read stdin: {error.strerror}; pipe a file into it") from error

    return _save(read, scratch(), "stdin", if_empty="stdin is empty: 0 bytes")


def _from_web(url: str, scratch: Callable[[], Path]) -> Path:
    """Fetch an `http(s)://` URL; it must come whole, and must be no web page."""
    from videollava_cli.reader.web import opened  # here, as it takes a third of a mistyped path's time

    name = shown_name(url)
    with opened(url) as response:
        length = response.headers.get("Content-Length") or ""
        expected = int(length) if length.isdecimal() else 0
        if_empty = f"cannot fetch {name}: the server sent 0 bytes"
        path = _save(response.read, scratch(), name, if_empty=if_empty, num_expected=expected)
    from videollava_cli.reader.foreign import WEB_PAGE, head_of, is_text, no_medium

    if response.headers.get_content_type() in WEB_PAGES and is_text(head_of(path)):
        path.unlink()
        raise MediaError(no_medium(name, WEB_PAGE))
    return path


def _save(read: Callable[[int], bytes], folder: Path, name: str, *, if_empty: str, num_expected: int = 0) -> Path:
    """Copy bytes to a new file until `read` gives none; the file is removed if that fails."""
    total = 0
    with _copy_errors(name, folder):
        file = NamedTemporaryFile(dir=folder, prefix="fetched-", delete=False)  # noqa: SIM115
    try:
        with file:
            while block := read(COPY_BYTES):
                total += len(block)
                if total > MAX_BYTES:
                    raise MediaError(f"{name} is larger than {MAX_BYTES >> 30} GiB: save it and name the file")
                with _copy_errors(name, folder):
                    if shutil.disk_usage(folder).free < COPY_BYTES:
                        raise MediaError(f"no disk space left in {str(folder)!r} for {name}: {MORE_ROOM}")
                    file.write(block)
                    file.flush()
        if total < num_expected:
            raise MediaError(f"cannot fetch {name}: the connection ended after {total} of {num_expected} bytes")
        if total == 0:
            raise MediaError(if_empty)
    except BaseException:
        Path(file.name).unlink(missing_ok=True)
        raise
    return Path(file.name)


@contextmanager
def _copy_errors(name: str, folder: Path) -> Iterator[None]:
    """Tell errors of this disk from those of where the bytes come from."""
    try:
        yield
    except OSError as error:
        message = f"cannot copy {name} to {str(folder)!r}: {error.strerror}; {MORE_ROOM}"
        raise MediaError(message) from error
