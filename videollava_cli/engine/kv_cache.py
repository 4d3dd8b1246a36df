"""The KV cache: rows of keys and values in storage that grows in place; dynamic, or static as CUDA graphs need."""

from collections.abc import Iterable
from typing import Any

import torch
from transformers import DynamicCache, PretrainedConfig
from transformers.cache_utils import DynamicLayer

BLOCK_TOKENS = 256  # capacity comes in blocks: of the 7B in fp16 128 MiB a row


class KVCacheLayer(DynamicLayer):
    """One layer's keys and values, views of storage of (rows, heads, capacity, head size).

    transformers' own DynamicLayer copies all it holds for every token. In static mode `update` does what
    transformers' StaticLayer does: it writes at cache positions that a tensor on the device holds, and returns the
    whole capacity. Unlike StaticLayer this one grows, is cropped, and goes back to dynamic mode.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.storage: tuple[torch.Tensor, ...] = ()
        self.reserved = (0, 0)  # rows and tokens that new storage takes at least
        self.cache_position: torch.Tensor | None = None  # of the next new tokens, int64, in static mode

    @property
    def views(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values, (B, heads, T, head size) each."""
        assert self.keys is not None
        assert self.values is not None
        return self.keys, self.values

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
        length = int(self.get_seq_length())
        end = length + key_states.shape[-2]
        self._grow(len(key_states), end, new)
        for storage, states in zip(self.storage, new, strict=True):
            storage[: len(states), :, length:end] = states
        self._view(len(key_states), end)
        return self.views

    def reserve(self, num_rows: int, num_tokens: int) -> None:
        """Provide capacity for so many rows and tokens, now or as soon as there is a first one."""
        self.reserved = num_rows, num_tokens
        if self.storage:
            self._grow(num_rows, num_tokens, self.views)

    def make_static(self, capacity: int, cache_position: torch.Tensor) -> None:
        """Keep one shape until the next crop: `update` writes at cache positions, int64, (number of new tokens,)."""
        num_rows, _, length, _ = self.views[0].shape
        self._view(num_rows, capacity)
        for view in self.views:
            view[:, :, length:].zero_()  # a weight of 0 hides a number, but no NaN
        self.cache_position = cache_position

    def crop(self, length: int) -> None:
        """Keep the first tokens only, in dynamic mode; capacity stays as it is."""
        held = [view.shape[-2] for view in self.views]
        assert min(held) >= length, f"{length} tokens are to be kept of {held}"
        self.cache_position = None
        self._view(len(self.views[0]), length)

    def select(self, rows: list[int]) -> None:
        """Keep some rows, named in ascending order; each moves to the first free place."""
        for place, row in enumerate(rows):
            if place != row:
                for view in self.views:
                    view[place] = view[row]
        self._view(len(rows), int(self.get_seq_length()))

    def gather(self, slots: torch.Tensor) -> None:
        """Keep some tokens of each row, int64, (B, T'): the rest of the capacity is free again."""
        num_rows, num_heads, _, head_size = self.views[0].shape
        index = slots.to(self.views[0].device)[:, None, :, None].expand(-1, num_heads, -1, head_size)
        for storage, view in zip(self.storage, self.views, strict=True):
            storage[:num_rows, :, : slots.shape[1]] = view.gather(2, index)  # (B, heads, T', head size)
        self._view(num_rows, slots.shape[1])

    def join(self, other: "KVCacheLayer") -> None:
        """Append the rows of another layer; the shorter rows have zeros behind their tokens."""
        num_rows, length = (len(self.views[0]), int(self.get_seq_length())) if self.storage else (0, 0)
        num_others, other_length = len(other.views[0]), int(other.get_seq_length())
        if not self.is_initialized:
            self.lazy_initialization(*other.views)
        longest = max(length, other_length)
        self._grow(num_rows + num_others, longest, other.views)
        for storage, states in zip(self.storage, other.views, strict=True):
            storage[:num_rows, :, length:longest] = 0
            storage[num_rows : num_rows + num_others, :, :other_length] = states
            storage[num_rows : num_rows + num_others, :, other_length:longest] = 0
        self._view(num_rows + num_others, longest)

    def _view(self, num_rows: int, num_tokens: int) -> None:
        self.keys, self.values = (each[:num_rows, :, :num_tokens] for each in self.storage)

    def _grow(self, num_rows: int, num_tokens: int, like: tuple[torch.Tensor, torch.Tensor]) -> None:
        """Move to larger storage if so many rows and tokens do not fit; `like` has the other sizes."""
        if self.storage and len(self.storage[0]) >= num_rows and self.storage[0].shape[2] >= num_tokens:
            return
        rows = max(num_rows, self.reserved[0])
        capacity = rounded_up(max(num_tokens, self.reserved[1]))
        larger = tuple(one.new_empty(rows, one.shape[1], capacity, one.shape[3]) for one in like)
        if self.storage:
            for storage, view in zip(larger, self.views, strict=True):
                storage[: len(view), :, : view.shape[2]] = view
            num_rows, _, num_tokens, _ = self.views[0].shape
        else:
            num_rows, num_tokens = 0, 0
        self.storage = larger
        self._view(num_rows, num_tokens)


class KVCache(DynamicCache):
    """One KVCacheLayer for each layer of a model whose layers attend to all that came before."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config=config.get_text_config())
        self.layers: list[KVCacheLayer] = [KVCacheLayer() for _ in self.layers]  # type: ignore[assignment]

    @property
    def storage(self) -> list[torch.Tensor]:
        """The storage of keys and of values of each layer that has any, (rows, heads, capacity, head size) each."""
        return [tensor for layer in self.layers for tensor in layer.storage]

    @property
    def addresses(self) -> list[tuple[int, torch.Size]]:
        """Where the storage is and how large, which a captured CUDA graph depends on."""
        return [(tensor.data_ptr(), tensor.shape) for tensor in self.storage]

    @property
    def nbytes(self) -> int:
        """How much memory the cache holds, in bytes, with unused capacity."""
        return nbytes(self.storage)

    def reserve(self, num_rows: int, num_tokens: int) -> None:
        """Provide capacity for so many rows and tokens in every layer."""
        for layer in self.layers:
            layer.reserve(num_rows, num_tokens)

    def make_static(self, capacity: int, cache_position: torch.Tensor) -> None:
        """Keep one shape until the next crop, and write at cache positions on the device."""
        for layer in self.layers:
            layer.make_static(capacity, cache_position)

    def crop(self, length: int) -> None:
        """Keep the first tokens only: exactly `length`, whatever transformers' version (5.23 changed the argument).

        Each layer is cropped by itself: where a forward pass was interrupted they differ in length.
        """
        for layer in self.layers:
            if layer.storage:
                layer.crop(length)

    def select(self, rows: list[int]) -> None:
        """Keep some rows, named in ascending order."""
        for layer in self.layers:
            layer.select(rows)

    def gather(self, slots: torch.Tensor) -> None:
        """Keep some tokens of each row, int64, (B, T')."""
        for layer in self.layers:
            layer.gather(slots)

    def join(self, other: "KVCache") -> None:
        """Append the rows of another cache."""
        for layer, others in zip(self.layers, other.layers, strict=True):
            layer.join(others)


def rounded_up(num_tokens: int) -> int:
    """Return the capacity that so many tokens take: whole blocks."""
    return -(-num_tokens // BLOCK_TOKENS) * BLOCK_TOKENS


def nbytes(tensors: Iterable[torch.Tensor]) -> int:
    """Return how much memory tensors hold, in bytes: a view holds all of its storage."""
    storages = (tensor.untyped_storage() for tensor in tensors)
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
