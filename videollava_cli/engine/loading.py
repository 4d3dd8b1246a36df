"""Load a checkpoint with transformers: device, number format, quantization, attention."""

import importlib.util
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
    PreTrainedTokenizerBase,
    VideoLlavaConfig,
    VideoLlavaForConditionalGeneration,
)
from transformers.utils import logging as transformers_logging

from videollava_cli.engine.checkpoint import (
    BUNDLED_FOLDER,
    Checkpoint,
    compute_dtype,
    model_size,
    needed_memory,
    weight_files,
)
from videollava_cli.engine.model_access import is_out_of_memory
from videollava_cli.engine.quantized_cache import QuantizedCache, identity_of
from videollava_cli.engine.weights import PiecewiseQuantization, stored_tensors
from videollava_cli.errors import CheckpointError, GenerationError, UsageError, first_line
from videollava_cli.machine import large_blocks_returned
from videollava_cli.settings import Settings

MAX_SHARD_SIZE = "2GB"  # of kept weights: one shard at a time comes back from a GPU to be written


def load_tokenizer(checkpoint: Checkpoint) -> PreTrainedTokenizerBase:
    """Load the tokenizer, with padding on the left, as generating needs."""
    try:
        with quiet_libraries():
            tokenizer = AutoTokenizer.from_pretrained(
                checkpoint.folder, local_files_only=True, trust_remote_code=False, padding_side="left"
            )
    except Exception as error:  # tokenizers raises no other class for a damaged file
        raise CheckpointError(f"cannot read the tokenizer of {checkpoint.name!r}: {first_line(error)}") from error
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    return tokenizer


def check_machine(settings: Settings) -> None:
    """Raise UsageError for settings that this machine cannot do, before anything is fetched or loaded."""
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
    if settings.attn_implementation != "flash_attention_2":
        return
    if device.type != "cuda":
        problem = f"needs a CUDA GPU, and the device is {str(device)!r}"
        raise UsageError(f"Flash-Attention 2 {problem}: leave --flash-attn out")
    if importlib.util.find_spec("flash_attn") is None:
        raise UsageError("Flash-Attention 2 needs the package flash-attn: pip install flash-attn")
    if torch.cuda.get_device_capability(device) < (8, 0):
        name = torch.cuda.get_device_name(device)
        raise UsageError(f"Flash-Attention 2 needs an Ampere GPU or newer, and this is {name}: leave --flash-attn out")


def load_model(
    checkpoint: Checkpoint, settings: Settings, cache: QuantizedCache | None = None
) -> VideoLlavaForConditionalGeneration:
    """Load weights that are on this disk, on a checked machine: safetensors only, no code from the checkpoint.

    On a CPU 4-bit layers get our way to run prompts. With a cache, 4-bit weights are kept for the next time. 8-bit ones
    are not: a GPU makes them about as fast as it would read them; neither are those of the bundled model, which is
    quantized faster than its copy is checked. Raises UsageError, CheckpointError, or GenerationError if the weights do
    not fit the memory.
    """
    device = choose_device(settings.device)
    model = _load_or_quantize(checkpoint, settings, device, cache)
    if settings.load_4bit and device.type == "cpu":
        from videollava_cli.engine.linear_4bit import pack_layers

        with _loading_errors(checkpoint, settings, device), large_blocks_returned():
            pack_layers(model)
    return model


def _load_or_quantize(
    checkpoint: Checkpoint, settings: Settings, device: torch.device, cache: QuantizedCache | None
) -> VideoLlavaForConditionalGeneration:
    dtype = choose_dtype(checkpoint, settings, device)
    quantization = _quantization_config(settings, device, dtype)
    is_bundled = BUNDLED_FOLDER in checkpoint.folder.parents
    if cache is None or quantization is None or settings.load_8bit or is_bundled:
        return _load_folder(checkpoint.folder, checkpoint, settings)
    way = json.dumps(quantization.to_dict(), sort_keys=True, default=str)
    identity = identity_of(checkpoint, dtype=str(dtype), device=device.type, quantization=way)
    folder = cache.folder_of(checkpoint, identity)
    if cache.find(folder):
        try:
            return _load_folder(folder, checkpoint, settings, is_quantized=True)
        except CheckpointError as error:  # made wrongly, a damaged header, or removed meanwhile
            cache.discard(folder, str(error))
    model = _load_folder(checkpoint.folder, checkpoint, settings)
    what = f"4-bit {str(dtype).removeprefix('torch.')}"
    manifest = {"model": checkpoint.hub_id or checkpoint.name, "what": what, "identity": identity}
    with quiet_libraries():
        cache.keep(folder, manifest, lambda draft: model.save_pretrained(draft, max_shard_size=MAX_SHARD_SIZE))
    return model


