"""Every conversation that is kept: a file each, named by an id that sorts by its beginning."""

import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from videollava_cli.chat.transcript import Transcript, read_transcript, write_transcript
from videollava_cli.errors import OutputError, UsageError

FOLDER = "conversations"  # of the state folder
OF_0_1_0 = "last.json"  # the only conversation that version 0.1.0 kept, in the state folder itself
# Or its beginning: date, time, and four random digits.
ID = re.compile(r"\d{1,6}|\d{6}-\d{0,6}|\d{6}-\d{6}-[0-9a-f]{0,4}", re.IGNORECASE)
SEE_LIST = "see vllava chat --list"

Stamp = tuple[int, int]  # the inode of a file and when it was written, in nanoseconds: another one was written since


def conversations(state: Path) -> list[Path]:
    """Return the files of all conversations, the last used one first; that of version 0.1.0 becomes one of them."""
    folder, old = state / FOLDER, state / OF_0_1_0
    if old.is_file():
        with suppress(OSError):  # another process does it, or the folder may not be written
            folder.mkdir(mode=0o700, exist_ok=True)
            old.rename(folder / f"{_new_id(old.stat().st_mtime)}.json")
    found = {}
    for path in (*folder.glob("*.json"), old):
        with suppress(OSError):  # another process may remove it meanwhile
            found[path] = path.stat().st_mtime_ns
    return sorted(found, key=lambda path: (found[path], path.name), reverse=True)


def find_conversation(state: Path, beginning: str | None) -> Path:
    """Return the file of the last used conversation, or of the one whose id begins so; raises UsageError."""
    found = conversations(state)
    if beginning is None:
        if not found:
            raise UsageError(f"there is no conversation to take up in {str(state)!r}: leave --continue out")
        return found[0]
    wanted = beginning.lower()
    fitting = [path for path in found if wanted and path.stem.startswith(wanted)]  # "" begins every id
    if not fitting:
        raise UsageError(f"there is no conversation {beginning!r}: {SEE_LIST}")
    if len(fitting) > 1 and wanted not in {path.stem for path in fitting}:
        raise UsageError(f"{len(fitting)} conversations begin with {beginning!r}: give more of the id; {SEE_LIST}")
    return min(fitting, key=lambda path: len(path.stem))


def summary(path: Path) -> dict[str, Any]:
    """Return what a list of conversations says of one, as JSON can have it; raises UsageError if it cannot be read."""
    transcript = read_transcript(path)
    used = datetime.fromtimestamp(path.stat().st_mtime).astimezone()
    return {
        "id": path.stem,
        "last_used": used.isoformat(timespec="seconds"),
        "turns": len(transcript.turns),
        "model": transcript.model,
        "media": [os.path.basename(medium.name) or medium.name for medium in transcript.media],
        "question": transcript.turns[0].question if transcript.turns else "",
    }


def delete_conversations(state: Path, beginnings: Sequence[str]) -> list[str]:
    """Remove the conversations with these ids, or beginnings of them, and return their ids; raises UsageError."""
    paths = dict.fromkeys(find_conversation(state, beginning) for beginning in beginnings)
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"cannot remove {str(path)!r}: {error.strerror or error}") from error
    return [path.stem for path in paths]


class Keeper:
    """Keeps one conversation on disk, turn by turn, and of all conversations the `keep_last` that were used last.

    What another process wrote since is not overwritten: the conversation then goes on under an id of its own, and
    `notice` is told so.
    """

    keep_last: int

    def __init__(self, state: Path, notice: Callable[[str], None]) -> None:
        self.state, self.notice = state, notice
        self.path: Path | None = None
        self.saved: Transcript | None = None
        self._stamp: Stamp | None = None

    def take_up(self, path: Path) -> Transcript:
        """Read a conversation, to go on with it in its file; raises UsageError."""
        self.path, self._stamp = path, _stamp(path)
        try:
            self.saved = read_transcript(path)
        except UsageError as error:
            raise UsageError(f"{error}; vllava chat --delete {path.stem} removes it") from error
        return self.saved

    def begin(self) -> None:
        """Leave the file to the conversation that it has: what is kept from now on is another one."""
        self.path = self.saved = self._stamp = None

    def keep(self, transcript: Transcript) -> None:
        """Save the conversation if it has changed, and not before its first turn; raises OutputError."""
        if transcript == self.saved or not (transcript.turns or self.saved):
            return
        folder = self.state / FOLDER
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            with _locked(folder):
                self._write(transcript, folder)
        except OSError as error:
            raise OutputError(f"cannot write {str(folder)!r}: {error.strerror or error}") from error

    def _write(self, transcript: Transcript, folder: Path) -> None:
        is_new = self.path is None
        if self.path is not None and _stamp(self.path) not in (self._stamp, None):
            here, is_new = self.path.stem, True
            self.path = _new_path(folder)
            self.notice(f"another vllava went on with {here}, so this conversation goes on as {self.path.stem}")
        self.path = self.path or _new_path(folder)
        write_transcript(transcript, self.path)
        self._stamp, self.saved = _stamp(self.path), transcript
        if is_new:
            for path in conversations(self.state)[self.keep_last :]:
                path.unlink(missing_ok=True)


def _new_path(folder: Path) -> Path:
    while (path := folder / f"{_new_id(time.time())}.json").exists():
        pass
    return path


def _new_id(began: float) -> str:
    return f"{time.strftime('%y%m%d-%H%M%S', time.localtime(began))}-{secrets.token_hex(2)}"


def _stamp(path: Path) -> Stamp | None:
    """Return which version of a file is there, None if there is none."""
    with suppress(OSError):
        found = path.stat()
        return found.st_ino, found.st_mtime_ns
    return None


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one process at a time write into a folder."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(ImportError, OSError):  # Windows has no flock, nor have some network disks
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
