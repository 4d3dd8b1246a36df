"""What is there of each checkpoint, and whether it has room; looks at this disk only, never at the network."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from videollava_cli.doctor.facts import Fit, Gpu, Model, State
from videollava_cli.engine.checkpoint import (
    BUNDLED_SCHEME,
    Checkpoint,
    ModelSize,
    Need,
    TextShape,
    find_checkpoint,
    missing_shards,
    model_size,
    needed_memory,
    weight_bytes,
)
from videollava_cli.errors import CheckpointError
from videollava_cli.settings import Settings, preset_names, presets_folder, resolve

# Shards of 4.98, 4.95 and 4.81 GB (the file list of the repository on the hub); 8 frames of 257 tokens and 4,096
# positions (its config.json, which leaves the other sizes to transformers' defaults).
KNOWN_SIZES = {"LanguageBind/Video-LLaVA-7B-hf": ModelSize(14_740_000_000, TextShape(), 8 * 257, 4096)}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a model is to run, with the bytes that are free there; None where nobody tells.

    Attributes:
        bits: Of a number in the model's format.
        free: On the device.
        free_spread: On all devices of its kind that the loader may spread a model over.
        free_offloaded: On those and in the computer's memory, where the loader puts what the devices have no room for.
        has_4bit: Whether 4-bit weights run on the device.
    """

    bits: int
    free: int | None
    free_spread: int | None
    free_offloaded: int | None
    has_4bit: bool


def find_place(device: str, settings: Settings, gpus: Sequence[Gpu], available: int | None) -> Place:
    """Return the place that the settings choose; 4 bits are taken to run there.

    Args:
        device: What the settings' device is on this machine, `cuda` say.
        settings: Which device was asked for, and in which number format.
        gpus: Those of this machine.
        available: Bytes of the computer's memory.
    """
    is_cpu = device == "cpu"
    bits = 32 if settings.dtype == "float32" or (is_cpu and settings.dtype == "auto") else 16
    if is_cpu:
        return Place(bits, available, available, available, has_4bit=True)
    named = "cuda:0" if device == "cuda" else device
    free = next((gpu.free_bytes for gpu in gpus if gpu.device == named), None)
    # The loader spreads a model over several devices unless one was named by its number.
    if free is None or device == "mps" or settings.device.startswith("cuda:"):
        return Place(bits, free, free, free, has_4bit=True)
    spread = sum(gpu.free_bytes for gpu in gpus)
    return Place(bits, free, spread, spread + (available or 0), has_4bit=True)


def models_to_examine(settings: Settings) -> list[Settings]:
    """Return the settings of the user's model first, then those of the presets, each on the same device."""
    presets = presets_folder()
    shared = {key: getattr(settings, key) for key in ("device", "dtype", "offline", "max_new_tokens")}
    names = [name for name in preset_names(presets) if name != settings.model]
    return [settings, *(resolve({**shared, "model": name}, presets=presets) for name in names)]


def examine_model(settings: Settings, place: Place) -> Model:
    """Find out what is there of a checkpoint, and whether it has room."""
    found = look_at_files(settings)
    need = need_4bit = None
    if found.size is not None:
        need = needed_memory(found.size, settings, place.bits)
        need_4bit = needed_memory(found.size, replace(settings, load_4bit=True, load_8bit=False), place.bits)
    is_quantized = settings.load_4bit or settings.load_8bit
    return Model(
        name=settings.model,
        checkpoint=settings.checkpoint or settings.model,
        load_4bit=settings.load_4bit,
        state=found.state,
        folder=None if found.folder is None else str(found.folder),
        missing=found.missing,
        missing_bytes=found.missing_bytes,
        reason=found.reason,
        fit=fit_of(need, need_4bit, place),
        # bitsandbytes does not quantize what is not on the GPU.
        runs_offloaded=need is not None and not is_quantized and need.total <= (place.free_offloaded or 0),
        need=need,
        need_4bit=need_4bit,
        free_bytes=place.free_spread,
    )


def fit_of(need: Need | None, need_4bit: Need | None, place: Place) -> Fit:
    """Return whether what is needed has room, as it is or with 4-bit weights."""
    if need is None or need_4bit is None or place.free is None or place.free_spread is None:
        return Fit.UNKNOWN
    if need.total <= place.free:
        return Fit.FITS
    if need.total <= place.free_spread:
        return Fit.SPREAD
    return Fit.WITH_4BIT if place.has_4bit and need_4bit.total <= place.free else Fit.NOT


@dataclass(frozen=True, slots=True)
class Files:
    """What is on this disk of a checkpoint, and its size as far as the files or our table tell."""

    state: State
    folder: Path | None = None
    missing: tuple[str, ...] = ()
    missing_bytes: int | None = None
    size: ModelSize | None = None
    reason: str | None = None


def look_at_files(settings: Settings) -> Files:
    """Find a checkpoint as the loader does, without the network."""
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    named = settings.checkpoint or settings.model
    is_on_hub = not named.startswith(BUNDLED_SCHEME) and not Path(named).expanduser().is_dir()
    known = KNOWN_SIZES.get(named)
    known_bytes = None if known is None else known.published_bytes
    try:
        checkpoint = find_checkpoint(replace(settings, offline=True))
        return _files_of(checkpoint)
    except CheckpointError as error:
        cause = error.__cause__
        if isinstance(cause, LocalEntryNotFoundError | OfflineModeIsEnabled):
            return Files(State.ABSENT, missing_bytes=known_bytes, size=known)
        if is_on_hub and isinstance(cause, FileNotFoundError):
            # A download that ended early: the folder is there, and of its small files not all.
            missing = (Path(str(cause.filename)).name,)
            return Files(State.PARTLY, missing=missing, missing_bytes=known_bytes, size=known)
        return Files(State.BROKEN, reason=str(error), size=known)


def _files_of(checkpoint: Checkpoint) -> Files:
    size, folder = model_size(checkpoint), checkpoint.folder
    missing = missing_shards(checkpoint)
    if not any((folder / name).exists() for name in TOKENIZER_FILES):
        missing.append(TOKENIZER_FILES[0])
    if not missing:
        return Files(State.WHOLE, folder, missing_bytes=0, size=size)
    if checkpoint.hub_id is None:
        return Files(State.BROKEN, folder, tuple(missing), size=size, reason=f"it has no {missing[0]}")
    if not size.published_bytes:  # neither an index nor weights tell it
        known = KNOWN_SIZES.get(checkpoint.hub_id)
        return Files(State.PARTLY, folder, tuple(missing), known.published_bytes if known else None, known)
    return Files(State.PARTLY, folder, tuple(missing), size.published_bytes - weight_bytes(checkpoint), size)
