"""The engine: a loaded checkpoint that streams answers; knows transformers, nothing of files or the terminal."""

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, Literal

from videollava_cli.conversation import Conversation
from videollava_cli.engine.checkpoint import Checkpoint
from videollava_cli.engine.prompting import one_question, prompt_ids, prompt_text
from videollava_cli.errors import GenerationError, UsageError
from videollava_cli.media import Clip, Image, Medium
from videollava_cli.sampling import Sampling, sampling_from
from videollava_cli.settings import Settings, for_one_answer

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase, VideoLlavaForConditionalGeneration

    from videollava_cli.generation import Decoding, Prompts

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Usage:
    """What an answer took: token counts and seconds. `prefill_seconds` is the time to its first token."""

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


@dataclass(frozen=True, slots=True, eq=False)
class Engine:
    """A loaded checkpoint. `model` and `tokenizer` are transformers' own objects.

    `read` turns what a caller names into a `Clip` or an `Image`, clips sampled as told.
    """

    model: "VideoLlavaForConditionalGeneration"
    tokenizer: "PreTrainedTokenizerBase"
    checkpoint: Checkpoint
    settings: Settings = field(default_factory=Settings)
    read: Callable[[str, Sampling], Medium] | None = None

    def ask(
        self, media: Sequence["str | PathLike[str] | Medium"], question: str, **options: Any
    ) -> Generator[Chunk, None, None]:
        """Read media and stream the answer to a question about them.

        Args:
            media: Paths, URLs, hf:// names, or what was read before.
            question: What to ask.
            options: Settings for this answer only, such as `max_new_tokens=64`, `temperature=0.7` or `start=60.0`.

        Raises:
            UsageError: If an option is wrong, or the prompt does not fit the context.
            MediaError: If a medium cannot be read.
        """
        settings = for_one_answer(self.settings, options)
        sampling = sampling_from(settings.start, settings.end, settings.moments)
        read = [self._medium(medium, sampling) for medium in media]
        conversation = one_question([medium.kind for medium in read], question, settings)
        return self.stream(conversation, read, settings)

    def stream(
        self, conversation: Conversation, media: Sequence[Medium], settings: Settings | None = None
    ) -> Generator[Chunk, None, None]:
        """Stream the answer to a conversation's last question, as a generator in the calling thread.

        Args:
            conversation: The turns; the last one has no answer yet.
            media: What the placeholders stand for, in the conversation's order.
            settings: How to generate; the engine's own by default.

        Yields:
            Pieces of text; their sum is the answer.

        Raises:
            UsageError: If the prompt does not fit the context.
            GenerationError: If the memory does not suffice.
        """
        from videollava_cli.generation import Detokenizer, generate, is_out_of_memory, only_row

        if tuple(medium.kind for medium in media) != conversation.media:
            raise ValueError(f"the conversation is about {conversation.media}, not about the media given")
        settings = settings or self.settings
        ids = prompt_ids(prompt_text(conversation, self.tokenizer), self.tokenizer, self.checkpoint)
        began = time.perf_counter()
        decoding = self._decoding(settings, len(ids))
        tokens = only_row(generate(self.model, self._prompts(ids, media), decoding))
        detokenizer, reason, first_token_at = Detokenizer(self.tokenizer), "length", began
        try:
            for number, token in enumerate(tokens):
                first_token_at = first_token_at if number else time.perf_counter()
                if token in decoding.eos_token_ids:
                    reason = "stop"
                elif text := detokenizer.add(token):
                    yield Chunk(text)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise GenerationError(
                f"out of memory after {len(detokenizer.ids)} tokens of the answer: try --load-4bit or fewer media"
            ) from error
        num_new = len(detokenizer.ids)
        seconds = (first_token_at - began, time.perf_counter() - first_token_at)
        yield Chunk(detokenizer.finish(), reason, Usage(len(ids), 0, num_new, *seconds))  # type: ignore[arg-type]

    def _medium(self, medium: "str | PathLike[str] | Medium", sampling: Sampling) -> Medium:
        if isinstance(medium, Clip | Image):
            return medium
        if self.read is None:
            raise UsageError(f"this engine was made without a reader, so it cannot read {fspath(medium)!r}")
        return self.read(fspath(medium), sampling)

    def _prompts(self, ids: Sequence[int], media: Sequence[Medium]) -> "Prompts":
        from videollava_cli.generation import Prompts, pad_left

        padded, mask = pad_left([ids], 0, self.model.device)
        return Prompts(
            padded,
            mask,
            pixel_values=self._pixels([m.pixels for m in media if isinstance(m, Image)]),
            pixel_values_videos=self._pixels([m.frames for m in media if isinstance(m, Clip)]),
        )

    def _pixels(self, pictures: Sequence[Any]) -> "torch.Tensor | None":
        """Return pictures as one tensor of pixel values, on the model's device and in its number format."""
        import numpy as np

        from videollava_cli.preprocessing import pixel_values

        if not pictures:
            return None
        values = pixel_values(np.stack(pictures), self.checkpoint.pixels)
        return values.to(self.model.device, self.model.dtype)

    def _decoding(self, settings: Settings, num_prompt_tokens: int) -> "Decoding":
        from videollava_cli.generation import Decoding, end_of_answer_ids

        room = self.checkpoint.context_length - num_prompt_tokens
        return Decoding(
            max_new_tokens=(min(settings.max_new_tokens, room),),
            eos_token_ids=end_of_answer_ids(self.model),
            temperature=settings.temperature,
            top_p=settings.top_p,
            top_k=settings.top_k,
            repetition_penalty=settings.repetition_penalty,
            seed=settings.seed,
        )
