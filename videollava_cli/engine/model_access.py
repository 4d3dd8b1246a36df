"""What the engine must know of a model beside `forward`: features, embeddings, masks, end ids, memory."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from transformers import VideoLlavaForConditionalGeneration

from videollava_cli.engine.kv_cache import nbytes
from videollava_cli.engine.request import PlacedMedium
from videollava_cli.machine import free_memory
from videollava_cli.media import MediaKind, Medium
from videollava_cli.preprocessing import PixelSettings, pixel_values

ENCODER_CACHE_BYTES = 256 << 20  # sixteen clips of the 7B in fp16: 2,056 tokens x 4,096 numbers each


class EncoderCache:
    """Vision features of recent media by their digests; the least recently used go first."""

    def __init__(
        self, model: VideoLlavaForConditionalGeneration, pixels: PixelSettings, max_bytes: int = ENCODER_CACHE_BYTES
    ) -> None:
        self._model = model
        self._pixels = pixels
        self._max_bytes = max_bytes
        self._features: OrderedDict[bytes, torch.Tensor] = OrderedDict()

    @property
    def nbytes(self) -> int:
        """How much memory is held, in bytes."""
        return nbytes(self._features.values())

    def get(self, media: Sequence[PlacedMedium]) -> list[torch.Tensor]:
        """Return what stands at the placeholders of media, (media tokens, hidden size) each."""
        found = []
        for placed in media:
            features = self._features.pop(placed.digest, None)
            if features is None:
                features = self._encode(placed.medium)
            found.append(features)
            self._features[placed.digest] = features
            while self.nbytes > self._max_bytes:
                self._features.popitem(last=False)
        return found

    @torch.inference_mode()
    def _encode(self, medium: Medium) -> torch.Tensor:
        """Run a medium's tower and the projector: alone, so that its features do not depend on others."""
        model = self._model
        values = pixel_values(medium.pixels, self._pixels).to(model.device, model.dtype)  # (T, 3, S, S)
        if medium.kind is MediaKind.VIDEO:
            features: torch.Tensor = model.model.get_video_features(values[None]).pooler_output
        else:
            features = model.model.get_image_features(values).pooler_output  # by position: 5.23 renamed the argument
        return features.flatten(0, 1)


def embed(
    model: VideoLlavaForConditionalGeneration, token_ids: Sequence[int], features: Sequence[torch.Tensor]
) -> torch.Tensor:
    """Return the embeddings of token ids, (T, hidden size), with the features of media at their placeholders."""
    tokens = torch.tensor(token_ids, device=model.device)  # (T,)
    embedded: torch.Tensor = model.get_input_embeddings()(tokens)  # (T, hidden)
    if features:
        is_media = (tokens == model.config.image_token_id) | (tokens == model.config.video_token_id)  # (T,)
        given = torch.cat([feature.to(embedded.device, embedded.dtype) for feature in features])
        embedded[is_media.to(embedded.device)] = given
    return embedded


class SingleTokenStep(TorchFunctionMode):
    """While this lasts, products for one token a row read weights and KV cache at the speed of memory.

    On a CPU without AMX torch chooses slower ones for bfloat16. So oneDNN is left out where one row is multiplied, and
    attention is plain products with softmax in float32, as transformers' eager attention has it (`scripts/bench cpu`).
    """

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run one function of torch, in another way if it is one of the two."""
        if func is torch.nn.functional.linear and args[0].numel() == args[0].shape[-1]:
            with _without_onednn():
                return func(*args, **(kwargs or {}))
        is_attention = func is torch.nn.functional.scaled_dot_product_attention
        if is_attention and not any((kwargs or {}).get(name) for name in ("enable_gqa", "is_causal", "dropout_p")):
            return _attend(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_mask: torch.Tensor | None = None, **how: Any
) -> torch.Tensor:
    with _without_onednn():
        scores = (query @ key.transpose(2, 3)).float() * (how.get("scale") or query.shape[-1] ** -0.5)
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            scores.masked_fill_(~attn_mask, float("-inf"))
        elif attn_mask is not None:
            scores += attn_mask
        weights = scores.softmax(-1).to(value.dtype)  # (B, heads, 1, T)
        # Head by head: a product of all heads would copy the values first.
        heads = [torch.mv(v.T, w) for v, w in zip(value.flatten(0, 1), weights.flatten(0, 2), strict=True)]
    return torch.stack(heads).view(query.shape)  # (B, heads, 1, head size)


@contextmanager
def _without_onednn() -> Iterator[None]:
    # The switch is one for the process: what another thread multiplies meanwhile may be slower, not wrong.
    was_enabled = torch._C._get_mkldnn_enabled()  # torch.backends.mkldnn.flags sets more, and warns of it
    if was_enabled:
        torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        if was_enabled:
            torch._C._set_mkldnn_enabled(True)


@contextmanager
def prefill_watched(model: VideoLlavaForConditionalGeneration, report: Callable[[str, float], None]) -> Iterator[None]:
    """While this lasts, report after each layer what is read, and the share of the language model that has run.

    What is read is a clip, an image, or else a prompt. The towers' layers count as none: they take a twentieth.
    """
    layers, what = model.model.language_model.layers, "prompt"

    def after_layer(name: str, share: float) -> None:
        nonlocal what
        what = name or what
        report(what, share)

    towers = {"clip": model.model.video_tower, "image": model.model.image_tower}
    watched = [(layer, name, 0.0) for name, tower in towers.items() for layer in tower.encoder.layers]
    watched += [(layer, "", number / len(layers)) for number, layer in enumerate(layers, 1)]
    with ExitStack() as hooks:
        for layer, name, share in watched:
            hook = layer.register_forward_hook(lambda *_, name=name, share=share: after_layer(name, share))
            hooks.callback(hook.remove)
        yield


def takes_any_mask(model: VideoLlavaForConditionalGeneration) -> bool:
    """Return whether attention takes any mask of (queries, keys); Flash-Attention 2 and its kin take padding only."""
    return model.config.get_text_config()._attn_implementation in {"sdpa", "eager"}


def can_capture(model: VideoLlavaForConditionalGeneration) -> bool:
    """Return whether decode steps can be captured as a CUDA graph.

    They can if the model is on one CUDA card, its attention takes our mask, and no layer asks the host how to go on,
    as those of 8 bits do (bitsandbytes looks for outliers).
    """
    placement = getattr(model, "hf_device_map", {})
    is_on_one_card = model.device.type == "cuda" and len(set(map(str, placement.values()))) <= 1
    return is_on_one_card and takes_any_mask(model) and not getattr(model, "is_loaded_in_8bit", False)


def bytes_per_token(model: VideoLlavaForConditionalGeneration) -> int:
    """Return how many bytes a token takes in the KV cache."""
    config = model.config.get_text_config()
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * config.num_key_value_heads * head_size * model.dtype.itemsize)


def end_of_answer_ids(model: VideoLlavaForConditionalGeneration) -> frozenset[int]:
    """Return the ids that end an answer, from the generation config, else from the text config."""
    for config in (model.generation_config, model.config.get_text_config()):
        found: Any = getattr(config, "eos_token_id", None)
        if found is not None:
            return frozenset(found if isinstance(found, list) else [found])
    return frozenset()


def is_out_of_memory(error: Exception) -> bool:
    """Return whether a device ran out of memory; on a CPU torch raises a plain RuntimeError that says so."""
    texts = ("DefaultCPUAllocator", "Cannot allocate memory")  # the second one of files that are mapped
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(text in str(error) for text in texts)


def free_bytes(device: torch.device) -> int:
    """Return how much memory is free on a device, in bytes."""
    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else free_memory()
