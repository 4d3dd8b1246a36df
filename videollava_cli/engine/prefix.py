"""The kept prefix: a KV cache and what each of its places stands for; knows keys and tensors, no text, no files."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from transformers import PretrainedConfig

from videollava_cli.generation import GrowingCache, cache_bytes, cut, new_cache
from videollava_cli.media import Medium

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
        placed.append(Placed(start, medium, f"{medium.kind} {medium.digest}".encode()))
        keys[start : start + length] = [placed[-1].digest] * length
        start += length
    return Prompt(ids, tuple(placed), keys)


def num_shared(rows: Sequence[Sequence[Key]]) -> int:
    """Return how many first keys all rows share."""
    return sum(1 for _ in takewhile(lambda place: len(set(place)) == 1, zip(*rows, strict=False)))


class KeptPrefix:
    """The KV cache of what was last run, and its keys.

    Who runs the model takes the cache out and puts it back with the keys of what was certainly run. Nothing is kept
    meanwhile, so a second answer that begins before the first one ends runs on a cache of its own.
    """

    def __init__(self) -> None:
        self._cache: GrowingCache | None = None
        self._keys: list[Key] = []

    @property
    def num_bytes(self) -> int:
        """Return how much memory is held, in bytes."""
        return cache_bytes(self._cache) if self._cache is not None else 0

    def take(self, keys: Sequence[Key], config: PretrainedConfig) -> GrowingCache:
        """Hand over the cache, cut to the keys it has in common with the given ones.

        Args:
            keys: Of what is to be run, without the last token, whose logits are wanted.
            config: Of the model, for a new cache where nothing is in common.
        """
        cache, kept = self._cache, self._keys
        self.forget()
        length = num_shared([kept, keys])
        if cache is None or length == 0:
            return new_cache(config)
        cut(cache, length)
        return cache

    def put(self, cache: GrowingCache, keys: Sequence[Key]) -> None:
        """Keep a cache, cut to its first places, whose keys are given; no keys keep nothing."""
        self.forget()
        if keys:
            cut(cache, len(keys))
            self._cache, self._keys = cache, list(keys)

    def forget(self) -> None:
        """Drop what is kept."""
        self._cache, self._keys = None, []
