"""The KV cache, dynamic or static as CUDA graphs need, in storage that grows in place; and that of the last prompt."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache, PretrainedConfig
from transformers.cache_utils import DynamicLayer

from videollava_cli.engine.request import Key, num_shared

BLOCK_TOKENS = 256  # capacity comes in blocks: of the 7B in fp16 128 MiB a row
MIN_HIT_TOKENS = 16  # as vLLM's block size; fewer save nothing, and behind a prefix attention needs a mask


class KVCacheLayer(DynamicLayer):
    """One layer's keys and values, views of storage of (rows, heads, capacity, head size).

    transformers' DynamicLayer copies all it holds for every token. In static mode `update` writes at cache positions on
    the device and returns the whole capacity, as StaticLayer does, which neither grows nor goes back to dynamic mode.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.storage: tuple[torch.Tensor, ...] = ()
        self.reserved = (0, 0)  # rows and tokens that new storage takes at least
        self.cache_position: torch.Tensor | None = None  # of the next new tokens, int64, in static mode

    @property
    def views(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values, (B, heads, T, head size) each."""
        return self.keys, self.values  # type: ignore[return-value]  # None before the first tokens only

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Start with empty storage."""
        super().lazy_initialization(key_states, value_states)
        self.storage = tuple(one.new_empty(0, one.shape[1], 0, one.shape[3]) for one in (key_states, value_states))
        self.set_size(0, 0)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the keys and values of new tokens, (B, heads, new, head size); return those to attend to."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        new = key_states, value_states
        if self.cache_position is not None:
            for view, states in zip(self.views, new, strict=True):
                view.index_copy_(-2, self.cache_position, states)
            return self.views
        num_rows, _, num_new, _ = key_states.shape
        length = int(self.get_seq_length())
        self.grow(num_rows, length + num_new)
        self.set_size(num_rows, length + num_new)
        for view, states in zip(self.views, new, strict=True):
            view[:, :, length:] = states
        return self.views

    def crop(self, length: int) -> None:
        """Keep the first tokens only, in dynamic mode; capacity stays as it is."""
        held = [view.shape[-2] for view in self.views]
        assert min(held) >= length, f"{length} tokens are to be kept of {held}"
        self.cache_position = None
        self.set_size(len(self.views[0]), length)

    def set_size(self, num_rows: int, num_tokens: int) -> None:
        """Take so many rows and tokens of the storage as keys and values."""
        self.keys, self.values = (each[:num_rows, :, :num_tokens] for each in self.storage)

    def grow(self, num_rows: int, num_tokens: int) -> None:
        """Move to larger storage if so many rows and tokens do not fit."""
        if len(self.storage[0]) >= num_rows and self.storage[0].shape[2] >= num_tokens:
            return
        held = self.views
        rows = max(num_rows, self.reserved[0], len(held[0]))
        capacity = rounded_up(max(num_tokens, self.reserved[1], held[0].shape[2]))
        self.storage = tuple(each.new_empty(rows, each.shape[1], capacity, each.shape[3]) for each in held)
        self.set_size(len(held[0]), held[0].shape[2])
        for view, states in zip(self.views, held, strict=True):
            view.copy_(states)


class KVCache(DynamicCache):
    """One KVCacheLayer for each layer of a model whose layers attend to all that came before."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config=config.get_text_config())
        self.layers: list[KVCacheLayer] = [KVCacheLayer() for _ in self.layers]  # type: ignore[assignment]

    @property
    def storage(self) -> list[torch.Tensor]:
        """The storage of keys and of values of each layer, (rows, heads, capacity, head size) each."""
        return [tensor for layer in self.layers for tensor in layer.storage]

    @property
    def addresses(self) -> list[tuple[int, torch.Size]]:
        """Where the storage is and how large, which a captured CUDA graph depends on."""
        return [(tensor.data_ptr(), tensor.shape) for tensor in self.storage]

    def reserve(self, num_rows: int, num_tokens: int) -> None:
        """Provide capacity for so many rows and tokens, now or as soon as there is a first one."""
        for layer in self.layers:
            layer.reserved = num_rows, num_tokens
            if layer.storage:
                layer.grow(num_rows, num_tokens)

    def make_static(self, capacity: int, cache_position: torch.Tensor) -> None:
        """Keep one shape until the next crop: `update` writes at cache positions, int64, (number of new tokens,)."""
        for layer in self.layers:
            num_rows, _, length, _ = layer.views[0].shape
            layer.set_size(num_rows, capacity)
            for view in layer.views:
                view[:, :, length:].zero_()  # a weight of 0 hides a number, but no NaN
            layer.cache_position = cache_position

    def crop(self, length: int) -> None:
        """Keep the first `length` tokens only; layers differ in length where a forward pass was interrupted."""
        for layer in self.layers:
            if layer.storage:
                layer.crop(length)

    def select(self, rows: list[int]) -> None:
        """Keep some rows, named in ascending order; each moves to the first free place."""
        moves = [(place, row) for place, row in enumerate(rows) if place != row]
        for layer in self.layers:
            for view in layer.views:
                for place, row in moves:
                    view[place] = view[row]
            layer.set_size(len(rows), layer.views[0].shape[2])

    def gather(self, slots: torch.Tensor) -> None:
        """Keep some tokens of each row, int64, (B, T'): the rest of the capacity is free again."""
        for layer in self.layers:
            num_rows, num_heads, _, head_size = layer.views[0].shape
            index = slots.to(layer.views[0].device)[:, None, :, None].expand(-1, num_heads, -1, head_size)
            for view in layer.views:
                view[:, :, : slots.shape[1]] = view.gather(2, index)  # (B, heads, T', head size)
            layer.set_size(num_rows, slots.shape[1])

    def join(self, other: "KVCache") -> None:
        """Append the rows of another cache; the shorter rows have zeros behind their tokens."""
        for layer, others in zip(self.layers, other.layers, strict=True):
            if not layer.is_initialized:
                layer.lazy_initialization(*others.views)
            first, _, length, _ = layer.views[0].shape
            num_others, _, other_length, _ = others.views[0].shape
            end, longest = first + num_others, max(length, other_length)
            layer.grow(end, longest)
            layer.set_size(end, longest)
            for view, states in zip(layer.views, others.views, strict=True):
                view[:first, :, length:] = 0
                view[first:, :, :other_length] = states
                view[first:, :, other_length:] = 0


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


def rounded_up(num_tokens: int) -> int:
    """Return the capacity that so many tokens take: whole blocks."""
    return -(-num_tokens // BLOCK_TOKENS) * BLOCK_TOKENS


def nbytes(tensors: Iterable[torch.Tensor]) -> int:
    """Return how much memory tensors hold, in bytes: a view holds all of its storage."""
    storages = (tensor.untyped_storage() for tensor in tensors)
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
