"""From paths and questions to a list of items, and the part of it that one machine does; knows no file's content."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Self

from videollava_cli.batch import FileStamp, Item, Source
from videollava_cli.errors import UsageError


@dataclass(frozen=True, slots=True)
class Shard:
    """One of `count` parts of a work list, counted from 1.

    A medium belongs to the part that a hash of its path as it is named says, with all questions about it: so adding
    or removing others moves none, and machines that name the files alike agree without asking each other.
    """

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the shard that `2/8` names.

        Raises:
            UsageError: If it names none.
        """
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text.strip())
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise UsageError(f"shard is {text!r}: give I/N with I from 1 to N, such as 2/8")
        return cls(int(match[1]), int(match[2]))

    def holds(self, path: str) -> bool:
        """Return whether a medium belongs to this part."""
        digest = hashlib.blake2b(path.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return int.from_bytes(digest, "big") % self.count == self.number - 1


def items_about(sources: Iterable[Source], questions: Sequence[str]) -> Iterator[Item]:
    """Yield an item for every question about every source, known by its path."""
    for source in sources:
        for question in questions:
            yield Item(source.path, source, question)


def without_repetitions(items: Iterable[Item]) -> tuple[list[Item], int]:
    """Return each item once, and how many were repeated.

    Raises:
        UsageError: If two media share an id and a question, so that their lines could not be told apart.
    """
    kept: dict[tuple[str | int, str], Item] = {}
    num_items = 0
    for item in items:
        num_items += 1
        other = kept.setdefault((item.id, item.question), item)
        if other.source.path != item.source.path:
            paths = f"{other.source.path!r} and {item.source.path!r}"
            raise UsageError(f"the id {item.id!r} is given to two media, {paths}: give each its own")
    return list(kept.values()), num_items - len(kept)


def stamped(items: Sequence[Item]) -> list[Item]:
    """Return the items with their files' sizes and times, looked up once a medium."""
    return [
        replace(item, stamp=stamp)
        for path, about_it in by_medium(items)
        for stamp in (FileStamp.of(path),)
        for item in about_it
    ]


def by_medium(items: Iterable[Item]) -> Iterator[tuple[str, tuple[Item, ...]]]:
    """Yield neighbours that are about the same medium together, with its path: it is read once for all of them."""
    for path, about_it in groupby(items, key=lambda item: item.source.path):
        yield path, tuple(about_it)
