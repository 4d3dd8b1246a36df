"""A request, the sequence that answers it, and the chunks and JSON lines that come out; without torch."""

import json
import time
from collections import defaultdict
from collections.abc import Generator, Iterable, Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from videollava_cli.errors import VllavaError
from videollava_cli.media import Medium
from videollava_cli.prompt import Conversation, EncodedPrompt
from videollava_cli.settings import Settings

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

FinishReason = Literal["stop", "length", "error"]
Key = int | bytes  # a token id, or at a media token the digest of the medium: equal keys have equal keys and values
REPLACEMENT = "\ufffd"  # what incomplete UTF-8 is detokenized to


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
    """What an answer took.

    `cached_tokens` of the prompt were not run for this answer: they were in the prefix cache, or another sequence of
    the same row ran them. `prefill_seconds` end with the first token, `generate_seconds` begin there. `compute_dtype`
    is the number format of the model, by torch's name.
    """

    prompt_tokens: int
    cached_tokens: int
    new_tokens: int
    prefill_seconds: float
    generate_seconds: float
    compute_dtype: str

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

    The last chunk of a request has a `finish_reason`, the `prompt`, and `usage` or an `error`. `token_ids` are the ids
    that the text comes from, with the one that ends an answer.
    """

    text: str
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    prompt: str | None = None
    error: VllavaError | None = None
    token_ids: tuple[int, ...] = ()


def in_order(pairs: Iterable[tuple[Request, Chunk]]) -> Generator[tuple[Request, Chunk], None, None]:
    """Yield the chunks of answers that grow at the same time as if they came one after another.

    Chunks of the first answer that has not ended pass at once, later ones are held back. Requests count in the order
    of their first chunks, which `Engine.answer` yields in the order of the requests.
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


def answer_line(
    media: SequenceOf[Medium], question: str, answer: Chunk, *, model: str, seconds: Mapping[str, float]
) -> dict[str, Any]:
    """Return the JSON record of an answer, whose `answer.text` is the whole text.

    `seconds` are timings besides those of the usage, such as `read_s`. An answer that was stopped has no usage: its
    record has neither token counts nor timings.
    """
    line: dict[str, Any] = {
        "media": [medium.as_json() for medium in media],
        "question": question,
        "prompt": answer.prompt,
        "answer": answer.text,
        "finish_reason": answer.finish_reason,
    }
    usage = answer.usage
    if usage is None:
        return line | {"model": model}
    timings = {**seconds, "prefill_s": usage.prefill_seconds, "generate_s": usage.generate_seconds}
    return line | {
        "prompt_tokens": usage.prompt_tokens,
        "cached_tokens": usage.cached_tokens,
        "new_tokens": usage.new_tokens,
        "model": model,
        "compute_dtype": usage.compute_dtype,
        "timings": {name: round(value, 4) for name, value in timings.items()},
    }


def error_line(media: SequenceOf[Mapping[str, Any]], question: str, error: VllavaError) -> dict[str, Any]:
    """Return the JSON record of a question that failed; `media` are as `Medium.as_json` has them."""
    return {"media": list(media), "question": question, "error": error_record(error)}


def error_record(error: VllavaError) -> dict[str, str]:
    """Return the object that stands in a record in place of an answer."""
    return {"type": type(error).__name__, "message": " ".join(str(error).split())}


def json_text(record: Mapping[str, Any]) -> str:
    r"""Return a record as one line with its end.

    Bytes of a file name that are no Unicode become `\udcXX`, as in Python: `json.loads` and `os.fsencode` give them
    back, other readers of JSON show a replacement sign.
    """
    return json.dumps(record, ensure_ascii=False).encode("utf-8", "backslashreplace").decode() + "\n"


@dataclass(frozen=True, slots=True, eq=False)
class PlacedMedium:
    """A medium in a prompt: its media tokens are those from `start` to before `end`; `digest` is of kind and pixels."""

    medium: Medium
    start: int
    end: int
    digest: bytes


