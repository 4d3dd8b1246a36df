"""The user's model and the presets: which of their files are on this disk, and whether they fit the memory."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from videollava_cli.console import bytes_in_words
from videollava_cli.doctor.checks import FILES, Checked, Finding, Mark, check_computer, check_graphics, chosen_device
from videollava_cli.engine.checkpoint import (
    MODEL_TYPE,
    ModelSize,
    TextShape,
    compute_dtype,
    dtype_bits,
    find_checkpoint,
    local_folder,
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


def check_models(settings: Settings, facts: Mapping[str, Any]) -> Checked:
    """Find which models are on this disk, and which fit, by what the other checks found; the settings' own is first."""
    shared = {key: getattr(settings, key) for key in ("device", "dtype", "offline", "max_new_tokens")}
    names = [name for name in preset_names(presets_folder()) if name != settings.model]
    others = [resolve({**shared, "model": name}, presets=presets_folder()) for name in names]
    models = [_look_at(each, facts) for each in (settings, *others)]
    findings = [Finding(FILES, model["name"], *_files_in_words(model, facts["disk"], settings)) for model in models]
    findings += [Finding(MEMORY, model["name"], *_memory_in_words(model, facts)) for model in models]
    for number, found in enumerate(findings):
        if found.mark == "problem" and found.subject != settings.model:
            findings[number] = replace(found, mark="note")
    return models, findings


def find_models(settings: Settings) -> list[dict[str, Any]]:
    """Return the presets and the other Video-LLaVA checkpoints in the hub's cache, as `check_models` describes them."""
    facts: dict[str, Any] = {**chosen_device(settings, find_size(settings)), "computer": check_computer()[0]}
    facts["graphics"] = check_graphics(facts["device"])[0]
    facts["four_bit"] = {"is_usable": find_spec("bitsandbytes") is not None}
    presets = [resolve({"model": name}, presets=presets_folder()) for name in preset_names(presets_folder())]
    known = {preset.checkpoint for preset in presets}
    others = [resolve({"model": name}, presets=presets_folder()) for name in cached_names() if name not in known]
    keys = ("name", "checkpoint", "bytes", "state", "folder", "missing_bytes", "fit")
    found = [_look_at(replace(each, device=settings.device), facts) for each in (*presets, *others)]
    return [{key: each[key] for key in keys} for each in found]


