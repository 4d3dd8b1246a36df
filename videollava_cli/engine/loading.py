"""Loading weights: device, number format, quantization, attention; knows transformers, nothing of prompts."""

import importlib.util
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    PreTrainedTokenizerBase,
    VideoLlavaConfig,
    VideoLlavaForConditionalGeneration,
)

from videollava_cli.engine.checkpoint import Checkpoint, model_size, weight_files
from videollava_cli.engine.memory import needed_memory
from videollava_cli.engine.model_access import is_out_of_memory
from videollava_cli.engine.quantized import QuantizedStore, identity_of, is_keepable
from videollava_cli.engine.quantizing import QuantizingInPieces, quantization_config
from videollava_cli.engine.weights import Target, stored_tensors
from videollava_cli.errors import CheckpointError, GenerationError, UsageError, first_line
from videollava_cli.malloc import returning_blocks
from videollava_cli.settings import Settings

FLASH_ATTENTION = "flash_attention_2"
MAX_SHARD_SIZE = "2GB"  # of kept weights: one shard at a time comes back from a GPU to be written


def load_tokenizer(checkpoint: Checkpoint) -> PreTrainedTokenizerBase:
    """Load the tokenizer; it pads on the left, as generating needs.

    Raises:
        CheckpointError: If the checkpoint has none.
    """
    try:
        with quiet_libraries():
            tokenizer = AutoTokenizer.from_pretrained(
                checkpoint.folder, local_files_only=True, trust_remote_code=False, padding_side="left"
            )
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read the tokenizer of {checkpoint.name!r}: {first_line(error)}") from error
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    return tokenizer


