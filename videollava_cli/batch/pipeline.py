"""How `vllava batch` does its work: items -> `Reader.read_ahead` -> `Engine.answer` -> outcomes -> lines.

With --ray, the nodes of a Ray cluster read and answer, and only the lines are written here.
"""

import json
import signal
import sys
import time
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from types import FrameType
from typing import Self

from videollava_cli.batch.lines import BatchStats, Outcome, digests, identity, line_of
from videollava_cli.batch.output import Held, Results, read_held
from videollava_cli.batch.work import Item, by_medium, may_be_no_medium
from videollava_cli.console import Console, meter
from videollava_cli.engine import Engine, Request
from videollava_cli.engine.checkpoint import Checkpoint, find_checkpoint
from videollava_cli.engine.request import error_record, json_text
from videollava_cli.engine.startup import start_engine
from videollava_cli.errors import (
    ExitStatus,
    MediaError,
    NothingFoundError,
    OutputClosedError,
    OutputError,
    UsageError,
    VllavaError,
)
from videollava_cli.machine import num_processors
from videollava_cli.media import MediaKind
from videollava_cli.process import end_now, leave_dead_terminal
from videollava_cli.prompt import Turn, one_question
from videollava_cli.reader import ReadAhead, Reader, ReadResult
from videollava_cli.settings import Settings

BATCHES_AHEAD = 2  # of media that were read and wait: one more than the batch in work
MAX_EARLY = 256  # answers that wait for one before them to be written
PATIENCE_SECONDS = 1.0  # for the next medium to be read while answers are in hand
FINISH_SECONDS = 5.0  # for the answers in hand after SIGTERM: `docker stop` kills after 10 s
FINISHING = "finishing the answers in hand"


@dataclass(frozen=True, slots=True)
class Job:
    """A batch: items, settings, and where the lines go.

    `common_questions` are asked about every medium: if one does not fit the context, nothing is loaded. `batch_size`
    is None for as many questions at once as fit. `ray` is the address of a Ray cluster. `nothing_found` says so if the
    search found no file; `is_part` is whether others do the rest of the work.
    """

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
    nothing_found: str | None = None
    is_part: bool = False


OnRay = Callable[[Job, Sequence[Item], Checkpoint, BatchStats, Console], Generator[Outcome, None, None]]


def list_items(job: Job, console: Console) -> ExitStatus:
    """Print the items that would be asked, as lines that --questions takes; media on this disk are opened."""
    held = read_held(job.output) if job.output and not job.is_fresh else Held()
    if job.redo_failed:
        held.failed.clear()
    left, stats = _left(job, held)
    num_asked = 0
    with Reader(job.settings) as reader:
        for about_it in by_medium(left):
            unread = None if "://" in about_it[0].path else _find_error(reader, about_it[0].path)
            for item in about_it:
                error = _item_error(item) or unread
                is_no_media = error is not None and may_be_no_medium(item)
                if error is None:
                    num_asked += 1
                else:
                    stats.add(Outcome(item, error=None if is_no_media else error))
                if not is_no_media:
                    line = {"id": item.id, "path": item.name, "question": item.question}
                    console.answer(json_text(line | ({"error": error_record(error)} if error else {})))
    _refuse_nothing(job, stats)
    console.notice(f"would ask {num_asked:,}{stats.others}")
    return _status(stats)


