"""What one answer leaves to the next: the KV cache of a prompt's prefix, and the vision features of media."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PretrainedConfig, VideoLlavaForConditionalGeneration

from videollava_cli.engine.kv_cache import KVCache, nbytes
from videollava_cli.engine.model_access import encode_medium
from videollava_cli.engine.request import Key, PlacedMedium, num_shared
from videollava_cli.preprocessing import PixelSettings

MIN_HIT_TOKENS = 16  # as vLLM's block size; fewer save nothing, and behind a prefix attention needs a mask
ENCODER_CACHE_BYTES = 256 << 20  # sixteen clips of the 7B in fp16: 2,056 tokens x 4,096 numbers each


@dataclass(slots=True, eq=False)
class CachedPrefix:
    """A KV cache of one row, and the keys of the tokens that were certainly run."""

    cache: KVCache
    keys: list[Key]


class PrefixCache:
    """The KV cache of the last prompt, matched by token ids and by the digests of media."""

    def __init__(self, config: PretrainedConfig) -> None:
        self._config = config
        self._last: CachedPrefix | None = None

    @property
    def nbytes(self) -> int:
        """How much memory is held, in bytes."""
        return nbytes(self._last.cache.storage) if self._last else 0

    def acquire(self, keys: Sequence[Key]) -> CachedPrefix:
        """Take out what is cached of the first keys of a prompt; without a hit the storage is reused, empty.

        An answer that begins before this one is released runs on a cache of its own.
        """
        last, self._last = self._last, None
        if last is None:
            return CachedPrefix(KVCache(self._config), [])
        length = num_shared(last.keys, keys)
        if length < MIN_HIT_TOKENS:
            length = 0
        last.cache.crop(length)
        return CachedPrefix(last.cache, last.keys[:length])

    def release(self, prefix: CachedPrefix) -> None:
        """Keep a cache for the next prompt, cropped to the tokens that were certainly run."""
        prefix.cache.crop(len(prefix.keys))
        self._last = prefix if prefix.keys else None


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
        """Return the features of media, (media tokens, hidden size) each; towers run for those not cached.

        Each medium goes through its tower alone, so that its features do not depend on others.
        """
        found = []
        for placed in media:
            features = self._features.pop(placed.digest, None)
            if features is None:
                features = encode_medium(self._model, placed.medium, self._pixels)
            found.append(features)
            self._features[placed.digest] = features
            while self.nbytes > self._max_bytes:
                self._features.popitem(last=False)
        return found
