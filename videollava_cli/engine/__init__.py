"""The engine: a loaded checkpoint that streams answers; knows transformers, nothing of files or the terminal."""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

from videollava_cli.conversation import Conversation
from videollava_cli.engine.checkpoint import Checkpoint
from videollava_cli.engine.chunks import Chunk, FinishReason, Usage
from videollava_cli.engine.prompting import expanded_ids, one_question, prompt_ids, prompt_text
from videollava_cli.errors import UsageError
from videollava_cli.media import MediaKind, Medium
from videollava_cli.sampling import Sampling
from videollava_cli.settings import Settings, for_one_answer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, VideoLlavaForConditionalGeneration

    from videollava_cli.engine.prefix import Prompt
    from videollava_cli.engine.running import Runner

__all__ = ["Chunk", "Engine", "FinishReason", "Usage"]


@dataclass(frozen=True, slots=True, eq=False)
class Engine:
    """A loaded checkpoint. `model` and `tokenizer` are transformers' own objects.

    `read` turns what a caller names into a `Medium`, clips sampled as told. The KV cache of what was run
    last and the features of recent media are kept: a prompt that begins as the last one did costs only its rest.
    """

    model: "VideoLlavaForConditionalGeneration"
    tokenizer: "PreTrainedTokenizerBase"
    checkpoint: Checkpoint
    settings: Settings = field(default_factory=Settings)
    read: Callable[[str, Sampling], Medium] | None = None
    _runner: "Runner" = field(init=False, repr=False)

    def __post_init__(self) -> None:
        from videollava_cli.engine.running import Runner

        object.__setattr__(self, "_runner", Runner(self.model, self.tokenizer, self.checkpoint))

    @property
    def kept_bytes(self) -> int:
        """How much memory is held from one answer to the next, in bytes: a KV cache and features of media."""
        return self._runner.kept_bytes

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
        read = [self._medium(medium, settings.sampling) for medium in media]
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
        with closing(self.stream_together([conversation], media, settings)) as chunks:
            for _, chunk in chunks:
                yield chunk

    def stream_together(
        self, conversations: Sequence[Conversation], media: Sequence[Medium], settings: Settings | None = None
    ) -> Generator[tuple[int, Chunk], None, None]:
        """Stream the answers to several conversations about the same media, each as it would be alone.

        What the prompts share is run once; then all answers grow at the same time, as many of them as the memory is
        meant for.

        Args:
            conversations: Their turns; the last one of each has no answer yet.
            media: What the placeholders of each stand for, in order.
            settings: How to generate; the engine's own by default.

        Yields:
            Which conversation, and a piece of its answer. The last piece of each tells its usage: the first of those
            that are run together is counted the tokens that all share, for the others they are cached.

        Raises:
            UsageError: If a prompt does not fit the context.
            GenerationError: If the memory does not suffice.
        """
        prompts = [self._prompt(conversation, media) for conversation in conversations]
        yield from self._runner.answer(prompts, settings or self.settings)

    def count_tokens(self, conversation: Conversation) -> int:
        """Return how many tokens a conversation's prompt has, whether or not they fit the context."""
        return len(expanded_ids(prompt_text(conversation, self.tokenizer), self.tokenizer, self.checkpoint))

    def forget(self) -> None:
        """Drop what is kept of earlier answers; an answer that is being written keeps its own until it ends."""
        self._runner.forget()

    def _medium(self, medium: "str | PathLike[str] | Medium", sampling: Sampling) -> Medium:
        if isinstance(medium, Medium):
            return medium
        if self.read is None:
            raise UsageError(f"this engine was made without a reader, so it cannot read {fspath(medium)!r}")
        return self.read(fspath(medium), sampling)

    def _prompt(self, conversation: Conversation, media: Sequence[Medium]) -> "Prompt":
        from videollava_cli.engine.prefix import prompt_of

        if tuple(medium.kind for medium in media) != conversation.media:
            raise ValueError(f"the conversation is about {conversation.media}, not about the media given")
        ids = prompt_ids(prompt_text(conversation, self.tokenizer), self.tokenizer, self.checkpoint)
        lengths = {self.checkpoint.placeholder_id(kind): self.checkpoint.media_tokens(kind) for kind in MediaKind}
        return prompt_of(ids, media, lengths)