def cached_names() -> list[str]:
    """Return the hub ids of Video-LLaVA checkpoints in the hub's cache, sorted."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        return []
    names = set()
    for each in repositories:
        files = [file for revision in each.revisions for file in revision.files if file.file_name == "config.json"]
        for file in files:
            with suppress(OSError):  # removed meanwhile, or not to be read
                if f'"{MODEL_TYPE}"' in file.file_path.read_text("utf-8", "replace"):
                    names.add(each.repo_id)
    return sorted(names)


def find_size(settings: Settings) -> ModelSize | None:
    """Return the sizes of a checkpoint as its files have them, or as they are known; else None."""
    return _look_at_files(settings)[1]


def _look_at(settings: Settings, facts: Mapping[str, Any]) -> dict[str, Any]:
    files, size = _look_at_files(settings)
    free, in_total, offloaded = _free_memory(settings, facts)
    need = need_4bit = None
    fit = "unknown"
    if size is not None:
        bits = dtype_bits(compute_dtype(size, settings, is_on_cpu=facts["device"] == "cpu"))
        need = needed_memory(size, settings, bits)
        need_4bit = needed_memory(size, replace(settings, load_4bit=True, load_8bit=False), bits)
        if free is not None and in_total is not None:
            has_4bit = facts["four_bit"]["is_usable"] and need_4bit.total <= free
            fit = "fits_with_load_4bit" if has_4bit else "does_not_fit"
            if need.total <= in_total:
                fit = "fits" if need.total <= free else "fits_spread"
    is_quantized = settings.load_4bit or settings.load_8bit
    return {
        "name": settings.model,
        "checkpoint": settings.checkpoint or settings.model,
        "load_4bit": settings.load_4bit,
        **files,
        "fit": fit,
        # bitsandbytes does not quantize what is not on the GPU.
        "runs_offloaded": need is not None and not is_quantized and need.total <= (offloaded or 0),
        "need": need and asdict(need) | {"total": need.total},
        "need_4bit": need_4bit and asdict(need_4bit) | {"total": need_4bit.total},
        "free_bytes": in_total,
        "bytes": size and size.published_bytes,
    }


def _free_memory(settings: Settings, facts: Mapping[str, Any]) -> tuple[int | None, int | None, int | None]:
    """Return the free bytes of the device, of all devices that the loader may use, and of these and the computer."""
    device, available = facts["device"], facts["computer"]["available_bytes"]
    gpus = {gpu["device"]: gpu["free_bytes"] for gpu in facts["graphics"]["gpus"]}
    free = available if device == "cpu" else gpus.get("cuda:0" if device == "cuda" else device)
    # The loader spreads a model over several devices unless one was named by its number.
    if free is None or device in ("cpu", "mps") or settings.device.startswith("cuda:"):
        return free, free, free
    in_total = sum(gpus.values())
    return free, in_total, in_total + available


def _look_at_files(settings: Settings) -> tuple[dict[str, Any], ModelSize | None]:
    """Return the files of a checkpoint as --json has them, found as the loader does, and its size if known."""
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    named = settings.checkpoint or settings.model
    known = KNOWN_SIZES.get(named)
    found: dict[str, Any] = dict.fromkeys(("state", "folder", "missing", "missing_bytes", "reason"))
    found |= {"state": "partly", "missing": [], "missing_bytes": known and known.published_bytes}
    try:
        checkpoint = find_checkpoint(replace(settings, offline=True))
        size, missing = model_size(checkpoint), missing_shards(checkpoint)
    except CheckpointError as error:
        cause = error.__cause__
        if isinstance(cause, LocalEntryNotFoundError | OfflineModeIsEnabled):
            return found | {"state": "absent"}, known
        if isinstance(cause, FileNotFoundError) and not local_folder(named):  # a download that ended early
            return found | {"missing": [Path(str(cause.filename)).name]}, known
        return found | {"state": "broken", "missing_bytes": None, "reason": str(error)}, known
    if not any((checkpoint.folder / name).exists() for name in TOKENIZER_FILES):
        missing.append(TOKENIZER_FILES[0])
    found |= {"folder": str(checkpoint.folder), "missing": missing}
    if not missing:
        return found | {"state": "whole", "missing_bytes": 0}, size
    if checkpoint.hub_id is None:
        return found | {"state": "broken", "missing_bytes": None, "reason": f"it has no {missing[0]}"}, size
    if not size.published_bytes:  # neither an index nor weights have it
        return found, known
    return found | {"missing_bytes": size.published_bytes - weight_bytes(checkpoint)}, size


def _files_in_words(model: Mapping[str, Any], disk: Mapping[str, Any], settings: Settings) -> tuple[Mark, str]:
    if model["state"] == "broken":
        return "problem", f"no use: {model['reason']}"
    if model["state"] == "whole":
        return "ok", f"there: {model['folder']}"
    there = f"there in part, without {', '.join(model['missing'])}" if model["state"] == "partly" else "not there"
    if settings.offline:
        return "problem", f"{there}, and offline none is downloaded: run once without --offline, or try -m tiny"
    if disk["problem"]:
        return "problem", f"{there}, and none can be fetched: {disk['problem']}: set HF_HOME to another folder"
    if model["missing_bytes"] is None:
        return "note", f"{there}: it would be downloaded, and its size is not known here"
    amount, free = bytes_in_words(model["missing_bytes"], "GB"), bytes_in_words(disk["free_bytes"], "GB")
    if model["missing_bytes"] > disk["free_bytes"]:
        return "problem", (
            f"{there}, and {amount} to download are more than the {free} that are free on the disk: make room, or set "
            "HF_HOME to a folder on a larger one"
        )
    return "note", f"{there}: {amount} would be downloaded, and the disk has room; the network was not tried"


def _memory_in_words(model: Mapping[str, Any], facts: Mapping[str, Any]) -> tuple[Mark, str]:
    if model["need"] is None:
        return "note", "unknown: the size of the checkpoint is told by its files"
    parts = {part: bytes_in_words(num_bytes, "GiB") for part, num_bytes in model["need"].items()}
    sums = "weights {weights} + KV cache {cache} + activations {activations} = {total}".format(**parts)
    if model["fit"] == "unknown":
        return "note", f"unknown: {sums}, and how much is free is not told"
    sums += f"; {bytes_in_words(model['free_bytes'], 'GiB')} free"
    if model["load_4bit"] and not facts["four_bit"]["is_usable"]:
        return "problem", f"4-bit weights are not usable here: {sums}"
    if model["fit"] == "fits":
        return "ok", f"fits: {sums}"
    if model["fit"] == "fits_spread":
        return "ok", f"fits, spread over {len(facts['graphics']['gpus'])} GPUs: {sums}"
    text = f"does not fit: {sums}; try -m tiny, or a machine with more memory"
    if model["fit"] == "fits_with_load_4bit":
        needed = bytes_in_words(model["need_4bit"]["total"], "GiB")
        text = f"fits with --load-4bit, {needed}; without it: {sums}"
    if model["runs_offloaded"]:
        return "note", f"{text}; a part would stay in the computer's memory, which is slow"
    return "problem", text
