"""What `vllava batch` gives its pipeline: reading media, bounded in memory, and answering questions about them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from videollava_cli.batch import Item
from videollava_cli.batch.folders import says_it_is_media
from videollava_cli.batch.pipeline import Failed, NoMedia, Row, Unread
from videollava_cli.console import Console
from videollava_cli.engine.checkpoint import Checkpoint
from videollava_cli.engine.prompting import one_question
from videollava_cli.engine.startup import start_engine
from videollava_cli.errors import MediaError, UsageError
from videollava_cli.media import MediaKind
from videollava_cli.reader import MediaFile, Reader, try_read
from videollava_cli.settings import Settings

if TYPE_CHECKING:
    from videollava_cli.engine import Engine
    from videollava_cli.engine.batch import Answer


class Reading:
    """Read media in several threads; `stop` ends all of them within a frame.

    Args:
        settings: How many threads decode one medium, without sharing processors, and which frames are taken.
        checkpoint: Into what form frames are brought.
        num_processors: How many to use.
    """

    def __init__(self, settings: Settings, checkpoint: Checkpoint, num_processors: int) -> None:
        self._reader = Reader.of_many(settings, num_processors)
        self._pixels = checkpoint.pixels
        self.num_readers = self._reader.num_readers

    def read(self, items: Sequence[Item]) -> Sequence[Row | Unread]:
        """Read the medium that items are about."""
        source = items[0].source
        result = try_read(self._reader, source.path, self._pixels)
        if result.medium:
            return [Row(item, result.medium, result.seconds) for item in items]
        assert result.error
        if result.is_found or source.is_named or says_it_is_media(source.path):
            return [Failed(item, result.error) for item in items]
        return [NoMedia(item) for item in items]

    def stop(self) -> None:
        """Let every `read`, now and later, end within a frame."""
        self._reader.stop()


def find(reader: Reader, items: Sequence[Item]) -> MediaFile | list[Unread]:
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
