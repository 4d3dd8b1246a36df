"""Find and fetch a checkpoint, and estimate its memory; reads JSON only, so that mistakes show before weights load."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from videollava_cli.console import bytes_in_words
from videollava_cli.errors import CheckpointError, MemoryFullError, UsageError
from videollava_cli.machine import free_memory, has_fast_bfloat16, may_have_gpu, total_memory
from videollava_cli.media import NUM_FRAMES, MediaKind
from videollava_cli.preprocessing import Fit, PixelSettings
from videollava_cli.settings import Settings, preset_image_processor, presets_folder
from videollava_cli.text import parsed

BUNDLED_SCHEME = "bundled:"
BUNDLED_FOLDER = Path(__file__).resolve().parents[1] / "bundled"
SMALL_FILES = ["*.json", "*.model", "*.jinja"]
WEIGHT_FILES = ["*.safetensors"]
SHARD_INDEX = "model.safetensors.index.json"
MODEL_TYPE = "video_llava"

CHECKPOINT_BITS = 16  # a weight, as published
QUANTIZED_BITS = {"load_4bit": 4.5, "load_8bit": 8.5}  # a weight, with its share of the scales
TEXT_TOKENS = 128  # of a question and the text around it, about
# Activation values per token in one layer, in units of hidden_size and intermediate_size.
HIDDEN_SIZES, INNER_SIZES = 12, 3


@dataclass(frozen=True, slots=True)
class TextShape:
    """The sizes of a language model; the defaults are the 7B's, whose config.json relies on LlamaConfig's."""

    num_layers: int = 32
    hidden_size: int = 4096
    inner_size: int = 11008
    num_key_value_heads: int = 32
    head_size: int = 128
    vocabulary_size: int = 32064

    @classmethod
    def from_config(cls, text: Mapping[str, Any]) -> Self:
        """Return the sizes in a checkpoint's `text_config`; raises what wrong sizes make `int` and `//` raise."""
        hidden, heads = int(text.get("hidden_size", 4096)), int(text.get("num_attention_heads", 32))
        return cls(
            num_layers=int(text.get("num_hidden_layers", 32)),
            hidden_size=hidden,
            inner_size=int(text.get("intermediate_size", 11008)),
            num_key_value_heads=int(text.get("num_key_value_heads") or heads),
            head_size=int(text.get("head_dim") or hidden // heads),
            vocabulary_size=int(text.get("vocab_size", 32000)),
        )

    def cache_bytes(self, num_tokens: int, bits: int) -> int:
        """Return the size of a KV cache; one layer counts twice, as it is copied when its capacity grows."""
        return 2 * (self.num_layers + 1) * self.num_key_value_heads * self.head_size * num_tokens * bits // 8


@dataclass(frozen=True, slots=True)
class ModelSize:
    """The sizes from which a checkpoint's need of memory follows; its weights are those on disk or on the hub."""

    published_bytes: int
    shape: TextShape
    clip_tokens: int
    context_length: int


@dataclass(frozen=True, slots=True)
class Need:
    """The memory that a question about a clip takes on a device, in bytes; `activations` are those of the prefill."""

    weights: int
    cache: int
    activations: int

    @property
    def answer(self) -> int:
        """What each question takes that is answered at the same time."""
        return self.cache + self.activations

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.cache + self.activations


def needed_memory(size: ModelSize, settings: Settings, bits: int) -> Need:
    """Estimate the memory of a checkpoint and of a question about a clip, with the longest answer.

    `bits` are those of a number in the model's format.
    """
    quantized_bits = next((number for key, number in QUANTIZED_BITS.items() if getattr(settings, key)), bits)
    shape = size.shape
    # transformers quantizes neither the embeddings nor the output layer.
    num_unquantized = 2 * shape.vocabulary_size * shape.hidden_size
    num_others = max(size.published_bytes * 8 // CHECKPOINT_BITS - num_unquantized, 0)
    num_prompt_tokens = min(size.clip_tokens + TEXT_TOKENS, size.context_length)
    num_tokens = min(num_prompt_tokens + settings.max_new_tokens, size.context_length)
    activations = HIDDEN_SIZES * shape.hidden_size + INNER_SIZES * shape.inner_size
    return Need(
        weights=int(num_others * quantized_bits + num_unquantized * bits) // 8,
        cache=shape.cache_bytes(num_tokens, bits),
        activations=num_prompt_tokens * activations * bits // 8,
    )


def compute_dtype(size: ModelSize | None, settings: Settings, *, is_on_cpu: bool) -> str:
    """Return the number format that the settings choose, by torch's name; `size` is None where it is not known.

    `auto` is float16 on a GPU. On a CPU it depends on the machine and never on what happens to be free: bfloat16 where
    the processor is made for it, or where float32 does not fit the memory in all; else float32.
    """
    if settings.dtype != "auto":
        return settings.dtype
    if not is_on_cpu:
        return "float16"
    if settings.cpu_dtype is not None:
        return settings.cpu_dtype
    usual = Settings(load_4bit=settings.load_4bit, load_8bit=settings.load_8bit)  # an answer of the usual length
    is_too_large = size is not None and needed_memory(size, usual, 32).total > total_memory()
    return "bfloat16" if is_too_large or has_fast_bfloat16() else "float32"


def dtype_bits(dtype: str) -> int:
    """Return the bits of a number in a format of that name."""
    return 32 if dtype == "float32" else 16


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint whose small files are on this disk."""

    name: str
    folder: Path
    hub_id: str | None  # None for a local folder
    context_length: int
    image_token_id: int
    video_token_id: int
    tokens_per_image: int
    tokens_per_video: int
    pixels: PixelSettings
    shape: TextShape

    def media_tokens(self, kind: MediaKind) -> int:
        """Return how many tokens a medium takes in the prompt."""
        return self.tokens_per_video if kind is MediaKind.VIDEO else self.tokens_per_image

    def placeholder_id(self, kind: MediaKind) -> int:
        """Return the token id of a kind's placeholder."""
        return self.video_token_id if kind is MediaKind.VIDEO else self.image_token_id


def find_checkpoint(settings: Settings) -> Checkpoint:
    """Find the checkpoint of the settings; fetch its small files from the hub, and not yet its weights.

    Raises CheckpointError if it cannot be had or is no Video-LLaVA, UsageError if there is a revision and no hub id.
    """
    named = settings.checkpoint or settings.model
    folder = local_folder(named)
    hub_id = None if folder else named
    if folder and settings.revision:
        raise UsageError(f"revision is {settings.revision!r}, and {settings.model!r} is no hub id: leave it out")
    folder = folder or _fetch(named, SMALL_FILES, settings.revision, offline=settings.offline)
    config = _read_json(folder / "config.json", settings.model)
    if config.get("model_type") != MODEL_TYPE:
        raise CheckpointError(f"{settings.model!r} is a {config.get('model_type')!r} model, not a Video-LLaVA one")
    try:
        return _from_config(settings, folder, hub_id, config)
    except (AttributeError, TypeError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(f"config.json of {settings.model!r} makes no sense: it may be damaged") from error


def find_pixels(settings: Settings) -> PixelSettings:
    """Return how the checkpoint of the settings prepares pictures: by its preset, else by its files.

    Raises as `find_checkpoint`, and for a preset nothing: it needs neither files nor network.
    """
    config = None if settings.revision else preset_image_processor(settings.model, presets_folder())
    if config is None:
        return find_checkpoint(settings).pixels
    return replace(PixelSettings.from_config(config), fit=Fit(settings.fit))


def local_folder(named: str) -> Path | None:
    """Return the folder that the name of a checkpoint means; None for a hub id."""
    if named.startswith(BUNDLED_SCHEME):
        return BUNDLED_FOLDER / named.removeprefix(BUNDLED_SCHEME)
    folder = os.path.expanduser(named)
    return Path(folder) if os.path.isdir(folder) else None


def fetch_weights(checkpoint: Checkpoint, *, offline: bool) -> None:
    """Download the weights unless they are on this disk; raises CheckpointError if there are no safetensors files."""
    folder = checkpoint.folder
    if checkpoint.hub_id and missing_shards(checkpoint):
        # The folder of a hub snapshot is named after its commit: weights must come from the same one.
        folder = _fetch(checkpoint.hub_id, WEIGHT_FILES, folder.name, offline=offline)
    if missing := missing_shards(checkpoint):
        whose = "in the local cache" if checkpoint.hub_id else f"in {str(folder)!r}"
        hint = ": run once without --offline" if offline and checkpoint.hub_id else ""
        raise CheckpointError(f"{checkpoint.name!r} has no weights {missing[0]} {whose}{hint}")


def check_disk_space(checkpoint: Checkpoint) -> None:
    """Raise CheckpointError if the weights that are missing, by the index of shards, have no room on the disk."""
    missing = published_bytes(checkpoint) - weight_bytes(checkpoint)
    free = shutil.disk_usage(checkpoint.folder).free
    if missing_shards(checkpoint) and missing > free:
        raise CheckpointError(
            f"{checkpoint.name!r} needs {missing / 1e9:.1f} GB more, and {free / 1e9:.1f} GB are free in "
            f"{str(checkpoint.folder)!r}: make room, or set HF_HOME to a folder on a larger disk"
        )


def check_memory(checkpoint: Checkpoint, settings: Settings) -> None:
    """Raise MemoryFullError if a model that runs on the CPU cannot fit its memory, with what would; needs no torch.

    A model whose size is not known before its weights are here is let pass.
    """
    size = model_size(checkpoint)
    is_on_cpu = settings.device == "cpu" or (settings.device == "auto" and not may_have_gpu())
    if settings.force or not is_on_cpu or not size.published_bytes:
        return

    def needed(**changes: Any) -> int:
        changed = replace(settings, **changes)
        return needed_memory(size, changed, dtype_bits(compute_dtype(size, changed, is_on_cpu=True))).total

    free = free_memory()
    if needed() <= free:
        return
    needs = {"--dtype bfloat16": needed(dtype="bfloat16"), "--load-4bit": needed(load_4bit=True, load_8bit=False)}
    ways = [f"{way} takes {bytes_in_words(need, 'GiB')}" for way, need in needs.items() if need <= free]
    raise MemoryFullError(
        f"{checkpoint.name!r} needs {bytes_in_words(needed(), 'GiB')} of memory, and {bytes_in_words(free, 'GiB')} are "
        f"free: {ways[0] if ways else 'try -m tiny, or a machine with more'}; --force tries it all the same"
    )


def missing_shards(checkpoint: Checkpoint) -> list[str]:
    """Return the names of weight files that are not on this disk."""
    return [path.name for path in weight_files(checkpoint.folder) if not path.exists()]


def weight_files(folder: Path) -> list[Path]:
    """Return the files of a checkpoint's weights, sorted, whether or not they are on this disk."""
    index = folder / SHARD_INDEX
    shards = _read_json(index, str(folder))["weight_map"].values() if index.exists() else ["model.safetensors"]
    return [folder / shard for shard in sorted(set(shards))]


def weight_bytes(checkpoint: Checkpoint) -> int:
    """Return the size of the weights on disk, in bytes."""
    return sum(path.stat().st_size for path in checkpoint.folder.glob("*.safetensors"))


def published_bytes(checkpoint: Checkpoint) -> int:
    """Return the size of the weights in bytes by the index of shards, which need not have it, or on this disk."""
    index = checkpoint.folder / SHARD_INDEX
    metadata = _read_json(index, checkpoint.name).get("metadata", {}) if index.exists() else {}
    return max(int(metadata.get("total_size", 0)), weight_bytes(checkpoint))


def model_size(checkpoint: Checkpoint) -> ModelSize:
    """Return the sizes from which the checkpoint's need of memory follows."""
    clip_tokens = max(checkpoint.media_tokens(kind) for kind in MediaKind)
    return ModelSize(published_bytes(checkpoint), checkpoint.shape, clip_tokens, checkpoint.context_length)


def _from_config(settings: Settings, folder: Path, hub_id: str | None, config: Mapping[str, Any]) -> Checkpoint:
    vision, text = config.get("vision_config") or {}, config.get("text_config") or {}
    # Where a key is absent transformers takes its class's default: CLIPVisionConfig, LlamaConfig, VideoLlavaConfig.
    patches = (int(vision.get("image_size", 224)) // int(vision.get("patch_size", 32))) ** 2
    drops_class_token = config.get("vision_feature_select_strategy", "default") == "default"
    return Checkpoint(
        name=settings.model,
        folder=folder,
        hub_id=hub_id,
        context_length=int(text.get("max_position_embeddings", 2048)),
        image_token_id=int(config.get("image_token_id", config.get("image_token_index", 32000))),
        video_token_id=int(config.get("video_token_id", config.get("video_token_index", 32001))),
        tokens_per_image=patches if drops_class_token else patches + 1,
        tokens_per_video=(patches + 1) * NUM_FRAMES,  # videos keep the class token of each frame
        pixels=replace(PixelSettings.from_config(_image_processor(folder, settings.model)), fit=Fit(settings.fit)),
        shape=TextShape.from_config(text),
    )


def _image_processor(folder: Path, name: str) -> dict[str, Any]:
    # Newer versions of transformers write processor_config.json.
    combined = folder / "processor_config.json"
    if not (folder / "preprocessor_config.json").exists() and combined.exists():
        return dict(_read_json(combined, name).get("image_processor") or {})
    return _read_json(folder / "preprocessor_config.json", name)


def _read_json(path: Path, name: str) -> dict[str, Any]:
    try:
        content = parsed(json.loads, path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{name!r} is no checkpoint: it has no {path.name}") from error
    except OSError as error:
        raise CheckpointError(f"cannot read {path.name} of {name!r}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path.name} of {name!r} is no JSON: it is damaged, download it anew") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path.name} of {name!r} is no JSON object")
    return content


def _fetch(hub_id: str, patterns: list[str], revision: str | None, *, offline: bool) -> Path:
    from huggingface_hub import errors as hub
    from huggingface_hub import snapshot_download

    from videollava_cli.reader.hub import hub_problem, quiet_hub

    try:
        with quiet_hub():
            return Path(snapshot_download(hub_id, revision=revision, allow_patterns=patterns, local_files_only=offline))
    except hub.HFValidationError as error:
        raise CheckpointError(f"{hub_id!r} is neither a folder nor a hub id such as owner/name") from error
    except (hub.HTTPError, OSError, RuntimeError) as error:  # type: ignore[attr-defined]
        named = f"{hub_id!r} at revision {revision!r}" if revision else repr(hub_id)
        problem = hub_problem(
            error,
            hub_id,
            kind="checkpoint",
            revision=revision,
            offline=offline,
            named=named,
            instead=", or try -m tiny",
        )
        raise CheckpointError(problem) from error
