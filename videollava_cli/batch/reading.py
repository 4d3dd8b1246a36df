"""What `vllava batch` gives its pipeline: reading media, bounded in memory, and answering questions about them."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING

from videollava_cli.batch import Item
from videollava_cli.batch.budget import Budget
from videollava_cli.batch.folders import says_it_is_media
from videollava_cli.batch.pipeline import Failed, NoMedia, Row, Unread
from videollava_cli.console import Console
from videollava_cli.engine.checkpoint import Checkpoint
from videollava_cli.engine.prompting import one_question
from videollava_cli.engine.startup import start_engine
from videollava_cli.errors import MediaError, UsageError
from videollava_cli.malloc import limit_arenas, return_large_blocks
from videollava_cli.media import NUM_FRAMES, MediaKind
from videollava_cli.reader import Found, MediaReader, Turns
from videollava_cli.reader.sizes import num_pixels
from videollava_cli.settings import Settings

if TYPE_CHECKING:
    from videollava_cli.engine import Engine
    from videollava_cli.engine.batch import Answer

# Of the pictures that all readers hold, for each processor: half of an 8K one. Two processors have room for one video
# of 1080p beside a smaller one; since readers share the processors, a second large one would only take memory.
PIXELS_A_PROCESSOR = 16_600_000
PICTURES_A_DECODER = 5  # one in work, and four that others build on (H.264 at 1080p: ITU-T H.264, table A-1, level 4)
MAX_READERS = 32


class Reading:
    """Read media in several threads; `stop` ends all of them within a frame.

    By default all media share the processors: each is decoded by as many threads as it has use for, which take turns.

    Args:
        settings: How many threads decode one medium, without taking turns, and which frames are taken.
        checkpoint: Into what form frames are brought.
        num_processors: How many to use.
    """

    def __init__(self, settings: Settings, checkpoint: Checkpoint, num_processors: int) -> None:
        limit_arenas()
        return_large_blocks()
        self._settings = settings
        self._pixels = checkpoint.pixels
        self._sampling = settings.sampling
        self._turns = None if settings.decode_threads else Turns(num_processors)
        self.num_threads = settings.decode_threads or min(NUM_FRAMES, num_processors)
        self.num_readers = max(1, min(MAX_READERS, num_processors // (settings.decode_threads or 1)))
        self._budget = Budget(PIXELS_A_PROCESSOR * num_processors)
        self._importing = Lock()
        self._known = Lock()
        self._readers: set[MediaReader] = set()
        self._is_stopped = False

    def read(self, items: Sequence[Item]) -> Sequence[Row | Unread]:
        """Read the medium that items are about."""
        began = time.perf_counter()
        with self._importing:  # in several threads at once, packages may see each other half imported
            from videollava_cli.reader import stills, video  # noqa: F401
        with self._reader() as reader:
            found = find(reader, items)
            if not isinstance(found, Found):
                return found
            with self._importing:
                import torch  # noqa: F401  # for shrinking
            try:
                with self._budget.share(pixels_held(found, self.num_threads)):
                    medium = reader.read(found, self._pixels, self._sampling)
            except MediaError as error:
                return [Failed(item, error) for item in items]
        seconds = time.perf_counter() - began
        return [Row(item, medium, seconds) for item in items]

    def stop(self) -> None:
        """Let every `read`, now and later, end within a frame."""
        with self._known:
            self._is_stopped = True
            for reader in self._readers:
                reader.stop()

    @contextmanager
    def _reader(self) -> Iterator[MediaReader]:
        """Give a reader for one medium, so that what it fetches goes away with it."""
        offline = self._settings.offline
        with MediaReader(offline=offline, decode_threads=self.num_threads, turns=self._turns) as reader:
            with self._known:
                self._readers.add(reader)
                if self._is_stopped:
                    reader.stop()
            try:
                yield reader
            finally:
                with self._known:
                    self._readers.discard(reader)


def pixels_held(found: Found, num_threads: int) -> int:
    """Return how many pixels reading a medium holds at once, with so many threads for a video, by an estimate.

    Raises:
        MediaError: If it cannot be opened.
    """
    return num_pixels(found) * (PICTURES_A_DECODER * num_threads if found.form == "video" else 1)


def find(reader: MediaReader, items: Sequence[Item]) -> Found | list[Unread]:
    """Find the medium that items are about, or return what became of them.

    A file of a folder that is no medium is passed over, unless its name says that it is one.
    """
    source = items[0].source
    try:
        return reader.find(source.path)
    except MediaError as error:
        if source.is_named or says_it_is_media(source.path):
            return [Failed(item, error) for item in items]
        return [NoMedia(item) for item in items]


@dataclass(slots=True)
class Answering:
    """An engine that is loaded when the first medium was read, and answers rows.

    Args:
        settings: How to answer.
        checkpoint: What to load.
        common_questions: Those asked about every medium: if one does not fit the context, nothing is loaded.
        batch_size: How many rows to answer at once; None to find out what fits.
    """

    settings: Settings
    checkpoint: Checkpoint
    console: Console
    common_questions: Sequence[str]
    batch_size: int | None
    load_seconds: float = 0.0
    _engine: "Engine | None" = None

    def prepare(self) -> int:
        """Load the engine; return how many rows to answer at once.

        Raises:
            UsageError: If the machine cannot do what the settings ask, or a question does not fit the context.
            CheckpointError: If the checkpoint cannot be had.
            GenerationError: If it does not fit the memory.
        """
        from videollava_cli.engine.batch import num_fitting_rows

        kind = min(MediaKind, key=self.checkpoint.media_tokens)  # if a question does not fit with it, it never fits
        conversations = [one_question([kind], question, self.settings) for question in self.common_questions]
        self._engine, self.load_seconds = start_engine(
            self.settings, self.checkpoint, self.console, conversations=conversations
        )
        device, dtype = self._engine.model.device, self._engine.model.dtype
        size = self.batch_size or num_fitting_rows(self._engine)
        self.console.detail(f"{self.settings.model} on {device}, {dtype}, {size} questions at once")
        return size

    def answer(self, rows: Sequence[Row]) -> "Sequence[Answer | UsageError]":
        """Answer rows at the same time.

        Raises:
            MemoryFullError: If the memory does not suffice for all of them.
        """
        from videollava_cli.engine.batch import Request, answer_batch

        assert self._engine is not None, "prepare was called"
        requests = [
            Request(one_question([row.medium.kind], row.item.question, self.settings), (row.medium,)) for row in rows
        ]
        return answer_batch(self._engine, requests)
