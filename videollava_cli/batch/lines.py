"""What `vllava batch` says of its outcomes: a JSON line for each, and the sums at the end."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videollava_cli.batch.pipeline import Answered, Failed, Pace
from videollava_cli.batch.records import error_record, identity
from videollava_cli.batch.tally import Tally
from videollava_cli.errors import OutputError
from videollava_cli.progress import duration
from videollava_cli.settings import Settings

if TYPE_CHECKING:
    from videollava_cli.engine import Chunk


def line_of(outcome: "Answered[Chunk] | Failed", settings: Settings, load_seconds: float) -> dict[str, Any]:
    """Return an outcome's line: the keys of `ask --json`, and those by which resuming knows it.

    Seconds of prefill and of generating are those of the batch that the answer was part of.
    """
    same = identity(outcome.item, settings)
    row = outcome.row
    medium = row.medium.as_json() if row else {"path": outcome.item.source.path, "kind": None, "frames": []}
    line: dict[str, Any] = {"id": same.pop("id"), "media": [medium], "question": same.pop("question")}
    if isinstance(outcome, Failed):
        return line | {"error": error_record(outcome.error)} | same
    answer, usage = outcome.answer, outcome.answer.usage
    assert usage is not None, "the last chunk of an answer has it"
    seconds = {
        "read_s": outcome.row.read_seconds,
        "load_s": load_seconds,
        "prefill_s": usage.prefill_seconds,
        "generate_s": usage.generate_seconds,
    }
    line |= {
        "prompt": answer.prompt,
        "answer": answer.text,
        "finish_reason": answer.finish_reason,
        "prompt_tokens": usage.prompt_tokens,
        "cached_tokens": usage.cached_tokens,
        "new_tokens": usage.new_tokens,
        "model": same.pop("model"),
        "timings": {name: round(value, 4) for name, value in seconds.items()},
        "notices": list(outcome.row.medium.notices),
    }
    return line | same


@dataclass(frozen=True, slots=True)
class Sums:
    """What a run came to: counts, and seconds in all, of loading, and of what the pipeline did."""

    tally: Tally
    pace: Pace
    seconds: float
    load_seconds: float
    num_new_tokens: int
    is_interrupted: bool

    def in_words(self, output: Path | None) -> str:
        """Return the sums as one line, and what to do next if something is left."""
        tally = self.tally
        speed = f", {tally.clips_per_second:.1f} clips/s" if tally.num_clips else ""
        where = f"; in {str(output)!r}" if output else ""
        words = f"{tally.num_answered:,} answered{others(tally)}; {duration(self.seconds)}{speed}{where}"
        if self.is_interrupted and output:
            return f"interrupted at {tally.num_done:,} of {tally.num_items:,}; run the same command to go on: {words}"
        if self.is_interrupted:
            return f"interrupted at {tally.num_done:,} of {tally.num_items:,}; with -o FILE it could go on: {words}"
        return words

    def as_json(self) -> dict[str, Any]:
        """Return the sums as the object that --json-summary writes."""
        tally = self.tally
        return {
            "items": tally.num_items,
            "answered": tally.num_answered,
            "failed": tally.num_failed,
            "without_media": tally.num_files_without_media,
            "there_before": tally.num_here,
            "failed_before": tally.num_failed_before,
            "clips": tally.num_clips,
            "new_tokens": self.num_new_tokens,
            "batch_size": self.pace.batch_size,
            "seconds": round(self.seconds, 3),
            "load_s": round(self.load_seconds, 3),
            "wait_s": round(self.pace.wait_seconds, 3),
            "answer_s": round(self.pace.answer_seconds, 3),
            "clips_per_second": round(tally.clips_per_second, 3),
            "interrupted": self.is_interrupted,
        }


def others(tally: Tally) -> str:
    """Return what became of the items that were not answered now, in words."""
    parts = [f"{tally.num_failed:,} failed"] if tally.num_failed else []
    if number := tally.num_files_without_media:
        parts.append(f"{number:,} file{'s' if number > 1 else ''} without video or image passed over")
    if tally.num_here:
        parts.append(f"{tally.num_here:,} there before")
    if tally.num_failed_before:
        parts.append(f"{tally.num_failed_before:,} of them failed (--redo-failed asks again)")
    return "".join(f", {part}" for part in parts)


def write_summary(summary: Mapping[str, Any], path: Path) -> None:
    """Write an object to a file, replacing what is there.

    Raises:
        OutputError: If it cannot be written.
    """
    try:
        path.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write {str(path)!r}: {error.strerror or error}") from error
