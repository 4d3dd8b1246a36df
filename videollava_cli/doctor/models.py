"""The user's model and the presets: what is on this disk of each, and whether it fits the memory; asks no network."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from videollava_cli.console import bytes_in_words
from videollava_cli.doctor.checks import FILES, Checked, Finding, Mark
from videollava_cli.engine.checkpoint import (
    BUNDLED_SCHEME,
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

MEMORY = "Room for a question about a clip"
# Shards of 4.98, 4.95 and 4.81 GB (the file list of the repository on the hub); 8 frames of 257 tokens and 4,096
# positions (its config.json, which leaves the other sizes to transformers' defaults).
KNOWN_SIZES = {"LanguageBind/Video-LLaVA-7B-hf": ModelSize(14_740_000_000, TextShape(), 8 * 257, 4096)}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model")


@dataclass(frozen=True, slots=True)
class FreeMemory:
    """What is free where a model is to run, in bytes; None where it is unknown.

    `bits` are those of a number in the model's format. `spread` counts all devices that the loader may spread a model
    over, `offloaded` also the computer's memory, which takes what the devices cannot.
    """

    bits: int
    device: int | None
    spread: int | None
    offloaded: int | None


def check_models(settings: Settings, facts: Mapping[str, Any]) -> Checked:
    """Find what is on this disk of each model, and whether it fits; the settings' own model is the first.

    Args:
        settings: Those of the command that is to work.
        facts: What the other checks found.
    """
    free = _free_memory(settings, facts)
    shared = {key: getattr(settings, key) for key in ("device", "dtype", "offline", "max_new_tokens")}
    names = [name for name in preset_names(presets_folder()) if name != settings.model]
    others = [resolve({**shared, "model": name}, presets=presets_folder()) for name in names]
    models = [_look_at(each, free, has_4bit=facts["four_bit"]["is_usable"]) for each in (settings, *others)]
    entries = [(FILES, model, _files_in_words(model, facts["disk"], settings)) for model in models]
    entries += [(MEMORY, model, _memory_in_words(model, facts)) for model in models]
    findings = []
    for section, model, (mark, text) in entries:
        is_other = mark is Mark.PROBLEM and model["name"] != settings.model
        findings.append(Finding(section, model["name"], Mark.NOTE if is_other else mark, text))
    return models, findings


def _free_memory(settings: Settings, facts: Mapping[str, Any]) -> FreeMemory:
    device, available = facts["device"], facts["computer"]["available_bytes"]
    bits = 32 if facts["dtype"] == "float32" else 16
    if device == "cpu":
        return FreeMemory(bits, available, available, available)
    gpus = {gpu["device"]: gpu["free_bytes"] for gpu in facts["graphics"]["gpus"]}
    free = gpus.get("cuda:0" if device == "cuda" else device)
    # The loader spreads a model over several devices unless one was named by its number.
    if free is None or device == "mps" or settings.device.startswith("cuda:"):
        return FreeMemory(bits, free, free, free)
    spread = sum(gpus.values())
    return FreeMemory(bits, free, spread, spread + (available or 0))


def _look_at(settings: Settings, free: FreeMemory, *, has_4bit: bool) -> dict[str, Any]:
    """Return what --json prints of a model."""
    files, size = _look_at_files(settings)
    need = need_4bit = None
    if size is not None:
        need = needed_memory(size, settings, free.bits)
        need_4bit = needed_memory(size, replace(settings, load_4bit=True, load_8bit=False), free.bits)
    is_quantized = settings.load_4bit or settings.load_8bit
    return {
        "name": settings.model,
        "checkpoint": settings.checkpoint or settings.model,
        "load_4bit": settings.load_4bit,
        **files,
        "fit": _fit(need, need_4bit, free, has_4bit=has_4bit),
        # bitsandbytes does not quantize what is not on the GPU.
        "runs_offloaded": need is not None and not is_quantized and need.total <= (free.offloaded or 0),
        "need": need and asdict(need) | {"total": need.total},
        "need_4bit": need_4bit and asdict(need_4bit) | {"total": need_4bit.total},
        "free_bytes": free.spread,
    }


def _fit(need: Need | None, need_4bit: Need | None, free: FreeMemory, *, has_4bit: bool) -> str:
    if need is None or need_4bit is None or free.device is None or free.spread is None:
        return "unknown"
    if need.total <= free.device:
        return "fits"
    if need.total <= free.spread:
        return "fits_spread"
    return "fits_with_load_4bit" if has_4bit and need_4bit.total <= free.device else "does_not_fit"


def _look_at_files(settings: Settings) -> tuple[dict[str, Any], ModelSize | None]:
    """Return what is there of a checkpoint, found as the loader does, and its size as far as it is known."""
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    named = settings.checkpoint or settings.model
    is_on_hub = not named.startswith(BUNDLED_SCHEME) and not Path(named).expanduser().is_dir()
    known = KNOWN_SIZES.get(named)
    known_bytes = None if known is None else known.published_bytes
    try:
        checkpoint = find_checkpoint(replace(settings, offline=True))
        size, folder = model_size(checkpoint), checkpoint.folder
        missing = missing_shards(checkpoint)
    except CheckpointError as error:
        cause = error.__cause__
        if isinstance(cause, LocalEntryNotFoundError | OfflineModeIsEnabled):
            return _files("absent", missing_bytes=known_bytes), known
        if is_on_hub and isinstance(cause, FileNotFoundError):
            # A download that ended early: the folder is there, but not all of its small files.
            return _files("partly", missing=[Path(str(cause.filename)).name], missing_bytes=known_bytes), known
        return _files("broken", reason=str(error)), known
    if not any((folder / name).exists() for name in TOKENIZER_FILES):
        missing.append(TOKENIZER_FILES[0])
    if not missing:
        return _files("whole", folder, missing_bytes=0), size
    if checkpoint.hub_id is None:
        return _files("broken", folder, missing=missing, reason=f"it has no {missing[0]}"), size
    if not size.published_bytes:  # neither an index nor weights say it
        return _files("partly", folder, missing=missing, missing_bytes=known_bytes), known
    return _files(
        "partly", folder, missing=missing, missing_bytes=size.published_bytes - weight_bytes(checkpoint)
    ), size


def _files(
    state: str, folder: Path | None = None, *, missing: list[str] | None = None, **others: int | str | None
) -> dict[str, Any]:
    found = {"state": state, "folder": folder and str(folder), "missing": missing or []}
    return found | {"missing_bytes": None, "reason": None} | others


def _files_in_words(model: Mapping[str, Any], disk: Mapping[str, Any], settings: Settings) -> tuple[Mark, str]:
    if model["state"] == "broken":
        return Mark.PROBLEM, f"no use: {model['reason']}"
    if model["state"] == "whole":
        return Mark.OK, f"there: {model['folder']}"
    there = f"there in part, without {', '.join(model['missing'])}" if model["state"] == "partly" else "not there"
    if settings.offline:
        return Mark.PROBLEM, f"{there}, and offline none is downloaded: run once without --offline, or try -m tiny"
    if model["missing_bytes"] is None:
        return Mark.NOTE, f"{there}: it would be downloaded, and its size is not known here"
    amount, free = bytes_in_words(model["missing_bytes"], "GB"), bytes_in_words(disk["free_bytes"], "GB")
    if model["missing_bytes"] > disk["free_bytes"]:
        return Mark.PROBLEM, (
            f"{there}, and {amount} to download are more than the {free} that are free on the disk: make room, or set "
            "HF_HOME to a folder on a larger one"
        )
    return Mark.NOTE, f"{there}: {amount} would be downloaded, and the disk has room; the network was not tried"


def _memory_in_words(model: Mapping[str, Any], facts: Mapping[str, Any]) -> tuple[Mark, str]:
    if model["need"] is None:
        return Mark.NOTE, "unknown: the size of the checkpoint is told by its files"
    parts = {part: bytes_in_words(num_bytes, "GiB") for part, num_bytes in model["need"].items()}
    sums = "weights {weights} + KV cache {cache} + activations {activations} = {total}".format(**parts)
    if model["fit"] == "unknown":
        return Mark.NOTE, f"unknown: {sums}, and how much is free is not told"
    sums += f"; {bytes_in_words(model['free_bytes'], 'GiB')} free"
    if model["load_4bit"] and not facts["four_bit"]["is_usable"]:
        return Mark.PROBLEM, f"4-bit weights are not usable here: {sums}"
    if model["fit"] == "fits":
        return Mark.OK, f"fits: {sums}"
    if model["fit"] == "fits_spread":
        return Mark.OK, f"fits, spread over {len(facts['graphics']['gpus'])} GPUs: {sums}"
    text = f"does not fit: {sums}; try -m tiny, or a machine with more memory"
    if model["fit"] == "fits_with_load_4bit":
        needed = bytes_in_words(model["need_4bit"]["total"], "GiB")
        text = f"fits with --load-4bit, {needed}; without it: {sums}"
    if model["runs_offloaded"]:
        return Mark.NOTE, f"{text}; a part would stay in the computer's memory, which is slow"
    return Mark.PROBLEM, text
