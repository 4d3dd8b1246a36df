"""The kept prefix: a KV cache and what each of its places stands for; knows keys and tensors, no text, no files."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np
import torch
from transformers import DynamicCache, PretrainedConfig
from transformers.cache_utils import DynamicLayer

from videollava_cli.media import Clip, Medium

Key = int | bytes  # a token id, or at a media token the digest of the medium


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """A medium in a prompt: at which token it starts, and the digest of its kind and pixels."""

    start: int
    medium: Medium
    digest: bytes


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """A prompt as the model runs it: token ids with placeholders expanded, and the media behind them."""

    ids: list[int]
    placed: tuple[Placed, ...]
    keys: list[Key]


def prompt_of(ids: list[int], media: Sequence[Medium], lengths: dict[int, int]) -> Prompt:
    """Return the prompt of token ids about media.

    Args:
        ids: Token ids, placeholders expanded.
        media: In the order of their placeholders.
        lengths: How many tokens a medium takes, by its placeholder's id.
    """
    keys: list[Key] = list(ids)
    placed, start, coming = [], 0, iter(media)
    while start < len(ids):
        length = lengths.get(ids[start])
        if length is None:
            start += 1
            continue
        medium = next(coming)
        placed.append(Placed(start, medium, digest_of(medium)))
        keys[start : start + length] = [placed[-1].digest] * length
        start += length
    return Prompt(ids, tuple(placed), keys)


def digest_of(medium: Medium) -> bytes:
    """Return a digest of a medium's kind and pixels."""
    pixels = medium.frames if isinstance(medium, Clip) else medium.pixels
    digest = hashlib.blake2b(f"{medium.kind} {pixels.shape}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.digest()


def num_shared(rows: Sequence[Sequence[Key]]) -> int:
    """Return how many first keys all rows share."""
    return sum(1 for _ in takewhile(lambda place: len(set(place)) == 1, zip(*rows, strict=False)))


class KeptPrefix:
    """The KV cache of what was last run, and its keys.

    Who runs the model takes the cache out and puts it back with the keys of what was certainly run. Nothing is kept
    meanwhile, so a second answer that begins before the first one ends runs on a cache of its own.
    """

    def __init__(self) -> None:
        self._cache: DynamicCache | None = None
        self._keys: list[Key] = []

    @property
    def num_bytes(self) -> int:
        """Return how much memory is held, in bytes."""
        return storage_bytes(_tensors(self._cache)) if self._cache is not None else 0

    def take(self, keys: Sequence[Key], config: PretrainedConfig) -> DynamicCache:
        """Hand over the cache, cut to the keys it has in common with the given ones.

        Args:
            keys: Of what is to be run, without the last token, whose logits are wanted.
            config: Of the model, for a new cache where nothing is in common.
        """
        cache, kept = self._cache, self._keys
        self.forget()
        length = num_shared([kept, keys])
        if cache is None or length == 0:
            return DynamicCache(config=config.get_text_config())
        cut(cache, length)
        return cache

    def put(self, cache: DynamicCache, keys: Sequence[Key]) -> None:
        """Keep a cache, cut to its first places, whose keys are given; no keys keep nothing."""
        self.forget()
        if keys:
            cut(cache, len(keys))
            self._cache, self._keys = cache, list(keys)

    def forget(self) -> None:
        """Drop what is kept."""
        self._cache, self._keys = None, []


def cut(cache: DynamicCache, length: int) -> None:
    """Cut every layer of a cache to its first places.

    Keys and values of each layer are cut by themselves: where a forward pass was interrupted they differ in length.
    `Cache.crop` is not used, because from transformers 5.17 to 5.23 its argument changed its meaning.
    """
    for layer in _layers(cache):
        layer.keys = _cut(layer.keys, length)
        layer.values = _cut(layer.values, length)


def storage_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Return how much memory tensors hold, in bytes: a cut one holds all that it was cut from."""
    storages = (tensor.untyped_storage() for tensor in tensors)
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def _layers(cache: DynamicCache) -> list[DynamicLayer]:
    layers = [layer for layer in cache.layers if isinstance(layer, DynamicLayer) and not layer.is_sliding]
    assert len(layers) == len(cache.layers), "the language model is a Llama, whose layers attend to everything"
    return layers


def _cut(states: torch.Tensor | None, length: int) -> torch.Tensor:
    assert states is not None, "what is kept was run by every layer"
    assert states.shape[-2] >= length, f"{states.shape[-2]} places are kept of {length} that were run"
    return states[..., :length, :]


def _tensors(cache: DynamicCache) -> list[torch.Tensor]:
    states = [each for layer in _layers(cache) for each in (layer.keys, layer.values)]
    return [tensor for tensor in states if tensor is not None]
