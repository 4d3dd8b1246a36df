"""What an engine yields: pieces of an answer, and what it took."""

from collections import defaultdict
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Literal

from videollava_cli.errors import VllavaError

FinishReason = Literal["stop", "length", "error"]


@dataclass(frozen=True, slots=True)
class Usage:
    """What an answer took: token counts and seconds.

    `cached_tokens` are those of the prompt that were not run for this answer: they were kept from before, or run for
    an earlier one of the answers that were given together. `prefill_seconds` is the time to the first token;
    `generate_seconds` the time from there to the last one. Answers given together share both.
    """

    prompt_tokens: int
    cached_tokens: int
    new_tokens: int
    prefill_seconds: float
    generate_seconds: float


@dataclass(frozen=True, slots=True)
class Chunk:
    """One streamed piece of an answer; the last one says why the answer ended and what it took."""

    text: str
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    prompt: str | None = None
    error: VllavaError | None = None


def in_order(numbered: Iterable[tuple[int, Chunk]]) -> Generator[tuple[int, Chunk], None, None]:
    """Yield the pieces of answers that grow at the same time as if they came one after another.

    Those of the first answer that has not ended are passed on at once, those of later ones held back until their turn.
    """
    held: defaultdict[int, list[Chunk]] = defaultdict(list)
    turn = 0
    for number, chunk in numbered:
        held[number].append(chunk)
        while held[turn]:
            piece = held[turn].pop(0)
            yield turn, piece
            turn += piece.usage is not None