class Sequence:
    """One answer being generated.

    `keys` are those of the prompt; the first sequence of the row has the first `num_shared` of them, too. `token_ids`
    are the answer so far, with the one that ends it. Sampling keeps its state here: `generator` draws, `occurred` is
    bool, (vocabulary,).
    """

    def __init__(self, number: int, request: Request, prompt: EncodedPrompt, context_length: int) -> None:
        self.number = number
        self.request = request
        self.prompt = prompt
        self.settings = request.settings
        self.max_new_tokens = min(self.settings.max_new_tokens, context_length - len(prompt.token_ids))
        self.media: list[PlacedMedium] = []
        self.keys: list[Key] = list(prompt.token_ids)
        self.num_shared = len(self.keys) - 1  # the last one is always run: its logits are wanted
        self.token_ids: list[int] = []
        self.num_cached = 0
        self.generator: torch.Generator | None = None
        self.occurred: torch.Tensor | None = None
        self.is_retried = False
        self.detokenizer: Detokenizer | None = None
        self.began = 0.0
        self.first_seconds = 0.0

    def place_media(self, media_tokens: Mapping[int, int]) -> None:
        """Find the media in the prompt; `media_tokens` has, by a placeholder's id, how many tokens its medium takes."""
        ids, start = self.prompt.token_ids, 0
        for medium in self.request.media:
            while ids[start] not in media_tokens:
                start += 1
            end = start + media_tokens[ids[start]]
            digest = f"{medium.kind} {medium.digest}".encode()
            self.media.append(PlacedMedium(medium, start, end, digest))
            self.keys[start:end] = [digest] * (end - start)
            start = end

    def share_row(self, first: "Sequence") -> None:
        """Count the keys that are shared with the first sequence of a row, which may be this one."""
        self.num_shared = min(num_shared(first.keys, self.keys), len(self.keys) - 1)

    @property
    def ids(self) -> list[int]:
        """All token ids, of the prompt and of the answer so far."""
        return [*self.prompt.token_ids, *self.token_ids]

    @property
    def num_tokens(self) -> int:
        """How many token ids there are, of the prompt and of the answer so far."""
        return len(self.keys) + len(self.token_ids)

    @property
    def num_left(self) -> int:
        """How many tokens may still come."""
        return self.max_new_tokens - len(self.token_ids)

    def add(
        self, token: int, tokenizer: "PreTrainedTokenizerBase", *, end_ids: frozenset[int], compute_dtype: str
    ) -> Chunk:
        """Add the next token id; return the chunk that it makes, the last one if it ends the answer."""
        self.detokenizer = self.detokenizer or Detokenizer(tokenizer)
        seconds = time.perf_counter() - self.began
        if not self.token_ids:
            self.first_seconds = seconds
        self.token_ids.append(token)
        text = "" if token in end_ids else self.detokenizer.add(token)
        reason: FinishReason | None = "stop" if token in end_ids else None if self.num_left else "length"
        if reason is None:
            return Chunk(text, token_ids=(token,))
        usage = Usage(
            prompt_tokens=len(self.prompt.token_ids),
            cached_tokens=self.num_cached,
            new_tokens=len(self.detokenizer.ids),
            prefill_seconds=self.first_seconds,
            generate_seconds=seconds - self.first_seconds,
            compute_dtype=compute_dtype,
        )
        return Chunk(text + self.detokenizer.finish(), reason, usage, self.prompt.text, token_ids=(token,))


def num_shared(one: SequenceOf[Key], other: SequenceOf[Key]) -> int:
    """Return how many first keys two prompts share."""
    pairs = zip(one, other, strict=False)
    return next((place for place, (key, another) in enumerate(pairs) if key != another), min(len(one), len(other)))


def num_shared_keys(sequences: SequenceOf[Sequence]) -> int:
    """Return how many first keys all sequences of a row share, leaving each at least its last one to run."""
    return min(sequence.num_shared for sequence in sequences)


class Detokenizer:
    """Turn token ids into pieces of text, whose sum is the text of all ids.

    A piece is held back while its end is an incomplete UTF-8 sequence. Bytes that are no UTF-8 may turn earlier text
    into replacement signs; it stays as it was. (tokenizers' DecodeStream raises an error at such bytes.)
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self.tokenizer = tokenizer
        self.ids: list[int] = []
        self._num_signs = 0  # returned before

    def add(self, token_id: int) -> str:
        """Add an id; return the text that is certain by now and was not returned before."""
        self.ids.append(token_id)
        return self._piece(is_last=False)

    def finish(self) -> str:
        """Return what was held back."""
        return self._piece(is_last=True)

    def _piece(self, *, is_last: bool) -> str:
        text = str(self.tokenizer.decode(self.ids, skip_special_tokens=True))
        if text.endswith(REPLACEMENT) and not is_last:
            return ""
        piece, self._num_signs = text[self._num_signs :], len(text)
        return piece
