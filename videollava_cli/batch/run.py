"""How `vllava batch` does its work: items to outcomes, where their lines go, and what is said meanwhile."""

import sys
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from videollava_cli.batch import Item
from videollava_cli.batch.interrupts import Interrupts
from videollava_cli.batch.lines import Sums, line_of, others, write_summary
from videollava_cli.batch.pipeline import Answered, Failed, NoMedia, Outcome, Pace, Pipeline, Row
from videollava_cli.batch.ray import Spread, plan_of
from videollava_cli.batch.reading import Answering, Reading, find
from videollava_cli.batch.records import as_text, digest, error_record, identity
from videollava_cli.batch.results import Held, Results, read_held
from videollava_cli.batch.tally import Tally
from videollava_cli.batch.worklist import by_medium
from videollava_cli.console import Console
from videollava_cli.engine.checkpoint import Checkpoint, find_checkpoint
from videollava_cli.errors import ExitStatus, OutputClosedError, UsageError, VllavaError
from videollava_cli.machine import num_processors
from videollava_cli.progress import Meter, Numbers, meter
from videollava_cli.reader import MediaReader
from videollava_cli.settings import Settings

if TYPE_CHECKING:
    from videollava_cli.engine.batch import Answer

WAITING = "finishing the answers in hand; Ctrl-C again ends at once"


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be done: items, settings, and where the lines go."""

    items: Sequence[Item]
    common_questions: Sequence[str]
    settings: Settings
    output: Path | None
    redo_failed: bool
    is_fresh: bool
    is_ordered: bool
    batch_size: int | None
    summary: Path | None
    ray: str | None = None

    def left(self, held: Held) -> tuple[list[Item], Tally]:
        """Return the items without a line, and the counts to begin with."""
        left, tally = [], Tally(len(self.items))
        for item in self.items:
            known_as = digest(identity(item, self.settings))
            if known_as in held.answered or known_as in held.failed:
                tally.num_here += 1
                tally.num_failed_before += known_as in held.failed
            else:
                left.append(item)
        return left, tally


def list_items(job: Job, console: Console) -> ExitStatus:
    """Print what would be asked, as lines that --questions takes; the output is looked at and left as it is.

    Media on this disk are opened; what would have to be fetched is not.
    """
    held = read_held(job.output) if job.output and not job.is_fresh else Held()
    if job.redo_failed:
        held.failed.clear()
    left, tally = job.left(held)
    num_asked = 0
    with MediaReader(offline=job.settings.offline) as reader:
        for path, about_it in by_medium(left):
            found = None if "://" in path else find(reader, about_it)
            outcomes = found if isinstance(found, list) else [None] * len(about_it)
            for item, outcome in zip(about_it, outcomes, strict=True):
                line: dict[str, Any] = {"id": item.id, "path": path, "question": item.question}
                if isinstance(outcome, Failed):
                    line["error"] = error_record(outcome.error)
                if not isinstance(outcome, NoMedia):
                    console.answer(as_text(line))
                if outcome is None:
                    num_asked += 1
                else:
                    tally.add(outcome)
    console.notice(f"would ask {num_asked:,}{others(tally)}")
    return _status(tally)


def run(job: Job, console: Console) -> ExitStatus:
    """Ask what has no line yet, and write the lines.

    Raises:
        UsageError: If the output is another process's, or the machine cannot do what the settings ask.
        CheckpointError: If the checkpoint cannot be had.
        GenerationError: If it does not fit the memory.
        OutputError: If a line cannot be written.
        KeyboardInterrupt: If Ctrl-C ended it.
    """
    checkpoint = find_checkpoint(job.settings)
    with ExitStack() as stack:
        results = None
        if job.output:
            results = stack.enter_context(Results(job.output, is_fresh=job.is_fresh, redo_failed=job.redo_failed))
        left, tally = job.left(results.held if results else Held())
        interrupts = stack.enter_context(Interrupts(lambda: console.notice(WAITING)))
        answering: Answering | Spread
        if job.ray:
            plan = plan_of(job.settings, checkpoint, job.common_questions, job.batch_size)
            answering = Spread(plan, job.ray, is_ordered=job.is_ordered, begin=tally.start_clock, tell=console.detail)
        else:
            answering = Answering(
                job.settings, checkpoint, console, common_questions=job.common_questions, batch_size=job.batch_size
            )
        work = _Work(job, console, tally, results, answering, interrupts)
        source = answering if isinstance(answering, Spread) else _pipeline(work, answering, checkpoint)
        is_hidden = console.is_quiet or (results is None and sys.stdout is not None and sys.stdout.isatty())
        with meter(is_hidden=is_hidden) as shown:
            work.do(source, left, shown)
    return _status(tally)


class _Source(Protocol):
    """What makes outcomes of items: a pipeline in this process, or many on the nodes of a Ray."""

    @property
    def pace(self) -> Pace: ...

    def run(self, items: Iterable[Item]) -> "Generator[list[Outcome[Answer]], None, None]": ...


def _pipeline(work: "_Work", answering: Answering, checkpoint: Checkpoint) -> "Pipeline[Answer]":
    """Return what reads and answers in this process."""
    reading = Reading(work.job.settings, checkpoint, num_processors())

    def prepare() -> int:
        """Load the engine; the speed is counted from then on."""
        batch_size = answering.prepare()
        work.tally.start_clock()
        return batch_size

    def answer(rows: Sequence[Row]) -> "Sequence[Answer | UsageError]":
        """Answer rows; from now on Ctrl-C waits until their lines are written."""
        work.interrupts.hold()
        return answering.answer(rows)

    return Pipeline(
        prepare=prepare,
        read=reading.read,
        stop=reading.stop,
        answer=answer,
        num_readers=reading.num_readers,
        is_ordered=work.job.is_ordered,
    )


@dataclass(slots=True)
class _Work:
    """A job being done; `answering` knows how long the engine took to load."""

    job: Job
    console: Console
    tally: Tally
    results: Results | None
    answering: Answering | Spread
    interrupts: Interrupts
    began: float = field(default_factory=time.perf_counter)
    num_new_tokens: int = 0

    def do(self, source: _Source, items: Sequence[Item], shown: Meter) -> None:
        """Write the lines of items, and tell at the end what it came to, whatever ended it."""
        try:
            with closing(source.run(items)) as batches:
                for outcomes in batches:
                    self._write(outcomes, shown)
        except OutputClosedError:  # nobody is there to be told
            raise
        except (KeyboardInterrupt, VllavaError) as error:
            self._tell_sums(source.pace, is_interrupted=isinstance(error, KeyboardInterrupt))
            raise
        self._tell_sums(source.pace, is_finished=True)

    def _write(self, outcomes: "Sequence[Outcome[Answer]]", shown: Meter) -> None:
        self.interrupts.hold()
        for outcome in outcomes:
            self._tell_about(outcome)
            if not isinstance(outcome, NoMedia):
                line = line_of(outcome, self.job.settings, self.answering.load_seconds)
                if self.results:
                    self.results.write(line)
                else:
                    self.console.answer(as_text(line))
            self.tally.add(outcome)
        shown.show(_numbers(self.tally))
        self.interrupts.release()

    def _tell_about(self, outcome: "Outcome[Answer]") -> None:
        if isinstance(outcome, Failed):
            self.console.notice(f"failed: {outcome.error}")
        elif isinstance(outcome, Answered):
            self.num_new_tokens += outcome.answer.usage.new_tokens
            medium = outcome.row.medium
            if medium.stamps:
                frames = ", ".join(f"{stamp.index} ({stamp.seconds:.2f} s)" for stamp in medium.stamps)
                self.console.detail(f"{medium.name}: frames {frames}")
            for notice in medium.notices:
                self.console.detail(notice)

    def _tell_sums(self, pace: Pace, *, is_interrupted: bool = False, is_finished: bool = False) -> None:
        sums = Sums(
            tally=self.tally,
            pace=pace,
            seconds=time.perf_counter() - self.began,
            load_seconds=self.answering.load_seconds,
            num_new_tokens=self.num_new_tokens,
            is_interrupted=is_interrupted,
        )
        if is_interrupted or is_finished or self.tally.num_done > self.tally.num_here:
            self.console.notice(sums.in_words(self.job.output))
        if self.job.summary:
            write_summary(sums.as_json(), self.job.summary)


def _numbers(tally: Tally) -> Numbers:
    return Numbers(tally.num_done, tally.num_items, tally.num_failed_in_all, tally.clips_per_second, tally.seconds_left)


def _status(tally: Tally) -> ExitStatus:
    return ExitStatus.INCOMPLETE if tally.num_failed_in_all else ExitStatus.ANSWERED