def _load_folder(
    folder: Path, checkpoint: Checkpoint, settings: Settings, *, is_quantized: bool = False
) -> VideoLlavaForConditionalGeneration:
    device = choose_device(settings.device)
    dtype = choose_dtype(checkpoint, settings, device)
    quantization = None if is_quantized else _quantization_config(settings, device, dtype)
    options: dict[str, Any] = {
        "dtype": dtype,
        "device_map": _device_map(checkpoint, settings, device, dtype),
        "quantization_config": quantization,
        "attn_implementation": settings.attn_implementation,
        "use_safetensors": True,
        "local_files_only": True,
        "output_loading_info": True,
    }
    from_pretrained: Any = VideoLlavaForConditionalGeneration.from_pretrained
    with _loading_errors(checkpoint, settings, device), quiet_libraries(), ExitStack() as stack:
        if device.type == "cpu" and settings.load_4bit:
            stack.enter_context(large_blocks_returned())
        if device.type == "cpu" and quantization is not None:
            stack.enter_context(PiecewiseQuantization())  # type: ignore[no-untyped-call]
        if options["device_map"] == "auto":  # accelerate reads the files itself
            model, report = from_pretrained(folder, **options)
        else:
            config = VideoLlavaConfig.from_pretrained(folder, local_files_only=True)
            # Quantized weights are packed anew on a CPU: mapped, they would take memory twice.
            convert, is_mapped = None if is_quantized else dtype, not is_quantized
            stored = stored_tensors(weight_files(folder), device, convert, is_mapped=is_mapped)
            model, report = from_pretrained(None, config=config, state_dict=stack.enter_context(stored), **options)
        if (folder / "generation_config.json").exists():
            model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    if missing := sorted(report["missing_keys"]):
        raise CheckpointError(f"the weights of {checkpoint.name!r} are incomplete: {missing[0]} is missing")
    assert isinstance(model, VideoLlavaForConditionalGeneration)
    model.train(mode=False)
    return model


@contextmanager
def _loading_errors(checkpoint: Checkpoint, settings: Settings, device: torch.device) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise UsageError(f"a package that these settings need is missing or too old: {first_line(error)}") from error
    except (OSError, RuntimeError, ValueError, MemoryError, SafetensorError) as error:
        too_large = f"{checkpoint.name!r} does not fit into the memory of {device}"
        if is_out_of_memory(error):
            way = "-m tiny, or a machine with more" if settings.load_4bit else "--load-4bit"
            raise GenerationError(f"{too_large}: try {way}") from error
        if "dispatched on the CPU" in str(error):  # bitsandbytes quantizes on the GPU only
            raise GenerationError(too_large) from error
        raise CheckpointError(f"cannot load the weights of {checkpoint.name!r}: {first_line(error)}") from error


def choose_device(name: str) -> torch.device:
    """Return the device of a name; `auto` is the first available of CUDA GPU, Apple GPU and CPU."""
    if name == "auto":
        is_there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
        name = next(kind for kind, there in is_there.items() if there)
    with suppress(RuntimeError):
        device = torch.device(name)
        if device.type in ("cuda", "mps", "cpu"):
            return device
    raise UsageError(f"device is {name!r}: give auto, cpu, cuda, cuda:1 or mps")


def choose_dtype(checkpoint: Checkpoint, settings: Settings, device: torch.device) -> torch.dtype:
    """Return the number format in which a checkpoint, whose weights are here, computes on a device."""
    name = compute_dtype(model_size(checkpoint), settings, is_on_cpu=device.type == "cpu")
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def _quantization_config(settings: Settings, device: torch.device, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    if settings.load_8bit:
        return BitsAndBytesConfig(load_in_8bit=True)  # type: ignore[no-untyped-call]
    if settings.load_4bit:
        # A card's 4-bit kernels are made for 16 bits; float16 is what the documents of Video-LLaVA say.
        compute = torch.float16 if device.type == "cuda" and dtype == torch.float32 else dtype
        nf4: dict[str, Any] = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": compute}
        return BitsAndBytesConfig(load_in_4bit=True, **nf4)  # type: ignore[no-untyped-call]
    return None


def _device_map(
    checkpoint: Checkpoint, settings: Settings, device: torch.device, dtype: torch.dtype
) -> str | dict[str, torch.device]:
    if device.type != "cuda" or settings.device.startswith("cuda:"):
        return {"": device}
    free, _ = torch.cuda.mem_get_info(device)
    needed = needed_memory(model_size(checkpoint), settings, torch.finfo(dtype).bits)
    # accelerate spreads the weights when one GPU is too small
    return "auto" if needed.total > free else {"": device}


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep the libraries' own progress bars, advice and warnings off the terminal while something loads."""
    loggers = [logging.getLogger(name) for name in ("transformers", "bitsandbytes", "accelerate")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    had_bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if had_bars:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
