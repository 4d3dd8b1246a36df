"""A conversation as it is written down, and its JSON; knows nothing of disks, models or pixels."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from videollava_cli.errors import UsageError, first_line
from videollava_cli.media import MediaKind

FORMAT = "vllava conversation"
VERSION = 1  # of the JSON; a larger one is refused


@dataclass(frozen=True, slots=True)
class Source:
    """Where a medium came from and how it was read.

    `name` is an absolute path, a URL, an hf:// name, or `-`; `start`, `end` (seconds) and `at` chose the frames of a
    clip, `fit` brought them to the model's square, of `side` pixels. `digest` is that of the pixels the model saw.
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
class Said:
    """A finished turn: a question with the media shown with it, and its answer, whole or stopped by the user."""

    question: str
    answer: str
    media: tuple[Source, ...] = ()
    is_stopped: bool = False


@dataclass(frozen=True, slots=True)
class Transcript:
    """A conversation, and what it takes to go on with it.

    `settings` are those that can change from answer to answer; `queued` media wait for the next question; the first
    `num_left_out` turns did not fit the context any more.
    """

    model: str
    revision: str | None
    settings: Mapping[str, object]
    turns: tuple[Said, ...] = ()
    queued: tuple[Source, ...] = ()
    num_left_out: int = 0

    @property
    def sources(self) -> tuple[Source, ...]:
        """All media, in the order in which they were shown."""
        return (*(source for turn in self.turns for source in turn.media), *self.queued)


def to_json(transcript: Transcript) -> bytes:
    """Return a transcript as UTF-8 JSON; what no Unicode can hold, such as odd file names, as JSON's own escapes."""
    written = {"format": FORMAT, "version": VERSION, **asdict(transcript)}
    return (json.dumps(written, ensure_ascii=False, indent=1) + "\n").encode("utf-8", "backslashreplace")


def from_json(content: bytes, name: str) -> Transcript:
    """Return the transcript that is written in a file.

    Args:
        content: Of the file.
        name: Of the file, for the error.

    Raises:
        UsageError: If it is none, is damaged, or comes from a newer version.
    """
    try:
        written = json.loads(content)
        if not isinstance(written, dict) or written.get("format") != FORMAT:
            raise ValueError("no conversation of vllava")
        if written.get("version") != VERSION:
            raise ValueError(f"its version is {written.get('version')!r}, and this vllava reads {VERSION}")
        return Transcript(
            model=_value(written, "model", str),
            revision=_value(written, "revision", str, type(None)),
            settings=_value(written, "settings", dict),
            turns=tuple(_said(turn) for turn in _value(written, "turns", list)),
            queued=_sources(written, "queued"),
            num_left_out=max(_value(written, "num_left_out", int), 0),
        )
    except (ValueError, RecursionError) as error:
        raise UsageError(f"cannot take up the conversation in {name!r}: {first_line(error)}") from error


def _said(written: object) -> Said:
    turn = Said(
        question=_value(written, "question", str),
        answer=_value(written, "answer", str),
        media=_sources(written, "media"),
        is_stopped=_value(written, "is_stopped", bool),
    )
    if not turn.question.strip():
        raise ValueError("a question is empty")
    return turn


def _sources(written: object, key: str) -> tuple[Source, ...]:
    return tuple(_source(source) for source in _value(written, key, list))


def _source(written: object) -> Source:
    number, text, nothing = (int, float), str, type(None)
    return Source(
        name=_value(written, "name", text),
        kind=MediaKind(_value(written, "kind", text)),
        start=_value(written, "start", *number, nothing),
        end=_value(written, "end", *number, nothing),
        at=_value(written, "at", text, nothing),
        fit=_value(written, "fit", text),
        side=_value(written, "side", int),
        digest=_value(written, "digest", text),
    )


def _value(written: object, key: str, *kinds: type) -> Any:
    """Return what an object has under a key, if it is of one of the types."""
    if not isinstance(written, dict):
        raise ValueError(f"{written!r:.40} stands where an object belongs")
    value = written.get(key)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise ValueError(f"{key} is {value!r:.40}" if key in written else f"{key} is missing")
    return value
