"""Engine and reader put together, for commands and for Python programs; knows nothing of terminals or options."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from videollava_cli.engine import Engine
from videollava_cli.engine.checkpoint import Checkpoint, fetch_weights, find_checkpoint
from videollava_cli.engine.quantized import QuantizedStore
from videollava_cli.media import Medium
from videollava_cli.reader import Reader
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
        with Reader(settings) as reader:
            return reader.read(reader.find(source), checkpoint.pixels, sampling=sampling)

    tokenizer = tokenizer or load_tokenizer(checkpoint)
    store = QuantizedStore(cache_folder(), tell) if settings.cache else None
    return Engine(load_model(checkpoint, settings, store), tokenizer, checkpoint, settings, read)
