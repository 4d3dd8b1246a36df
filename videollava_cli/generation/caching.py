"""A KV cache that grows in place, can be cut, and tells its size; knows transformers' cache, no model's `forward`."""

from collections.abc import Iterable
from typing import Any

import torch
from transformers import DynamicCache, PretrainedConfig
from transformers.cache_utils import DynamicLayer

ROOM_TOKENS = 256  # that storage grows by: 128 MiB of the 7B in fp16


class GrowingLayer(DynamicLayer):
    """Keys and values in storage with room behind them, (B, heads, T, head size) each.

    transformers' own layer copies all it holds for every token.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rooms: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the keys and values of new tokens; return those of all."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        length = int(self.get_seq_length())
        end = length + key_states.shape[-2]
        if self.rooms is None or end > self.rooms[0].shape[-2]:
            shape = (*key_states.shape[:-2], -(-end // ROOM_TOKENS) * ROOM_TOKENS, key_states.shape[-1])
            rooms = key_states.new_empty(shape), value_states.new_empty(shape)
            if length:
                assert self.keys is not None
                assert self.values is not None
                rooms[0][..., :length, :] = self.keys
                rooms[1][..., :length, :] = self.values
            self.rooms = rooms
        for room, new in zip(self.rooms, (key_states, value_states), strict=True):
            room[..., length:end, :] = new
        self.keys, self.values = (room[..., :end, :] for room in self.rooms)
        return self.keys, self.values

    def cut(self, length: int) -> None:
        """Keep the first tokens only; their storage stays as large as it is."""
        assert self.keys is not None
        assert self.values is not None
        held = self.keys.shape[-2], self.values.shape[-2]
        assert min(held) >= length, f"{length} tokens are to be kept of {held}"
        self.keys, self.values = self.keys[..., :length, :], self.values[..., :length, :]

    def select(self, rows: torch.Tensor) -> None:
        """Keep some rows, which may name one several times; the next update makes new storage for them."""
        assert self.keys is not None
        assert self.values is not None
        here = rows.to(self.keys.device)
        self.keys, self.values, self.rooms = self.keys[here], self.values[here], None


def new_cache(config: PretrainedConfig) -> DynamicCache:
    """Return an empty cache for a model of a config, whose layers attend to all that came before."""
    cache = DynamicCache(config=config.get_text_config())
    cache.layers = [GrowingLayer() for _ in cache.layers]
    return cache


def cut(cache: DynamicCache, length: int) -> None:
    """Cut every layer of a cache to its first tokens.

    Keys and values of each layer are cut by themselves: where a forward pass was interrupted they differ in length.
    `Cache.crop` is not used, because from transformers 5.17 to 5.23 its argument changed its meaning.
    """
    for layer in _layers(cache):
        layer.cut(length)


def select_rows(cache: DynamicCache, rows: torch.Tensor) -> None:
    """Keep some rows of every layer of a cache, int64, (B,), which may name one several times."""
    for layer in _layers(cache):
        layer.select(rows)


def cache_bytes(cache: DynamicCache) -> int:
    """Return how much memory a cache holds, in bytes, with the room behind its tokens."""
    return storage_bytes(room for layer in _layers(cache) for room in layer.rooms or ())


def storage_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Return how much memory tensors hold, in bytes: a cut one holds all that it was cut from."""
    storages = (tensor.untyped_storage() for tensor in tensors)
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def _layers(cache: DynamicCache) -> list[GrowingLayer]:
    layers = [layer for layer in cache.layers if isinstance(layer, GrowingLayer)]
    assert len(layers) == len(cache.layers), "the cache is one of ours"
    return layers