def run(job: Job, console: Console, on_ray: OnRay) -> ExitStatus:
    """Ask what has no line yet, here or `on_ray`, and write the lines; whatever ends it, say what it came to."""
    if job.nothing_found:  # no checkpoint is fetched for that
        _summarize(job, BatchStats(), console, is_done=False)
    _refuse_nothing(job, BatchStats())
    checkpoint = find_checkpoint(job.settings)
    is_hidden = console.is_quiet or (job.output is None and sys.stdout is not None and sys.stdout.isatty())
    with ExitStack() as stack:
        results = None
        if job.output:
            results = stack.enter_context(Results(job.output, is_fresh=job.is_fresh, redo_failed=job.redo_failed))
        write = results.write if results else lambda line: console.answer(json_text(line))
        held = results.held if results else Held()
        left, stats = _left(job, held)
        interrupts = stack.enter_context(Interrupts(console.notice))
        shown = stack.enter_context(meter(is_hidden=is_hidden))
        if job.ray:
            outcomes = on_ray(job, left, checkpoint, stats, console)
        else:
            outcomes = Pipeline(job, checkpoint, stats, console, interrupts).run(left)
        try:
            with closing(outcomes):
                for outcome in outcomes:
                    with interrupts.held():
                        _describe(outcome, console)
                        _compare_dtypes(outcome, held, console)
                        if not outcome.is_no_media:
                            write(line_of(outcome, job.settings))
                        stats.add(outcome)
                        shown.show(stats.num_done, stats.num_items, stats.progress)
        except OutputClosedError:  # nobody reads on
            raise
        except (KeyboardInterrupt, VllavaError) as error:
            stats.is_interrupted = isinstance(error, KeyboardInterrupt)
            _summarize(job, stats, console, is_done=stats.is_interrupted or stats.num_done_now > 0)
            raise
        _summarize(job, stats, console, is_done=not _nothing_found(job, stats))
    _refuse_nothing(job, stats)
    return _status(stats)


