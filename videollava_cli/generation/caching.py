"""A KV cache that grows in place or keeps its shape, can be cut, and tells its size.

Knows transformers' cache, no model's `forward`.
"""

from collections.abc import Iterable
from typing import Any

import torch
from transformers import DynamicCache, PretrainedConfig
from transformers.cache_utils import DynamicLayer

ROOM_TOKENS = 256  # that storage grows by: 128 MiB of the 7B in fp16


class GrowingLayer(DynamicLayer):
    """Keys and values in storage with room behind them, (B, heads, T, head size) each.

    transformers' own layer copies all it holds for every token. While a layer is fixed, `keys` and `values` are a
    whole room, and new ones go to places that a tensor names: nothing that a step does depends on a number of the host.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rooms: tuple[torch.Tensor, torch.Tensor] | None = None
        self.reserved = 0  # tokens that new storage takes at least
        self.places: torch.Tensor | None = None  # of the next new tokens, int64, while the layer is fixed

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the keys and values of new tokens; return those of all, or if fixed those of the whole room."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        if self.places is not None:
            self.keys.index_copy_(-2, self.places, key_states)
            self.values.index_copy_(-2, self.places, value_states)
            return self.keys, self.values
        length = int(self.get_seq_length())
        end = length + key_states.shape[-2]
        if self.rooms is None or end > self.rooms[0].shape[-2]:
            self._move_to(end, key_states, value_states)
        assert self.rooms is not None
        for room, new in zip(self.rooms, (key_states, value_states), strict=True):
            room[..., length:end, :] = new
        self.keys, self.values = (room[..., :end, :] for room in self.rooms)
        return self.keys, self.values

    def reserve(self, num_tokens: int) -> None:
        """Have room for so many tokens in all, now or as soon as there is a first one."""
        self.reserved = num_tokens
        if not self.is_initialized or (self.rooms is not None and self.rooms[0].shape[-2] >= num_tokens):
            return
        assert self.keys is not None
        assert self.values is not None
        self._move_to(num_tokens, self.keys, self.values)

    def fix(self, num_tokens: int, places: torch.Tensor) -> None:
        """Keep the shape of a room for so many tokens from now on, until the layer is cut.

        Args:
            num_tokens: As many as were reserved, or fewer.
            places: Where each update puts its tokens, int64, (number of new tokens,).
        """
        assert self.rooms is not None
        length = int(self.get_seq_length())
        self.keys, self.values = (room[..., :num_tokens, :] for room in self.rooms)
        for room in (self.keys, self.values):
            room[..., length:, :].zero_()  # a weight of 0 hides a number, no NaN
        self.places = places

    def cut(self, length: int) -> None:
        """Keep the first tokens only, and grow from there; their storage stays as large as it is."""
        assert self.keys is not None
        assert self.values is not None
        held = self.keys.shape[-2], self.values.shape[-2]
        assert min(held) >= length, f"{length} tokens are to be kept of {held}"
        self.places = None
        self.keys, self.values = self.keys[..., :length, :], self.values[..., :length, :]

    def select(self, rows: torch.Tensor) -> None:
        """Keep some rows, which may name one several times; the next update or reserve makes new storage for them."""
        assert self.keys is not None
        assert self.values is not None
        assert self.places is None
        here = rows.to(self.keys.device)
        self.keys, self.values, self.rooms = self.keys[here], self.values[here], None

    def _move_to(self, num_tokens: int, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Move what the layer holds to new storage for so many tokens, shaped as these keys and values are."""
        length = int(self.get_seq_length())
        num_tokens = rounded_up(max(num_tokens, self.reserved))
        held, given = (self.keys, self.values), (key_states, value_states)
        rooms = [one.new_empty(*one.shape[:-2], num_tokens, one.shape[-1]) for one in given]
        for room, one in zip(rooms, held, strict=True):
            if length:
                assert one is not None
                room[..., :length, :] = one
        self.rooms = rooms[0], rooms[1]
        self.keys, self.values = (room[..., :length, :] for room in rooms)


def rounded_up(num_tokens: int) -> int:
    """Return how many tokens storage for so many takes."""
    return -(-num_tokens // ROOM_TOKENS) * ROOM_TOKENS


class GrowingCache(DynamicCache):
    """A cache of growing layers, for a model whose layers attend to all that came before.

    `kept` is what a caller wants to find again with the cache, such as a step recorded on its storage.
    """

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config=config.get_text_config())
        self.layers = [GrowingLayer() for _ in self.layers]
        self.kept: object = None

    @property
    def growing(self) -> list[GrowingLayer]:
        """Return the layers as what they are."""
        layers = [layer for layer in self.layers if isinstance(layer, GrowingLayer)]
        assert len(layers) == len(self.layers)
        return layers

    @property
    def rooms(self) -> list[torch.Tensor]:
        """Return the storage of keys and of values of each layer that has any, (B, heads, room, head size) each."""
        return [room for layer in self.growing for room in layer.rooms or ()]


def new_cache(config: PretrainedConfig) -> GrowingCache:
    """Return an empty cache for a model of a config."""
    return GrowingCache(config)


def reserve(cache: GrowingCache, num_tokens: int) -> None:
    """Have room for so many tokens in every layer of a cache."""
    for layer in cache.growing:
        layer.reserve(num_tokens)


def fix(cache: GrowingCache, num_tokens: int, places: torch.Tensor) -> None:
    """Keep the shape of every layer of a cache, which has room for so many tokens, until it is cut."""
    for layer in cache.growing:
        layer.fix(num_tokens, places)


def cut(cache: GrowingCache, length: int) -> None:
    """Cut every layer of a cache to its first tokens.

    Keys and values of each layer are cut by themselves: where a forward pass was interrupted they differ in length.
    `Cache.crop` is not used, because from transformers 5.17 to 5.23 its argument changed its meaning.
    """
    for layer in cache.growing:
        layer.cut(length)


def select_rows(cache: GrowingCache, rows: torch.Tensor) -> None:
    """Keep some rows of every layer of a cache, int64, (B,), which may name one several times."""
    for layer in cache.growing:
        layer.select(rows)


def cache_bytes(cache: GrowingCache) -> int:
    """Return how much memory a cache holds, in bytes, with the room behind its tokens."""
    return storage_bytes(cache.rooms)


def storage_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Return how much memory tensors hold, in bytes: a cut one holds all that it was cut from."""
    storages = (tensor.untyped_storage() for tensor in tensors)
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
