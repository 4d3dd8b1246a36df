"""Engine and reader put together, for commands and for Python programs; knows nothing of terminals or options."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from videollava_cli.engine import Engine
from videollava_cli.engine.checkpoint import Checkpoint, fetch_weights, find_checkpoint
from videollava_cli.engine.quantized import QuantizedStore
from videollava_cli.media import Medium
from videollava_cli.reader import Found, MediaReader
from videollava_cli.sampling import Sampling
from videollava_cli.settings import Settings, presets_folder, resolve, xdg_folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load(model: str = "7b", **options: object) -> Engine:
    """Load a checkpoint for use from Python; config file and environment do not count here.

    4-bit weights are kept in `$XDG_CACHE_HOME/vllava` unless `cache=False`.

    Args:
        model: A preset, a hub id or a local folder.
        options: Settings by the names they have in a config file, such as `load_4bit=True` or `device="cpu"`.

    Raises:
        UsageError: If an option is unknown or wrong, or cannot be had on this machine.
        CheckpointError: If the checkpoint cannot be had.
        GenerationError: If it does not fit the memory.
    """
    settings = resolve({"model": model, **options}, presets=presets_folder())
    checkpoint = find_checkpoint(settings)
    fetch_weights(checkpoint, offline=settings.offline)
    return load_engine(settings, checkpoint)


def cache_folder() -> Path:
    """Return the folder of quantized checkpoints: `$XDG_CACHE_HOME/vllava/quantized`."""
    return xdg_folder("CACHE") / "quantized"


def load_engine(
    settings: Settings,
    checkpoint: Checkpoint,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    *,
    tell: Callable[[str], None] = lambda _: None,
) -> Engine:
    """Load the weights of a checkpoint that is on this disk, and its tokenizer unless it was loaded before.

    Args:
        settings: How to load it; with `cache`, 4-bit weights are kept on disk for the next time.
        checkpoint: What to load.
        tokenizer: Its tokenizer, if it was loaded before.
        tell: Called with what the user should know about weights that are kept.

    Raises:
        UsageError: If the machine cannot do what the settings ask.
        CheckpointError: If the weights or the tokenizer cannot be read.
        GenerationError: If they do not fit the memory.
    """
    from videollava_cli.engine.loading import load_model, load_tokenizer

    def read(source: str, sampling: Sampling) -> Medium:
        """Find a medium and read it, sampling a clip as told."""
        with MediaReader(offline=settings.offline, decode_threads=settings.decode_threads) as reader:
            return reader.read(reader.find(source), checkpoint.pixels, sampling)

    tokenizer = tokenizer or load_tokenizer(checkpoint)
    store = QuantizedStore(cache_folder(), tell) if settings.cache else None
    return Engine(load_model(checkpoint, settings, store), tokenizer, checkpoint, settings, read)


class BackgroundReading:
    """Media being read in a thread while libraries and weights load in this one.

    Use it as a context manager: leaving it stops what is still being read and waits for the thread.
    """

    def __init__(self, reader: MediaReader, found: Sequence[Found], checkpoint: Checkpoint, sampling: Sampling) -> None:
        self.seconds = 0.0
        self._reader = reader
        self._media: Future[list[Medium]] = Future()
        arguments = (tuple(found), checkpoint, sampling)
        self._thread = threading.Thread(target=self._run, args=arguments, name="reader", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._reader.stop()
        self._thread.join()

    def raise_if_failed(self) -> None:
        """Raise what went wrong so far, without waiting."""
        if self._media.done():
            self._media.result()

    def result(self) -> list[Medium]:
        """Wait for the media, in the order they were named.

        Raises:
            MediaError: If one of them cannot be read.
        """
        return self._media.result()

    def _run(self, found: Sequence[Found], checkpoint: Checkpoint, sampling: Sampling) -> None:
        began = time.perf_counter()
        try:
            media = [self._reader.read(medium, checkpoint.pixels, sampling) for medium in found]
        except BaseException as error:  # whatever it is, it belongs to the thread that asks for the result
            self._media.set_exception(error)
        else:
            self.seconds = time.perf_counter() - began
            self._media.set_result(media)
