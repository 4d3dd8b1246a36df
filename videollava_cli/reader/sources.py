"""Where media come from: paths, URLs, hf:// names and stdin become files on this disk; knows nothing of frames."""

import difflib
import os
import select
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path

from videollava_cli.errors import MediaError
from videollava_cli.reader.limits import copy_bounded

STDIN = "-"
PIPE_SECONDS = 30.0  # without a byte


def to_file(source: str, scratch: Callable[[], Path], *, offline: bool = False) -> Path:
    """Return the file that a source names, fetched when it is not on this disk.

    Args:
        source: A path, `http(s)://` URL, `hf://[datasets/]owner/repo/path`, or `-` for bytes on stdin.
        scratch: Gives a private folder for what is fetched.
        offline: Refuse what would need the network; hf:// names are looked up in the local cache.

    Raises:
        MediaError: If there is no such file, or it cannot be fetched.
    """
    if source == STDIN:
        return _from_stdin(scratch)
    scheme = source.partition("://")[0].lower() if "://" in source else ""
    if scheme in ("http", "https"):
        if offline:
            raise MediaError(f"offline, so {source} cannot be fetched: leave --offline out or name a local file")
        from videollava_cli.reader.web import fetch_url  # urllib alone takes a third of a mistyped path's time

        return fetch_url(source, scratch())
    if scheme == "hf":
        return _from_hub(source, offline=offline)
    path = _on_disk(source)
    return _from_pipe(path, source, scratch) if path.is_fifo() else path


def _on_disk(source: str) -> Path:
    if not source:
        raise MediaError("the name of a medium is empty: give a path, a URL, or - for stdin")
    path = Path(os.path.expanduser(source))
    try:
        found = path.stat()
    except FileNotFoundError as error:
        raise MediaError(f"no such file: {source!r}{_suggestion(path)}") from error
    except (OSError, ValueError) as error:
        raise MediaError(f"cannot open {source!r}: {getattr(error, 'strerror', None) or error}") from error
    if stat.S_ISDIR(found.st_mode):
        raise MediaError(f"{source!r} is a folder: name the files in it")
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISFIFO(found.st_mode):
        raise MediaError(f"{source!r} is neither a file nor a pipe: save what it gives, or pipe it into `vllava ask -`")
    if found.st_size == 0 and not stat.S_ISFIFO(found.st_mode):
        raise MediaError(f"{source!r} is empty: 0 bytes")
    if not os.access(path, os.R_OK):
        raise MediaError(f"cannot open {source!r}: Permission denied")
    return path.absolute()


def _suggestion(path: Path) -> str:
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return ""
    found = difflib.get_close_matches(path.name, names, n=1, cutoff=0.75)
    return f"; did you mean {str(path.with_name(found[0]))!r}?" if found else ""


def _from_pipe(path: Path, name: str, scratch: Callable[[], Path]) -> Path:
    """Copy what comes through a named pipe, such as a shell's `<(command)`, as long as something comes."""
    target = scratch() / f"pipe-{len(list(scratch().iterdir()))}"
    try:
        # A pipe without a writer would otherwise keep us waiting for one, for ever.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as pipe, target.open("wb") as file:
            num_bytes = copy_bounded(_Pipe(pipe, name), file, name)
    except OSError as error:
        raise MediaError(f"cannot read {name!r}: {error.strerror or error}") from error
    if num_bytes == 0:
        raise MediaError(f"{name!r} is empty: 0 bytes came through the pipe")
    return target


@dataclass(frozen=True, slots=True)
class _Pipe:
    """The bytes that come through a pipe."""

    file: RawIOBase
    name: str

    def read(self, amount: int, /) -> bytes:
        """Return up to so many bytes, none at the end.

        Raises:
            MediaError: If nothing comes.
        """
        if not select.select([self.file], [], [], PIPE_SECONDS)[0]:
            raise MediaError(f"nothing came through {self.name!r} for {PIPE_SECONDS:g} s: is anything writing to it?")
        return self.file.read(amount) or b""


def _from_stdin(scratch: Callable[[], Path]) -> Path:
    if sys.stdin is None or sys.stdin.isatty():
        what = "closed" if sys.stdin is None else "the terminal"
        raise MediaError(f"'-' reads a video or image from stdin, and stdin is {what}: pipe a file into it")
    path = scratch() / "stdin"
    try:
        with path.open("wb") as file:
            num_bytes = copy_bounded(_Stdin(), file, "stdin")
    except OSError as error:
        raise MediaError(f"cannot copy stdin to {str(path.parent)!r}: {error.strerror or error}") from error
    if num_bytes == 0:
        raise MediaError("stdin is empty: 0 bytes")
    return path


class _Stdin:
    """The bytes on stdin."""

    def read(self, amount: int, /) -> bytes:
        """Return up to so many bytes, none at the end.

        Raises:
            MediaError: If stdin cannot be read, such as one that is open for writing only.
        """
        try:
            return sys.stdin.buffer.read(amount)
        except OSError as error:
            raise MediaError(f"cannot read stdin: {error.strerror or error}; pipe a file into it") from error


def _from_hub(source: str, *, offline: bool) -> Path:
    """Fetch `hf://[datasets/|spaces/]owner/repo[@revision]/path` through huggingface_hub's cache."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

    parts = source.partition("://")[2].split("/")
    repo_type = parts.pop(0).removesuffix("s") if parts[0] in ("datasets", "spaces") else "model"
    if len(parts) < 3 or not all(parts):
        raise MediaError(f"{source!r} is no file on the hub: write hf://[datasets/]owner/repo/path")
    repo, _, revision = parts[1].partition("@")
    try:
        return Path(
            hf_hub_download(
                repo_id=f"{parts[0]}/{repo}",
                filename="/".join(parts[2:]),
                repo_type=repo_type,
                revision=revision or None,
                local_files_only=offline,
            )
        )
    except (EntryNotFoundError, HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise MediaError(f"cannot fetch {source}: {reason}") from error
