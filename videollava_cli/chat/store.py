"""The files of conversations, readable by their owner only; knows disks, nothing of models or terminals."""

import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from videollava_cli.chat.transcript import Transcript, from_json, to_json
from videollava_cli.errors import OutputError, UsageError
from videollava_cli.settings import xdg_folder

MAX_BYTES = 64 << 20  # of a file that is taken for a conversation


@dataclass(frozen=True, slots=True)
class StateFolder:
    """The folder in which the last conversation and the typed lines are kept."""

    path: Path

    @classmethod
    def of(cls) -> "StateFolder":
        """Return `$XDG_STATE_HOME/vllava`."""
        return cls(xdg_folder("STATE"))

    @property
    def last(self) -> Path:
        """The file of the last conversation."""
        return self.path / "last.json"

    @property
    def lines(self) -> Path:
        """The file of the lines that were typed."""
        return self.path / "lines"

    def make(self) -> None:
        """Make the folder and the file of lines, or take from others what they may do with them.

        Raises:
            OutputError: If that cannot be done.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.path.chmod(0o700)
            self.lines.touch(mode=0o600)
            self.lines.chmod(0o600)
        except OSError as error:
            raise OutputError(f"nothing is kept of this conversation: {_reason(error)}") from error


def write_transcript(transcript: Transcript, path: Path) -> None:
    """Write a conversation to a file of mode 0600, which holds at each moment the old one or the new one.

    Raises:
        OutputError: If it cannot be written.
    """
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        try:
            with open(handle, "wb") as file:
                file.write(to_json(transcript))
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, path)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(name)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise OutputError(f"cannot write {str(path)!r}: {error.strerror or error}") from error


def read_transcript(path: Path) -> Transcript:
    """Read a conversation from a file.

    Raises:
        UsageError: If there is none in it.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {str(path)!r}: {getattr(error, 'strerror', None) or error}") from error
    if len(content) > MAX_BYTES:
        raise UsageError(f"{str(path)!r} is no conversation: it is larger than {MAX_BYTES >> 20} MiB")
    return from_json(content, str(path))


def check_target(path: Path) -> None:
    """Refuse to write a conversation over something that is none, such as a clip.

    Raises:
        UsageError: If that is what the path names.
    """
    if not path.exists():
        return
    try:
        read_transcript(path)
    except UsageError as error:
        raise UsageError(f"{str(path)!r} is there and holds no conversation: give another name") from error


def _sync_folder(folder: Path) -> None:
    """Have the folder's new entry on the disk, too, where folders can be synced."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)


def _reason(error: OSError) -> str:
    return f"{error.strerror or error}: {str(error.filename)!r}"
