"""Where media come from: paths, URLs, hf:// names, pipes and stdin become files on this disk, within limits."""

import difflib
import errno
import os
import select
import shutil
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, TYPE_CHECKING

from videollava_cli.errors import MediaError

if TYPE_CHECKING:
    import urllib.request

MAX_BYTES = 8 << 30  # of a download, a pipe or stdin
COPY_BYTES = 1 << 20
PIPE_SECONDS = 30.0  # without a byte
TIMEOUT_SECONDS = 30.0  # without a byte from a server


def to_file(source: str, scratch: Callable[[], Path], *, offline: bool = False) -> Path:
    """Return the file that a source names, fetched into the folder that `scratch` gives if it is not on this disk.

    A source is a path, `http(s)://` URL, `hf://[datasets/]owner/repo/path`, or `-` for bytes on stdin. With `offline`,
    what would need the network is refused, and hf:// names are looked up in the local cache. Raises MediaError.
    """
    if source == "-":
        return _from_stdin(scratch)
    scheme = source.partition("://")[0].lower() if "://" in source else ""
    if scheme in ("http", "https"):
        if offline:
            raise MediaError(f"offline, so {source} cannot be fetched: leave --offline out or name a local file")
        return _from_web(source, scratch)
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
    except (OSError, ValueError) as error:
        raise MediaError(_why_not_there(source, path, error)) from error
    if stat.S_ISDIR(found.st_mode):
        raise MediaError(f"{source!r} is a folder: name the files in it")
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISFIFO(found.st_mode):
        raise MediaError(f"{source!r} is neither a file nor a pipe: save what it gives, or pipe it into `vllava ask -`")
    if found.st_size == 0 and not stat.S_ISFIFO(found.st_mode):
        raise MediaError(f"{source!r} is empty: 0 bytes")
    if not os.access(path, os.R_OK):
        raise MediaError(f"cannot open {source!r}: Permission denied")
    return path.absolute()


def _why_not_there(source: str, path: Path, error: OSError | ValueError) -> str:
    """Say why a path cannot be looked up; a link that leads nowhere is there by its name."""
    if isinstance(error, OSError) and error.errno == errno.ELOOP:
        return f"{source!r} is a link that leads in a circle: make it anew"
    is_missing = isinstance(error, FileNotFoundError)
    try:
        target = os.readlink(path)
        is_missing |= isinstance(error, NotADirectoryError)
    except (OSError, ValueError):  # no link
        if is_missing:
            return f"no such file: {source!r}{_suggestion(path)}"
        return f"cannot open {source!r}: {getattr(error, 'strerror', None) or error}"
    if is_missing:
        return f"{source!r} is a link to {target!r}, and there is no such file: make it anew"
    return f"{source!r} is a link to {target!r}, which cannot be opened: {getattr(error, 'strerror', None) or error}"


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
        raise MediaError(f"cannot read {name!r}: {error.strerror or error}") from error


def _from_stdin(scratch: Callable[[], Path]) -> Path:
    if sys.stdin is None or sys.stdin.isatty():
        what = "closed" if sys.stdin is None else "the terminal"
        raise MediaError(f"'-' reads a video or image from stdin, and stdin is {what}: pipe a file into it")

    def read(amount: int) -> bytes:
        try:
            return sys.stdin.buffer.read(amount)
        except OSError as error:  # as of a stdin that is open for writing only
            raise MediaError(f"cannot read stdin: {error.strerror or error}; pipe a file into it") from error

    folder = scratch()
    try:
        return _save(read, folder, "stdin", if_empty="stdin is empty: 0 bytes")
    except OSError as error:
        raise MediaError(f"cannot copy stdin to {str(folder)!r}: {error.strerror or error}") from error


def _from_web(url: str, scratch: Callable[[], Path]) -> Path:
    """Fetch an `http(s)://` URL; it must come whole, and must not redirect to another scheme."""
    import urllib.error  # here, as it takes a third of a mistyped path's time
    import urllib.request
    from http.client import HTTPException

    folder = scratch()
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "vllava"})  # noqa: S310 (http(s), see to_file)
        with _web_opener().open(request, timeout=TIMEOUT_SECONDS) as response:
            length = response.headers.get("Content-Length") or ""
            expected = int(length) if length.isdigit() else 0
            if_empty = f"cannot fetch {url}: the server sent 0 bytes"
            return _save(response.read, folder, url, if_empty=if_empty, num_expected=expected)
    except urllib.error.HTTPError as error:
        raise MediaError(f"cannot fetch {url}: the server says {error.code} {error.reason}") from error
    except (OSError, HTTPException, ValueError) as error:
        raise MediaError(f"cannot fetch {url}: {getattr(error, 'reason', None) or error}") from error


def _web_opener() -> "urllib.request.OpenerDirector":
    """Return an opener that follows redirects to http and https only."""
    import urllib.error
    import urllib.request

    class WebRedirects(urllib.request.HTTPRedirectHandler):
        def redirect_request(
            self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: object, newurl: str
        ) -> urllib.request.Request | None:
            """Follow a redirect to http or https only."""
            if not newurl.lower().startswith(("http://", "https://")):
                raise urllib.error.URLError(f"it redirects to {newurl}, which is not http or https")
            return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]

    return urllib.request.build_opener(WebRedirects)


def _save(read: Callable[[int], bytes], folder: Path, name: str, *, if_empty: str, num_expected: int = 0) -> Path:
    """Copy bytes to a new file until `read` gives none; the file is removed if that fails."""
    total = 0
    file = NamedTemporaryFile(dir=folder, prefix="fetched-", delete=False)  # noqa: SIM115
    try:
        with file:
            while block := read(COPY_BYTES):
                total += len(block)
                if total > MAX_BYTES:
                    raise MediaError(f"{name} is larger than {MAX_BYTES >> 30} GiB: save it and name the file")
                if shutil.disk_usage(folder).free < COPY_BYTES:
                    raise MediaError(f"no disk space left in {str(folder)!r} for {name}")
                file.write(block)
        if total < num_expected:
            raise MediaError(f"cannot fetch {name}: the connection ended after {total} of {num_expected} bytes")
        if total == 0:
            raise MediaError(if_empty)
    except BaseException:
        Path(file.name).unlink(missing_ok=True)
        raise
    return Path(file.name)


def _from_hub(source: str, *, offline: bool) -> Path:
    """Fetch `hf://[datasets/|spaces/]owner/repo[@revision]/path` through huggingface_hub's cache."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

    parts = source.partition("://")[2].split("/")
    repo_type = parts.pop(0).removesuffix("s") if parts[0] in ("datasets", "spaces") else "model"
    if len(parts) < 3 or not all(parts):
        raise MediaError(f"{source!r} is no file on the hub: write hf://[datasets/]owner/repo/path")
    repo, _, revision = parts[1].partition("@")
    repo_id, filename = f"{parts[0]}/{repo}", "/".join(parts[2:])
    try:
        return Path(
            hf_hub_download(repo_id, filename, repo_type=repo_type, revision=revision or None, local_files_only=offline)
        )
    except (EntryNotFoundError, HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        raise MediaError(f"cannot fetch {source}: {str(error).strip().splitlines()[0]}") from error
