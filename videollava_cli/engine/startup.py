"""Start an engine, the same way for every command and for Python programs, while media are read."""

import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self

from videollava_cli.console import Console
from videollava_cli.conversation import Conversation
from videollava_cli.engine import Engine
from videollava_cli.engine.checkpoint import Checkpoint, fetch_weights, find_checkpoint, missing_shards
from videollava_cli.engine.prompting import prompt_ids, prompt_text
from videollava_cli.engine.quantized_cache import QuantizedCache, cache_folder
from videollava_cli.media import Medium
from videollava_cli.reader import Found, MediaReader
from videollava_cli.sampling import Sampling
from videollava_cli.settings import Settings, presets_folder, resolve


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
    engine, _ = start_engine(settings, find_checkpoint(settings), Console(is_quiet=True))
    return engine


def start_engine(
    settings: Settings,
    checkpoint: Checkpoint,
    console: Console,
    *,
    conversations: Iterable[Conversation] = (),
    media: Future[Any] | None = None,
) -> tuple[Engine, float]:
    """Start an engine: check the machine, then the prompts, fetch the weights, load them.

    Args:
        settings: How to load; with `cache`, 4-bit weights are kept on disk for the next time.
        checkpoint: What to load.
        console: Shows progress and notices.
        conversations: Their prompts have to fit the context; they are taken after the tokenizer is loaded.
        media: Media being read meanwhile. A failure ends the start; before a download the last one is awaited.

    Returns:
        The engine, and the seconds that starting took without download and waiting.

    Raises:
        UsageError: If the machine cannot do what the settings ask, or a prompt does not fit the context.
        MediaError: If a medium cannot be read.
        CheckpointError: If the checkpoint cannot be had.
        GenerationError: If it does not fit the memory.
    """
    began = time.perf_counter()
    with console.status("Starting"):
        from videollava_cli.engine.loading import check_machine, load_model, load_tokenizer

        check_machine(settings)
        tokenizer = load_tokenizer(checkpoint)
        for conversation in conversations:
            prompt_ids(prompt_text(conversation, tokenizer), tokenizer, checkpoint)
    seconds = time.perf_counter() - began
    if missing_shards(checkpoint):
        if media is not None:
            media.result()  # a damaged clip is an error before gigabytes are fetched
        fetch_weights(checkpoint, offline=settings.offline)
    if media is not None and media.done():
        media.result()
    began = time.perf_counter()
    cache = QuantizedCache(cache_folder(), console.notice) if settings.cache else None
    with console.status(f"Loading {settings.model}"):
        model = load_model(checkpoint, settings, cache)

    def read(source: str, sampling: Sampling) -> Medium:
        with MediaReader(offline=settings.offline, decode_threads=settings.decode_threads) as reader:
            return reader.read(reader.find(source), checkpoint.pixels, sampling)

    engine = Engine(model, tokenizer, checkpoint, settings, read)
    devices = sorted({str(device) for device in getattr(model, "hf_device_map", {}).values()})
    if len(devices) > 1:
        console.notice(f"{settings.model} is too large for one device, so it is spread over {', '.join(devices)}")
    return engine, seconds + time.perf_counter() - began


class BackgroundReading:
    """Read media in a thread while libraries and weights load in this one; `media` has the outcome.

    Use it as a context manager: on an error it stops the reading; in any case it waits for the thread.
    """

    def __init__(self, reader: MediaReader, found: Sequence[Found], checkpoint: Checkpoint, sampling: Sampling) -> None:
        self.seconds = 0.0
        self._reader = reader
        self.media: Future[list[Medium]] = Future()
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

    def _run(self, found: Sequence[Found], checkpoint: Checkpoint, sampling: Sampling) -> None:
        began = time.perf_counter()
        try:
            media = [self._reader.read(medium, checkpoint.pixels, sampling) for medium in found]
        except BaseException as error:  # raised again by `media.result()`
            self.media.set_exception(error)
        else:
            self.seconds = time.perf_counter() - began
            self.media.set_result(media)
