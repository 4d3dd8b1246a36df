"""A conversation as it is saved: its JSON, and its file, which only its owner can read."""

import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from videollava_cli.errors import OutputError, UsageError, first_line
from videollava_cli.media import MediaKind
from videollava_cli.text import check_unicode, parsed

FORMAT = "vllava conversation"
VERSION = 1  # of the JSON; a larger one is refused
TYPED_LINES = "lines"  # a file of the state folder
MAX_BYTES = 64 << 20  # of a file with a conversation

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class ShownMedium:
    """Where a medium came from (an absolute path, a URL, an hf:// name, or `-`) and how it was read.

    `start` and `end` are in seconds; `side` is that of the model's square, `digest` that of the pixels it saw.
    """

    name: str
    kind: MediaKind
    start: float | None
    end: float | None
    at: str | None
    fit: str
    side: int
    digest: str


@dataclass(frozen=True, slots=True)
class AnsweredTurn:
    """A question with the media shown with it, and its answer, whole or stopped by the user."""

    question: str
    answer: str
    media: tuple[ShownMedium, ...] = ()
    is_stopped: bool = False

    def __post_init__(self) -> None:
        if not self.question.strip():
            raise ValueError("a question is empty")
        check_unicode(self.question, "the question")
        check_unicode(self.answer, "the answer")


@dataclass(frozen=True, slots=True)
class Transcript:
    """A conversation, and what it takes to continue it.

    `queued` media wait for the next question; the first `num_left_out` turns did not fit the context any more.
    """

    model: str
    revision: str | None
    settings: Mapping[str, object]
    turns: tuple[AnsweredTurn, ...] = ()
    queued: tuple[ShownMedium, ...] = ()
    num_left_out: int = 0

    @property
    def media(self) -> tuple[ShownMedium, ...]:
        """All media, in the order in which they were shown."""
        return (*(medium for turn in self.turns for medium in turn.media), *self.queued)


def to_json(transcript: Transcript) -> bytes:
    """Return a transcript as UTF-8 JSON; what no Unicode can hold, such as odd file names, as JSON's own escapes."""
    content = {"format": FORMAT, "version": VERSION, **asdict(transcript)}
    return (json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode("utf-8", "backslashreplace")


def from_json(content: bytes, name: str) -> Transcript:
    """Return the transcript in the content of the file `name`; raises a UsageError if we cannot read one."""
    try:
        found = parsed(json.loads, content)
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise ValueError("no conversation of vllava")
        if found.get("version") != VERSION:
            raise ValueError(f"its version is {found.get('version')!r}, and this vllava reads {VERSION}")
        return _object(Transcript, found)
    except (ValueError, UsageError) as error:
        raise UsageError(f"cannot take up the conversation in {name!r}: {first_line(error)}") from error


def _object(kind: type[Value], found: object) -> Value:
    """Return a JSON object as a dataclass whose types it has; other keys are ignored."""
    if not isinstance(found, dict):
        raise ValueError(f"{found!r:.40} stands where an object belongs")
    return kind(**{key: _field(hint, found, key) for key, hint in get_type_hints(kind).items()})


def _field(hint: Any, found: dict[str, Any], key: str) -> Any:
    value = found.get(key)
    if get_origin(hint) is tuple and isinstance(value, list):
        return tuple(_object(get_args(hint)[0], item) for item in value)
    if hint is MediaKind and isinstance(value, str):
        return MediaKind(value)
    types = get_args(hint) if isinstance(hint, UnionType) else (get_origin(hint) or hint,)
    types = (*types, int) if float in types else types
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        raise ValueError(f"{key} is {value!r:.40}" if key in found else f"{key} is missing")
    return value


def make_state_folder(folder: Path) -> None:
    """Make the folder of conversations and typed lines for its owner alone, or raise an OutputError."""
    lines = folder / TYPED_LINES
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        lines.touch(mode=0o600)
        lines.chmod(0o600)
    except OSError as error:
        reason = f"{error.strerror or error}: {str(error.filename)!r}"
        raise OutputError(f"nothing is kept of this conversation: {reason}") from error


def write_transcript(transcript: Transcript, path: Path) -> None:
    """Write a conversation to a file of mode 0600 that always holds the old one or the new, or raise an OutputError."""
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        try:
            with open(handle, "wb") as file:
                file.write(to_json(transcript))
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, path)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(name)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            with suppress(OSError):  # not every folder can be synced
                os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise OutputError(f"cannot write {str(path)!r}: {error.strerror or error}") from error


def read_transcript(path: Path) -> Transcript:
    """Read a conversation from a file; raises a UsageError if there is none in it."""
    try:
        if path.exists() and not path.is_file():  # a pipe would keep us waiting
            raise UsageError(f"{str(path)!r} is no file: name one that /save wrote")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {str(path)!r}: {getattr(error, 'strerror', None) or error}") from error
    if len(content) > MAX_BYTES:
        raise UsageError(f"{str(path)!r} is no conversation: it is larger than {MAX_BYTES >> 20} MiB")
    return from_json(content, str(path))


def is_transcript(path: Path) -> bool:
    """Return whether a file holds a conversation; raises OSError if it cannot be read."""
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    try:
        return len(content) <= MAX_BYTES and bool(from_json(content, str(path)))
    except UsageError:
        return False
