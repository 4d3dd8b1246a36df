"""What an engine takes and gives: requests, chunks of answers, usage. No torch, so that any module may import it."""

from collections import defaultdict
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Literal

from videollava_cli.errors import VllavaError
from videollava_cli.media import Medium
from videollava_cli.prompt import Conversation
from videollava_cli.settings import Settings

FinishReason = Literal["stop", "length", "error"]


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """A conversation whose last question is to be answered, the media of its placeholders, and how to sample."""

    conversation: Conversation
    media: tuple[Medium, ...]
    settings: Settings

    def __post_init__(self) -> None:
        if tuple(medium.kind for medium in self.media) != self.conversation.media:
            raise ValueError(f"the conversation is about {self.conversation.media}, not about the media given")


@dataclass(frozen=True, slots=True)
class Usage:
    """What an answer took: token counts and seconds.

    `cached_tokens` are those of the prompt that were not run for this answer: an earlier answer left them in the
    prefix cache, or they belong to a prefix that another sequence of the same row ran. `prefill_seconds` is the time
    to the first token, `generate_seconds` the time from there to the last one.
    """

    prompt_tokens: int
    cached_tokens: int
    new_tokens: int
    prefill_seconds: float
    generate_seconds: float

    @property
    def in_words(self) -> str:
        """All of it, as one line."""
        rate = self.new_tokens / max(self.prefill_seconds + self.generate_seconds, 1e-9)
        return (
            f"{self.prompt_tokens:,} prompt tokens, {self.cached_tokens:,} cached, {self.new_tokens} new ones, first "
            f"after {self.prefill_seconds:.2f} s, {rate:.1f} tokens/s"
        )

    def cut_off_notice(self, context_length: int, remedy: str) -> str:
        """Say why an answer was cut off: by the context's end, or by `max_new_tokens`, with the remedy for that."""
        is_full = self.prompt_tokens + self.new_tokens >= context_length
        why = f", because the context of {context_length:,} is full" if is_full else f": {remedy}"
        return f"the answer was cut off after {self.new_tokens} tokens{why}"


@dataclass(frozen=True, slots=True)
class Chunk:
    """One streamed piece of an answer: the text of one token, which may be empty.

    The last chunk of a request carries `finish_reason`, `usage` and `prompt`; where the request failed the reason is
    "error", `error` says what happened, and there is no usage. `token_ids` are the ids that the text comes from, with
    the one that ends an answer.
    """

    text: str
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    prompt: str | None = None
    error: VllavaError | None = None
    token_ids: tuple[int, ...] = ()


def in_order(pairs: Iterable[tuple[Request, Chunk]]) -> Generator[tuple[Request, Chunk], None, None]:
    """Yield the chunks of answers that grow at the same time as if they came one after another.

    Those of the first answer that has not ended are passed on at once, those of later ones held back. Requests count
    in the order of their first chunks, which `Engine.answer` yields in the order of the requests.
    """
    held: defaultdict[Request, list[Chunk]] = defaultdict(list)  # dicts keep the order of insertion
    for request, chunk in pairs:
        held[request].append(chunk)
        while held:
            first = next(iter(held))
            is_ended = any(piece.finish_reason for piece in held[first])
            yield from ((first, piece) for piece in held[first])
            if not is_ended:
                held[first] = []
                break
            del held[first]
