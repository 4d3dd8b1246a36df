"""Items in, outcomes out: threads read media ahead while this one has them answered in batches.

Knows neither how a medium is read nor how it is answered: both are functions that it is given.
"""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from videollava_cli.batch import Item
from videollava_cli.batch.worklist import by_medium
from videollava_cli.errors import MemoryFullError, VllavaError
from videollava_cli.media import Medium

AnswerT = TypeVar("AnswerT")

BATCHES_AHEAD = 2  # of media that were read and wait: one more than the batch in work
AHEAD_AT_FIRST = 32  # media, while whatever answers is being prepared


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """An item whose medium was read, and the seconds that took."""

    item: Item
    medium: Medium
    read_seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class Answered(Generic[AnswerT]):
    """An item that was answered."""

    row: Row
    answer: AnswerT

    @property
    def item(self) -> Item:
        """The item."""
        return self.row.item


@dataclass(frozen=True, slots=True, eq=False)
class Failed:
    """An item that was not, and why; `row` is None if its medium could not be read."""

    item: Item
    error: VllavaError
    row: Row | None = None


@dataclass(frozen=True, slots=True, eq=False)
class NoMedia:
    """An item about a file in a folder that turned out to be neither video nor image."""

    item: Item


Unread = Failed | NoMedia
Outcome = Answered[AnswerT] | Unread


@dataclass(slots=True)
class Pace:
    """What became of the time, in seconds, and how many questions are answered at once by now."""

    batch_size: int = 0
    wait_seconds: float = 0.0
    answer_seconds: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Pipeline(Generic[AnswerT]):
    """How to read media and answer questions about them.

    `prepare` is called once, as soon as the first medium was read, and returns how many rows to answer at once.
    `read` is called in other threads, with all items about one medium, and ends soon after `stop` was called.
    `answer` is called in the thread that runs the pipeline, with so many rows, neighbours about one medium sharing it.
    It returns an answer or an error for each, or raises `MemoryFullError`: then the number is halved, for good, and
    the rows are tried again.
    """

    prepare: Callable[[], int]
    read: Callable[[Sequence[Item]], Sequence[Row | Unread]]
    stop: Callable[[], None]
    answer: Callable[[Sequence[Row]], Sequence[AnswerT | VllavaError]]
    num_readers: int
    pace: Pace = field(default_factory=Pace)
    is_ordered: bool = True
    _pending: deque["Future[Sequence[Row | Unread]]"] = field(default_factory=deque)

    def run(self, items: Iterable[Item]) -> Generator[list[Outcome[AnswerT]], None, None]:
        """Yield outcomes, batch by batch, in the order of the items unless it may be another.

        Closing the generator, or an error, stops what is being read and waits for its end.
        """
        pool = ThreadPoolExecutor(self.num_readers, thread_name_prefix="reader")
        media = by_medium(items)
        left: deque[Row | Unread] = deque()
        try:
            while True:
                self._gather(pool, media, left)
                if not left:
                    return
                if not self.pace.batch_size and any(isinstance(entry, Row) for entry in left):
                    self.pace.batch_size = self.prepare()
                    continue
                batch = _taken(left, self.pace.batch_size)
                self._read_ahead(pool, media)
                yield from answered(batch, self.answer, self.pace)
        finally:
            self.stop()
            pool.shutdown(wait=True, cancel_futures=True)

    def _gather(
        self, pool: ThreadPoolExecutor, media: Iterator[tuple[str, Sequence[Item]]], left: deque[Row | Unread]
    ) -> None:
        """Wait until there are rows for a batch, or no more."""
        began = time.perf_counter()
        self._read_ahead(pool, media)
        num_wanted = max(1, self.pace.batch_size)
        while self._pending and sum(isinstance(entry, Row) for entry in left) < num_wanted:
            left.extend(self._next_read())
            self._read_ahead(pool, media)
        self.pace.wait_seconds += time.perf_counter() - began

    def _read_ahead(self, pool: ThreadPoolExecutor, media: Iterator[tuple[str, Sequence[Item]]]) -> None:
        """Keep the readers busy as long as there is room for what they read."""
        num_ahead = BATCHES_AHEAD * self.pace.batch_size or AHEAD_AT_FIRST
        while len(self._pending) < self.num_readers + num_ahead:
            about_one = next(media, None)
            if about_one is None:
                return
            self._pending.append(pool.submit(self.read, about_one[1]))

    def _next_read(self) -> Sequence[Row | Unread]:
        first = self._pending[0]
        if not self.is_ordered and not first.done():
            done, _ = wait(self._pending, return_when=FIRST_COMPLETED)
            first = next(future for future in self._pending if future in done)
        entries = first.result()
        self._pending.remove(first)
        return entries


def answered(
    entries: Iterable[Row | Unread], answer: Callable[[Sequence[Row]], Sequence[AnswerT | VllavaError]], pace: Pace
) -> Iterator[list[Outcome[AnswerT]]]:
    """Yield the outcomes of what was read, in batches of the pace's size, halved when the memory is too small."""
    left = deque(entries)
    while left:
        batch = _taken(left, pace.batch_size)
        rows = [entry for entry in batch if isinstance(entry, Row)]
        began = time.perf_counter()
        try:
            answers = iter(answer(rows) if rows else ())
        except MemoryFullError as error:
            if len(rows) > 1:
                pace.batch_size = min(pace.batch_size, (len(rows) + 1) // 2)
                left.extendleft(reversed(batch))
                continue
            answers = iter([error.with_traceback(None)])  # its frames would keep what filled the memory
        finally:
            pace.answer_seconds += time.perf_counter() - began
        yield [_outcome(entry, next(answers)) if isinstance(entry, Row) else entry for entry in batch]


def _taken(left: deque[Row | Unread], num_rows: int) -> list[Row | Unread]:
    """Take so many rows from the left, and what is between and behind them."""
    taken: list[Row | Unread] = []
    while left and (num_rows or not isinstance(left[0], Row)):
        num_rows -= isinstance(left[0], Row)
        taken.append(left.popleft())
    return taken


def _outcome(row: Row, answer: AnswerT | VllavaError) -> Outcome[AnswerT]:
    return Failed(row.item, answer, row) if isinstance(answer, VllavaError) else Answered(row, answer)