class Interrupts:
    """How Ctrl-C, SIGTERM and SIGHUP end the program: at once, or after the work in hand, as `notify` says.

    For the work in hand there is as much time as it takes after Ctrl-C, and `FINISH_SECONDS` after the others. Use it
    as a context manager in the main thread.
    """

    def __init__(self, notify: Callable[[str], None]) -> None:
        self.is_pending = False  # whether a signal came and waits
        self._number = 0  # of that signal
        self._notify = notify
        self._num_held = 0
        self._is_leaving = False
        self._before: dict[int, Callable[[int, FrameType | None], object]] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if callable(before := signal.getsignal(number)):  # neither ignored nor nobody's
                self._before[number] = before
                signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let a signal wait for the end of this block, and of others around it; a second one does not wait."""
        self._num_held += 1
        try:
            yield
        finally:
            self._num_held -= 1
        if self.is_pending and not self._num_held:
            self._leave()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._is_leaving:
            end_now(128 + self._number)
        if number != signal.SIGALRM:
            self._number = number
        if self._num_held and not self.is_pending:
            self.is_pending, says = True, f"{FINISHING}; Ctrl-C again ends at once"
            if number != signal.SIGINT:
                says = f"{FINISHING}, for at most {FINISH_SECONDS:g} s"
                signal.signal(signal.SIGALRM, self._on_signal)
                signal.setitimer(signal.ITIMER_REAL, FINISH_SECONDS)
                leave_dead_terminal()
            with suppress(RuntimeError):  # stderr is just being written to
                self._notify(says)
            return
        self._leave()

    def _leave(self) -> None:
        self._is_leaving = True
        self._before[self._number](self._number, None)  # raises an interrupt


@dataclass(slots=True)
class Pipeline:
    """Items in, outcomes out, in this process.

    The engine is loaded when the first medium was read, while others are being read. It takes media as they are read;
    when it has answered all of them, it stops until the next one is there, so that Ctrl-C can end the program at once.
    """

    job: Job
    checkpoint: Checkpoint
    stats: BatchStats
    console: Console
    interrupts: Interrupts
    _read: deque[Outcome] = field(default_factory=deque)  # of a medium that was read, for the engine to take
    _num_in_hand: int = 0
    _early: dict[Item, Outcome] = field(default_factory=dict)  # to be yielded after one that is not there yet

    def run(self, items: Sequence[Item]) -> Generator[Outcome, None, None]:
        """Yield outcomes in the order of the items, or as they come; close it to stop the readers."""
        with closing(self._outcomes(items)) as outcomes:
            if not self.job.is_ordered:
                yield from outcomes
            awaited = deque(items)
            for outcome in outcomes:
                self._early[outcome.item] = outcome
                while awaited and awaited[0] in self._early:
                    yield self._early.pop(awaited.popleft())

    def _outcomes(self, items: Sequence[Item]) -> Generator[Outcome, None, None]:
        engine: Engine | None = None
        with (
            Reader.of_many(self.job.settings, num_processors()) as reader,
            reader.read_ahead(
                by_medium(items),
                self.checkpoint.pixels,
                source=lambda about_it: about_it[0].path,
                is_ordered=self.job.is_ordered,
            ) as read_ahead,
        ):
            while first := self._take(read_ahead):
                if first.medium is None:
                    yield first
                    continue
                if engine is None:
                    engine = load_engine(self.job, self.checkpoint, self.stats, self.console)
                    read_ahead.num_ahead = BATCHES_AHEAD * self.stats.batch_size
                    self.stats.start_clock()
                began, waited = time.perf_counter(), self.stats.wait_seconds
                with self.interrupts.held():
                    taken = chain([first], self._take_more(read_ahead))
                    for outcome in answered(engine, taken, self.stats, max_num_seqs=self.job.batch_size):
                        self._num_in_hand -= outcome.medium is not None
                        yield outcome
                self.stats.answer_seconds += time.perf_counter() - began - (self.stats.wait_seconds - waited)

    def _take_more(self, read_ahead: ReadAhead[tuple[Item, ...]]) -> Iterator[Outcome | None]:
        """Yield items while answers are in hand, and None as long as the next medium is not read.

        The first wait for a medium is a patient one, so that answers are given many at once.
        """
        patience = PATIENCE_SECONDS
        while not self.interrupts.is_pending:
            outcome = self._take(read_ahead, patience) if len(self._early) < MAX_EARLY else None
            if outcome is None and not self._num_in_hand:
                return
            patience = PATIENCE_SECONDS if outcome else 0.0
            yield outcome

    def _take(self, read_ahead: ReadAhead[tuple[Item, ...]], seconds: float | None = None) -> Outcome | None:
        """Return the next item whose medium was read, or could not be; None after the last one, or so many seconds."""
        if not self._read:
            began = time.perf_counter()
            result = next(iter(read_ahead), None) if seconds is None or read_ahead.is_ready(seconds) else None
            self._read.extend(outcomes_of(*result) if result else ())
            self.stats.wait_seconds += time.perf_counter() - began
        outcome = self._read.popleft() if self._read else None
        self._num_in_hand += outcome is not None and outcome.medium is not None
        return outcome


def load_engine(job: Job, checkpoint: Checkpoint, stats: BatchStats, console: Console) -> Engine:
    """Load the engine of a batch; note the seconds that took, and how many questions it answers at once."""
    smallest = min(MediaKind, key=checkpoint.media_tokens)  # a question that does not fit with it fits with none
    conversations = [one_question([smallest], question, job.settings) for question in job.common_questions]
    engine, stats.load_seconds = start_engine(job.settings, checkpoint, console, conversations=conversations)
    stats.batch_size = job.batch_size or engine.max_num_seqs
    where = f"{engine.model.device}, {engine.compute_dtype}"
    console.detail(f"{job.settings.model} on {where}, {stats.batch_size} questions at once")
    return engine


def answered(
    engine: Engine, outcomes: Iterable[Outcome | None], stats: BatchStats, *, max_num_seqs: int | None
) -> Generator[Outcome, None, None]:
    """Answer the items whose media were read; yield outcomes as they come, those without a medium too.

    Neighbours share the prefix of their prompts. None among the outcomes means that the next one is not there yet.
    """
    in_hand: dict[Request, Outcome] = {}
    texts: defaultdict[Request, str] = defaultdict(str)
    unread: deque[Outcome] = deque()

    def requests() -> Iterator[Request | None]:
        for outcome in outcomes:
            if outcome is None:
                yield None
                continue
            if outcome.medium is None:
                unread.append(outcome)
                continue
            conversation = one_question([outcome.medium.kind], outcome.item.question, engine.settings)
            request = Request(conversation, (outcome.medium,), engine.settings)
            in_hand[request] = outcome
            yield request

    with closing(engine.answer(requests(), max_num_seqs=max_num_seqs)) as chunks:
        for request, chunk in chunks:
            texts[request] += chunk.text
            if chunk.finish_reason is not None:
                while unread:
                    yield unread.popleft()
                (medium,) = request.media
                yield replace(
                    in_hand.pop(request),
                    medium=replace(medium, pixels=medium.pixels[:, :0, :0].copy()),  # a line needs no pixels
                    answer=None if chunk.error else replace(chunk, text=texts.pop(request)),
                    error=chunk.error,
                    load_seconds=stats.load_seconds,
                )
                stats.batch_size = min(stats.batch_size, engine.seq_limit or stats.batch_size)
    yield from unread


def outcomes_of(items: Sequence[Item], result: ReadResult) -> Iterator[Outcome]:
    """Yield items with their medium, which are to be answered; or with the error of reading it."""
    for item in items:
        is_no_media = not result.is_found and may_be_no_medium(item)
        error = _item_error(item) or (None if is_no_media else result.error)
        yield Outcome(item, None if error else result.medium, error=error, read_seconds=result.seconds)


def _item_error(item: Item) -> VllavaError | None:
    """Return why an item cannot be asked, whatever its medium."""
    if item.problem:
        return MediaError(f"cannot search the folder {item.path!r}: {item.problem}")
    try:
        Turn(item.question)
    except UsageError as error:
        return error
    return None


def _find_error(reader: Reader, path: str) -> MediaError | None:
    try:
        reader.find(path).close()
    except MediaError as error:
        return error
    return None


def _left(job: Job, held: Held) -> tuple[list[Item], BatchStats]:
    left, stats = [], BatchStats(len(job.items))
    for item in job.items:
        keys = set(digests(identity(item, job.settings), item.name))
        is_answered = not keys.isdisjoint(held.answered)
        if is_answered or not keys.isdisjoint(held.failed):
            stats.num_there_before += 1
            stats.num_failed_before += not is_answered
        else:
            left.append(item)
    return left, stats


def _summarize(job: Job, stats: BatchStats, console: Console, *, is_done: bool) -> None:
    if is_done:
        console.notice(stats.in_words(job.output))
    if job.summary:
        try:
            job.summary.write_text(json.dumps(stats.as_json(), indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise OutputError(f"cannot write {str(job.summary)!r}: {error.strerror or error}") from error


def _describe(outcome: Outcome, console: Console) -> None:
    if outcome.error:
        console.notice(f"failed: {outcome.error}")
    elif outcome.medium:
        if outcome.medium.stamps:
            frames = ", ".join(f"{stamp.index} ({stamp.seconds:.2f} s)" for stamp in outcome.medium.stamps)
            console.detail(f"{outcome.medium.name}: frames {frames}")
        for notice in outcome.medium.notices:
            console.detail(notice)


def _compare_dtypes(outcome: Outcome, held: Held, console: Console) -> None:
    """Say once that answers are computed in another number format than those which the file held before."""
    if outcome.answer is None or outcome.answer.usage is None or not held.compute_dtypes:
        return
    before, now = held.compute_dtypes, outcome.answer.usage.compute_dtype
    if before != {now}:
        earlier = " and ".join(sorted(before - {now}))
        console.notice(
            f"earlier lines were computed in {earlier}, and these are in {now}: texts may differ a little; one "
            "--dtype for all keeps to one"
        )
    before.clear()


def _nothing_found(job: Job, stats: BatchStats) -> str | None:
    """Say that the search found nothing to ask about, if so; in a part of the work that is no surprise."""
    if job.nothing_found or job.is_part or not 0 < stats.num_no_media == stats.num_items:
        return job.nothing_found
    number = len(stats.files_without_media)
    return f"nothing found: {number:,} file{'s' if number > 1 else ''}, and no video or image"


def _refuse_nothing(job: Job, stats: BatchStats) -> None:
    if nothing := _nothing_found(job, stats):
        raise NothingFoundError(nothing)


def _status(stats: BatchStats) -> ExitStatus:
    return ExitStatus.INCOMPLETE if stats.num_failed_in_all else ExitStatus.ANSWERED
