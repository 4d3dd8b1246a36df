"""What a batch reports: the JSON line of each item, the identity by which a later run knows it, and the summary."""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from videollava_cli.batch.work import Item
from videollava_cli.console import duration
from videollava_cli.engine import Chunk
from videollava_cli.engine.request import answer_line, error_line
from videollava_cli.errors import VllavaError
from videollava_cli.media import Medium
from videollava_cli.settings import IDENTITY_KEYS, Settings
from videollava_cli.text import parsed

MAX_SUMMARY_BYTES = 1 << 16
LINE_KEYS = ("id", "question", "model", "settings", "file")  # on which an item and its line must agree
FILE_KEYS = ("resolved", "question", "model", "settings", "file")  # or on these, if neither has an id of its own


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What became of an item: an answer (a chunk with the whole text), an error, or neither if it is no medium."""

    item: Item
    medium: Medium | None = None
    answer: Chunk | None = None
    error: VllavaError | None = None
    read_seconds: float = 0.0
    load_seconds: float = 0.0

    @property
    def is_no_media(self) -> bool:
        """Whether the item is about a file in a folder that turned out to be neither video nor image."""
        return self.medium is None and self.error is None


@dataclass(slots=True)
class BatchStats:
    """Counts and seconds of a run, for progress, the last words and --json-summary.

    `num_there_before` counts the lines at the start, failed ones too. `wait_seconds` (for media) and `answer_seconds`
    are sums over engines with Ray.
    """

    num_items: int = 0
    num_there_before: int = 0
    num_failed_before: int = 0
    num_answered: int = 0
    num_failed: int = 0
    num_no_media: int = 0
    num_new_tokens: int = 0
    batch_size: int = 0
    load_seconds: float = 0.0
    wait_seconds: float = 0.0
    answer_seconds: float = 0.0
    is_interrupted: bool = False
    began: float = field(default_factory=time.perf_counter)
    speed_began: float = field(default_factory=time.perf_counter)
    clips: set[str] = field(default_factory=set)
    files_without_media: set[str] = field(default_factory=set)

    def start_clock(self, seconds_ago: float = 0.0) -> None:
        """Measure the speed from now on: earlier work, such as loading, is no measure of the work to come."""
        self.speed_began = time.perf_counter() - seconds_ago

    def add(self, outcome: Outcome) -> None:
        """Count the outcome of an item."""
        (self.files_without_media if outcome.is_no_media else self.clips).add(outcome.item.path)
        self.num_no_media += outcome.is_no_media
        self.num_failed += outcome.error is not None
        if outcome.answer is not None:
            self.num_answered += 1
            self.load_seconds = outcome.load_seconds
            self.num_new_tokens += outcome.answer.usage.new_tokens if outcome.answer.usage else 0

    @property
    def num_done_now(self) -> int:
        """Items that this run is done with."""
        return self.num_answered + self.num_failed + self.num_no_media

    @property
    def num_done(self) -> int:
        """How many items are done, now or from before."""
        return self.num_there_before + self.num_done_now

    @property
    def num_failed_in_all(self) -> int:
        """How many items have no answer, now or from before."""
        return self.num_failed_before + self.num_failed

    @property
    def clips_per_second(self) -> float:
        """How fast it went so far, loading apart."""
        return len(self.clips) / max(time.perf_counter() - self.speed_began, 1e-9)

    @property
    def progress(self) -> str:
        """How far the run is, in words, and how long the rest takes at the speed so far."""
        failed = f", {self.num_failed_in_all:,} failed" if self.num_failed_in_all else ""
        left = ""
        if self.num_done_now:
            seconds = (time.perf_counter() - self.speed_began) / self.num_done_now
            left = f", {duration((self.num_items - self.num_done) * seconds)} left"
        return f"{self.num_done:,} of {self.num_items:,}{failed}, {self.clips_per_second:.1f} clips/s{left}"

    @property
    def others(self) -> str:
        """The items that were not answered now, in words."""
        words = f", {self.num_failed:,} failed" if self.num_failed else ""
        if number := len(self.files_without_media):
            words += f", {number:,} file{'s' if number > 1 else ''} without video or image passed over"
        if self.num_there_before:
            words += f", {self.num_there_before:,} there before"
        if self.num_failed_before:
            words += f", {self.num_failed_before:,} of them failed (--redo-failed asks again)"
        return words

    def in_words(self, output: Path | None) -> str:
        """Return the run in one line, and what to do next if something is left."""
        speed = f", {self.clips_per_second:.1f} clips/s" if self.clips else ""
        where = f"; in {str(output)!r}" if output else ""
        seconds = duration(time.perf_counter() - self.began)
        words = f"{self.num_answered:,} answered{self.others}; {seconds}{speed}{where}"
        if not self.is_interrupted:
            return words
        advice = "run the same command to go on" if output else "with -o FILE it could go on"
        return f"interrupted at {self.num_done:,} of {self.num_items:,}; {advice}: {words}"

    def as_json(self) -> dict[str, Any]:
        """Return the object that --json-summary writes."""
        return {
            "items": self.num_items,
            "answered": self.num_answered,
            "failed": self.num_failed,
            "without_media": len(self.files_without_media),
            "there_before": self.num_there_before,
            "failed_before": self.num_failed_before,
            "clips": len(self.clips),
            "new_tokens": self.num_new_tokens,
            "batch_size": self.batch_size,
            "seconds": round(time.perf_counter() - self.began, 3),
            "load_s": round(self.load_seconds, 3),
            "wait_s": round(self.wait_seconds, 3),
            "answer_s": round(self.answer_seconds, 3),
            "clips_per_second": round(self.clips_per_second, 3),
            "interrupted": self.is_interrupted,
        }


def is_summary(path: Path) -> bool:
    """Return whether a file holds what --json-summary writes; raises OSError if it cannot be read."""
    with path.open("rb") as file:
        content = file.read(MAX_SUMMARY_BYTES + 1)
    try:
        found = parsed(json.loads, content) if len(content) <= MAX_SUMMARY_BYTES else None
    except ValueError:
        return False
    return isinstance(found, dict) and found.keys() >= {"items", "answered", "failed", "there_before", "interrupted"}


def line_of(outcome: Outcome, settings: Settings) -> dict[str, Any]:
    """Return an outcome's line: the record of its answer or error, and the keys by which a later run knows it."""
    item, medium = outcome.item, outcome.medium
    if outcome.answer is None or medium is None:
        shown = medium.as_json() if medium else {"path": item.name, "kind": None, "frames": []}
        assert outcome.error is not None, "a file that is no medium has no line"
        record = error_line([shown], item.question, outcome.error)
    else:
        seconds = {"read_s": outcome.read_seconds, "load_s": outcome.load_seconds}
        record = answer_line([medium], item.question, outcome.answer, model=settings.model, seconds=seconds)
        record["notices"] = list(medium.notices)
    return {"id": item.id} | record | identity(item, settings)


