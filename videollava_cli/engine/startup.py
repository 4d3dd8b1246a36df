"""Start an engine, the same way for every command and for Python programs, while media are read."""

import os
import time
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Unpack

from videollava_cli.console import Console
from videollava_cli.engine import Engine, as_media, prompt_encoder
from videollava_cli.engine.checkpoint import (
    Checkpoint,
    check_memory,
    fetch_weights,
    find_checkpoint,
    find_pixels,
    missing_shards,
)
from videollava_cli.engine.quantized_cache import QuantizedCache, cache_folder
from videollava_cli.errors import UsageError
from videollava_cli.media import Medium
from videollava_cli.process import signals_deferred
from videollava_cli.prompt import Conversation
from videollava_cli.reader import ReadAhead, Reader
from videollava_cli.sampling import Sampling
from videollava_cli.settings import SETTINGS, Settings, presets_folder, resolve

if TYPE_CHECKING:
    from videollava_cli.engine.keywords import LoadOptions
    from videollava_cli.reader.in_memory import Source

LONG_SECONDS = 2.0  # of a prefill, from which on a person would wonder
T = TypeVar("T")


def load(model: str | PathLike[str] = "7b", **options: "Unpack[LoadOptions]") -> Engine:
    """Load a checkpoint for use from Python: a preset, a hub id or a local folder.

    Options are settings by the names they have in a config file, such as `load_4bit=True` or `device="cpu"`; config
    file and environment do not count here. 4-bit weights are kept in `$XDG_CACHE_HOME/vllava` unless `cache=False`.

    Raises:
        UsageError: If an option is unknown or wrong, or cannot be had on this machine.
        CheckpointError: If the checkpoint cannot be had.
        GenerationError: If it does not fit the memory.
    """
    if foreign := [key for key in options if key in SETTINGS and SETTINGS[key].scope == "chat"]:
        raise UsageError(f"{foreign[0]} is a setting of vllava chat alone")
    settings = resolve({"model": os.fspath(model), **options}, presets=presets_folder())
    engine, _ = start_engine(settings, find_checkpoint(settings), Console(is_quiet=True))
    return engine


def read(
    medium: "Source | Medium | list[Source] | tuple[Source]",
    model: str | PathLike[str] = "7b",
    *,
    start: float | str | None = None,
    end: float | str | None = None,
    at: str | Sequence[float | str] | None = None,
    fit: Literal["crop", "pad", "stretch"] = "crop",
) -> Medium:
    """Read a medium as a model sees it, without its weights, and for a preset without any download.

    The medium is one of those that `Engine.ask` takes, the options are settings. Raises MediaError if it cannot be
    read, UsageError if it is none or an option is wrong, CheckpointError if there is no such model.
    """
    several = as_media(medium)
    if len(several) != 1:
        raise UsageError(f"read takes one medium, and {len(several)} are given: the frames of a clip are clip(frames)")
    if isinstance(several[0], Medium):
        return several[0]
    options = {"model": os.fspath(model), "start": start, "end": end, "at": at, "fit": fit}
    settings = resolve(options, presets=presets_folder())
    with Reader(settings) as reader:
        return reader.read(reader.find(several[0]), find_pixels(settings))


def show_prefill(chunks: Generator[T, None, None], engine: Engine, console: Console) -> Generator[T, None, None]:
    """Yield an answer's chunks; before the first one, show in a terminal how far a prefill that takes long is."""
    from videollava_cli.engine.model_access import prefill_watched

    began: float | None = None

    def report(what: str, share: float) -> None:
        nonlocal began
        began = time.perf_counter() if began is None else began
        if share < 1.0 and time.perf_counter() - began > LONG_SECONDS:
            show(f"Reading the {what} into the model: {share:.0%}")

    with console.progress() as show, prefill_watched(engine.model, report):
        first = next(chunks, None)
    if first is not None:
        yield first
        yield from chunks


def start_engine(
    settings: Settings,
    checkpoint: Checkpoint,
    console: Console,
    *,
    conversations: Iterable[Conversation] = (),
    media: Future[Any] | ReadAhead[Any] | None = None,
) -> tuple[Engine, float]:
    """Start an engine: check the machine, then the prompts, fetch the weights, load them.

    The prompts of `conversations`, which are taken after the tokenizer is loaded, have to fit the context. `media` are
    being read meanwhile: a failure ends the start, and before a download the last one is awaited. Returns the engine,
    and the seconds that starting took without download and waiting. Raises VllavaError.
    """
    began = time.perf_counter()
    check_memory(checkpoint, settings)
    with console.status("Starting"):
        with signals_deferred():
            from videollava_cli.engine.loading import check_machine, choose_device, load_model, load_tokenizer

        check_machine(settings)
        encoder = prompt_encoder(checkpoint, load_tokenizer(checkpoint))
        for conversation in conversations:
            encoder.encode(conversation)
    seconds = time.perf_counter() - began
    if missing_shards(checkpoint):
        if media is not None:
            media.result()  # a damaged clip is an error before gigabytes are fetched
        fetch_weights(checkpoint, offline=settings.offline)
    if media is not None and media.done():
        media.result()
    if settings.dtype == "float16" and choose_device(settings.device).type == "cpu":
        console.notice("float16 is very slow on a CPU: give --dtype bfloat16, or leave it out")
    began = time.perf_counter()
    cache = QuantizedCache(cache_folder(), console.notice) if settings.cache else None
    with console.status(f"Loading {settings.model}"):
        model = load_model(checkpoint, settings, cache)

    def read_one(source: "Source", sampling: Sampling) -> Medium:
        with Reader(settings) as reader:
            return reader.read(reader.find(source), checkpoint.pixels, sampling=sampling)

    engine = Engine(model, encoder.tokenizer, checkpoint, settings, read_one, encoder)
    devices = sorted({str(device) for device in getattr(model, "hf_device_map", {}).values()})
    if len(devices) > 1:
        console.notice(f"{settings.model} is too large for one device, so it is spread over {', '.join(devices)}")
    return engine, seconds + time.perf_counter() - began