def check_machine(settings: Settings) -> None:
    """Refuse settings that this machine cannot do, before anything is fetched or loaded.

    Raises:
        UsageError: If the device is not there, or 8 bits or Flash-Attention 2 cannot run on it.
    """
    device = choose_device(settings.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"device is {settings.device!r} and torch finds no CUDA GPU: give --device cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"device is {settings.device!r} and there are {torch.cuda.device_count()} CUDA GPUs")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError("device is 'mps' and torch finds none: give --device cpu")
    if settings.load_8bit and device.type != "cuda":
        raise UsageError(f"8-bit weights need a CUDA GPU, and the device is {str(device)!r}: use --load-4bit")
    if (settings.load_4bit or settings.load_8bit) and importlib.util.find_spec("bitsandbytes") is None:
        raise UsageError("quantized weights need the package bitsandbytes: pip install bitsandbytes")
    if settings.attn_implementation == FLASH_ATTENTION:
        _check_flash_attention(device, choose_dtype(settings.dtype, device))


def _check_flash_attention(device: torch.device, dtype: torch.dtype) -> None:
    if device.type != "cuda":
        raise UsageError(
            f"Flash-Attention 2 needs a CUDA GPU, and the device is {str(device)!r}: leave --flash-attn out"
        )
    if importlib.util.find_spec("flash_attn") is None:
        raise UsageError("Flash-Attention 2 needs the package flash-attn: pip install flash-attn")
    if torch.cuda.get_device_capability(device) < (8, 0):
        name = torch.cuda.get_device_name(device)
        raise UsageError(f"Flash-Attention 2 needs an Ampere GPU or newer, and this is {name}: leave --flash-attn out")
    if dtype not in (torch.float16, torch.bfloat16):
        raise UsageError(f"Flash-Attention 2 needs float16 or bfloat16, and dtype is {dtype}: give --dtype float16")


def load_model(
    checkpoint: Checkpoint, settings: Settings, store: QuantizedStore | None = None
) -> VideoLlavaForConditionalGeneration:
    """Load weights that are on this disk: safetensors only, no code from the checkpoint.

    Args:
        checkpoint: What to load.
        settings: Where to, in which format.
        store: Where 4-bit weights are kept from one time to the next; None to quantize every time. 8-bit ones are not
            kept: a GPU makes them about as fast as it would read them.

    Raises:
        UsageError: If the machine cannot do what the settings ask.
        CheckpointError: If the weights cannot be read.
        GenerationError: If they do not fit the memory.
    """
    check_machine(settings)
    if store is not None and settings.load_4bit and is_keepable(checkpoint):
        return _load_kept(checkpoint, settings, store)
    return _load_anew(checkpoint, settings)


def _load_anew(checkpoint: Checkpoint, settings: Settings) -> VideoLlavaForConditionalGeneration:
    device = choose_device(settings.device)
    source = Source(checkpoint.folder, choose_dtype(settings.dtype, device), quantization_config(settings))
    if device.type != "cpu" or source.quantization is None:
        return _load_folder(checkpoint, settings, source)
    with returning_blocks(), QuantizingInPieces():  # type: ignore[no-untyped-call]
        return _load_folder(checkpoint, settings, source)


def _load_kept(checkpoint: Checkpoint, settings: Settings, store: QuantizedStore) -> VideoLlavaForConditionalGeneration:
    """Load 4-bit weights that were kept, or make and keep them."""
    device = choose_device(settings.device)
    dtype, quantization = choose_dtype(settings.dtype, device), quantization_config(settings)
    assert quantization is not None
    way = json.dumps(quantization.to_dict(), sort_keys=True, default=str)
    identity = identity_of(checkpoint, dtype=str(dtype), device=device.type, quantization=way)
    folder = store.folder_of(checkpoint, identity)
    if store.find(folder):
        try:
            return _load_folder(checkpoint, settings, Source(folder, None, None))
        except CheckpointError as error:  # made wrongly, or removed meanwhile
            store.discard(folder, str(error))
    model = _load_anew(checkpoint, settings)
    with quiet_libraries():
        manifest = {
            "model": checkpoint.hub_id or checkpoint.name,
            "what": f"4-bit {str(dtype).removeprefix('torch.')}",
            "identity": identity,
        }
        store.keep(folder, manifest, lambda draft: model.save_pretrained(draft, max_shard_size=MAX_SHARD_SIZE))
    return model


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A folder of weights, the format they are read in (None: as stored), and how they are quantized on the way."""

    folder: Path
    dtype: torch.dtype | None
    quantization: transformers.BitsAndBytesConfig | None


def _load_folder(checkpoint: Checkpoint, settings: Settings, source: Source) -> VideoLlavaForConditionalGeneration:
    device = choose_device(settings.device)
    dtype = choose_dtype(settings.dtype, device)
    options: dict[str, Any] = {
        "dtype": dtype,
        "device_map": _device_map(checkpoint, settings, device, dtype),
        "quantization_config": source.quantization,
        "attn_implementation": settings.attn_implementation,
        "use_safetensors": True,
        "local_files_only": True,
        "output_loading_info": True,
    }
    with _loading_errors(checkpoint, device), quiet_libraries():
        loaded: Any
        if options["device_map"] == "auto":  # accelerate reads the files itself
            loaded = VideoLlavaForConditionalGeneration.from_pretrained(source.folder, **options)
        else:
            config = VideoLlavaConfig.from_pretrained(source.folder, local_files_only=True)
            with stored_tensors(weight_files(source.folder), Target(device, source.dtype)) as tensors:
                loaded = VideoLlavaForConditionalGeneration.from_pretrained(
                    None, config=config, state_dict=tensors, **options
                )
    model, report = loaded  # with output_loading_info
    if missing := sorted(report["missing_keys"]):
        raise CheckpointError(f"the weights of {checkpoint.name!r} are incomplete: {missing[0]} is missing")
    assert isinstance(model, VideoLlavaForConditionalGeneration)
    if (source.folder / "generation_config.json").exists():
        model.generation_config = GenerationConfig.from_pretrained(source.folder, local_files_only=True)
    model.train(mode=False)
    return model


@contextmanager
def _loading_errors(checkpoint: Checkpoint, device: torch.device) -> Iterator[None]:
    """Turn what transformers, accelerate and bitsandbytes raise while loading into one line that says what to do."""
    try:
        yield
    except ImportError as error:
        raise UsageError(f"a package that these settings need is missing or too old: {first_line(error)}") from error
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise GenerationError(
                f"{checkpoint.name!r} does not fit into the memory of {device}: try --load-4bit"
            ) from error
        raise CheckpointError(f"cannot load the weights of {checkpoint.name!r}: {first_line(error)}") from error
    except (OSError, ValueError, SafetensorError) as error:
        if "dispatched on the CPU" in str(error):  # bitsandbytes does not quantize what does not fit the GPU
            raise GenerationError(f"{checkpoint.name!r} does not fit into the memory of {device}") from error
        raise CheckpointError(f"cannot load the weights of {checkpoint.name!r}: {first_line(error)}") from error


def choose_device(name: str) -> torch.device:
    """Return the device of a name; `auto` is the first of CUDA GPU, Apple GPU and CPU that is there.

    Raises:
        UsageError: If there is no device of this name.
    """
    if name == "auto":
        is_there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
        name = next(kind for kind, there in is_there.items() if there)
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"device is {name!r}: give auto, cpu, cuda, cuda:1 or mps") from error
    if device.type not in ("cuda", "mps", "cpu"):
        raise UsageError(f"device is {name!r}: give auto, cpu, cuda, cuda:1 or mps")
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the number format of a name; `auto` is float16 on a GPU and float32 on a CPU."""
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.float16
    dtype = getattr(torch, name)
    assert isinstance(dtype, torch.dtype)
    return dtype


def _device_map(
    checkpoint: Checkpoint, settings: Settings, device: torch.device, dtype: torch.dtype
) -> str | dict[str, torch.device]:
    """Return where the weights go: one device, or spread by accelerate when one GPU is too small."""
    if device.type != "cuda" or settings.device.startswith("cuda:"):
        return {"": device}
    free, _ = torch.cuda.mem_get_info(device)
    needed = needed_memory(model_size(checkpoint), settings, torch.finfo(dtype).bits)
    return "auto" if needed.total > free else {"": device}


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep the libraries' own progress bars, advice and warnings off the terminal while something loads."""
    loggers = [logging.getLogger(name) for name in ("transformers", "bitsandbytes", "accelerate")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    had_bars = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if had_bars:
            transformers.utils.logging.enable_progress_bar()  # type: ignore[no-untyped-call]
