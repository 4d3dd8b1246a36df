"""A sequence: one answer being generated, from its prompt to the chunks it becomes."""

import time
from collections.abc import Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import TYPE_CHECKING

from videollava_cli.engine.request import Chunk, FinishReason, Request, Usage
from videollava_cli.media import Medium
from videollava_cli.prompt import EncodedPrompt
from videollava_cli.settings import Settings

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

Key = int | bytes  # a token id, or at a media token the digest of the medium: equal keys have equal keys and values
REPLACEMENT = "\ufffd"  # what incomplete UTF-8 is detokenized to


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is sampled and when an answer ends at the latest. A `temperature` of 0 is greedy."""

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float = 1.0
    seed: int = 0

    @classmethod
    def from_settings(cls, settings: Settings) -> "SamplingParams":
        """Return what the settings say about sampling."""
        return cls(**{name: getattr(settings, name) for name in cls.__slots__})


@dataclass(frozen=True, slots=True, eq=False)
class PlacedMedium:
    """A medium in a prompt, from its first media token to behind its last one, and the digest of kind and pixels."""

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
        self.params = SamplingParams.from_settings(request.settings)
        self.max_new_tokens = min(self.params.max_new_tokens, context_length - len(prompt.token_ids))
        self.media: tuple[PlacedMedium, ...] = ()
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
        ids, start, placed = self.prompt.token_ids, 0, []
        for medium in self.request.media:
            while ids[start] not in media_tokens:
                start += 1
            end = start + media_tokens[ids[start]]
            digest = f"{medium.kind} {medium.digest}".encode()
            placed.append(PlacedMedium(medium, start, end, digest))
            self.keys[start:end] = [digest] * (end - start)
            start = end
        self.media = tuple(placed)

    def share_row(self, first: "Sequence") -> None:
        """Count the keys that are shared with the first sequence of a row, which may be this one."""
        shared = len(self.keys) if first is self else num_shared(first.keys, self.keys)
        self.num_shared = min(shared, len(self.keys) - 1)

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

    def add(self, token: int, tokenizer: "PreTrainedTokenizerBase", end_ids: frozenset[int]) -> Chunk:
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

    A piece is held back while its end is an incomplete UTF-8 sequence. Bytes that are no UTF-8 at all may turn earlier
    text into replacement signs afterwards; it stays as it was, and what follows is not held back. (tokenizers'
    DecodeStream raises an error at such bytes.)
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self.tokenizer = tokenizer
        self.ids: list[int] = []
        self.text = ""

    def add(self, token_id: int) -> str:
        """Add an id; return the text that is certain by now and was not returned before."""
        self.ids.append(token_id)
        whole = self._detokenized()
        return "" if whole.endswith(REPLACEMENT) else self._grow_to(whole)

    def finish(self) -> str:
        """Return what was held back."""
        return self._grow_to(self._detokenized())

    def _detokenized(self) -> str:
        return str(self.tokenizer.decode(self.ids, skip_special_tokens=True))

    def _grow_to(self, whole: str) -> str:
        piece, self.text = whole[len(self.text) :], whole
        return piece