def identity(item: Item, settings: Settings) -> dict[str, Any]:
    """Return the keys on which an item and its line must agree.

    `file` and `resolved` are None for anything but a file on this disk.
    """
    quantization = "4bit" if settings.load_4bit else "8bit" if settings.load_8bit else None
    values = {"quantization": quantization} | {key: getattr(settings, key) for key in IDENTITY_KEYS}
    return {
        "id": item.id,
        "question": item.question,
        "model": settings.model,
        "settings": {key: value for key, value in values.items() if value is not None},
        "file": item.stamp and dict(zip(("bytes", "modified_us"), item.stamp, strict=True)),
        "resolved": item.resolved,
    }


def digests(line: Mapping[str, Any], path: object) -> tuple[bytes, ...]:
    """Return the 16 bytes by which a line or an identity about a medium at `path` is known.

    The first are equal for equal values of `LINE_KEYS`. If the id is the path, nobody gave one; then there are second
    ones, equal for equal values of `FILE_KEYS`: so a file is known by any name. Lines of 0.1.0 have no `resolved`.
    """
    has_own_id = line.get("id") != path
    ways = (LINE_KEYS,) if has_own_id or line.get("resolved") is None else (LINE_KEYS, FILE_KEYS)
    return tuple(_digest({key: _normal(line.get(key)) for key in keys}) for keys in ways)


def path_in(line: Mapping[str, Any]) -> object:
    """Return the path of the medium that a line is about; None if it has none."""
    match line.get("media"):
        case [{"path": path}, *_]:
            return path
    return None


def _digest(known_by: Mapping[str, Any]) -> bytes:
    return hashlib.blake2b(json.dumps(known_by, sort_keys=True).encode(), digest_size=16).digest()


def _normal(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _normal(inner) for key, inner in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value  # 1.0 is 1
