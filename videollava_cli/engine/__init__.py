"""The engine: a loaded checkpoint that answers requests, one or many at a time."""

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

from videollava_cli.engine.checkpoint import Checkpoint, model_size, needed_memory
from videollava_cli.engine.request import Chunk, FinishReason, Request, Usage, in_order
from videollava_cli.errors import UsageError
from videollava_cli.media import MediaKind, Medium
from videollava_cli.prompt import Conversation, PromptEncoder, one_question
from videollava_cli.sampling import Sampling
from videollava_cli.settings import Settings, for_one_answer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, VideoLlavaForConditionalGeneration

    from videollava_cli.engine.caches import EncoderCache, PrefixCache
    from videollava_cli.engine.generate import ModelRunner

__all__ = ["Chunk", "Engine", "FinishReason", "Request", "Usage", "in_order", "prompt_encoder"]

# Beyond these more sequences at once give hardly more answers a second. That of a GPU is a guess.
MAX_GPU_SEQS, MAX_CPU_SEQS = 32, 8
SHARE_OF_MEMORY = 0.8  # of what is free; allocators waste some


@dataclass(slots=True, eq=False)
class Engine:
    """A loaded checkpoint. `model` and `tokenizer` are transformers' own objects.

    `read` turns what a caller names into a `Medium`. `encoder` makes the prompts, `runner` runs the model. The KV cache
    of the last prompt and the features of recent media stay for the next answer: a prompt that begins as the last one
    did costs only its suffix. `seq_limit` is how many sequences fit at once, once more of them ran out of memory.
    """

    model: "VideoLlavaForConditionalGeneration"
    tokenizer: "PreTrainedTokenizerBase"
    checkpoint: Checkpoint
    settings: Settings = field(default_factory=Settings)
    read: Callable[[str, Sampling], Medium] | None = None
    encoder: PromptEncoder = None  # type: ignore[assignment]  # made of the others unless it is given
    static_decode: bool | None = None
    runner: "ModelRunner" = field(init=False, repr=False)
    prefix_cache: "PrefixCache" = field(init=False, repr=False)
    encoder_cache: "EncoderCache" = field(init=False, repr=False)
    seq_limit: int | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        from videollava_cli.engine.caches import EncoderCache, PrefixCache
        from videollava_cli.engine.generate import ModelRunner

        self.encoder = self.encoder or prompt_encoder(self.checkpoint, self.tokenizer)
        self.runner = ModelRunner(self.model, static_decode=self.static_decode)
        self.prefix_cache = PrefixCache(self.model.config)
        self.encoder_cache = EncoderCache(self.model, self.checkpoint.pixels)

    def answer(
        self, requests: Iterable[Request | None], *, max_num_seqs: int | None = None
    ) -> Generator[tuple[Request, Chunk], None, None]:
        """Answer requests, each as it would be answered alone, as many at once as make sense.

        Requests are taken lazily: the next ones when there are free seats, while others decode. An iterable that may
        block can yield None for "nothing waits now". Neighbours about the same media share their prefix. After an
        out-of-memory error the caches are dropped, fewer sequences run at once from then on, and nothing is lost.

        Args:
            requests: What to answer; the same media are best given as the same or equal objects.
            max_num_seqs: How many to answer at once at most; None for as many as the KV budget allows.

        Yields:
            A request and a piece of its answer, as tokens come. First pieces come in the order of the requests. A
            prompt that does not fit the context, or memory that does not suffice even for one sequence, is a last
            piece with an `error`; it does not end the others.
        """
        from videollava_cli.engine.scheduler import Scheduler

        yield from Scheduler(self, requests, max_num_seqs).run()

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
            MemoryFullError: If the memory does not suffice.
        """
        request = Request(conversation, tuple(media), settings or self.settings)
        with closing(self.answer([request])) as pairs:
            for _, chunk in pairs:
                if chunk.error is not None:
                    raise chunk.error
                yield chunk

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

    def count_tokens(self, conversation: Conversation) -> int:
        """Return how many tokens a conversation's prompt has, whether or not they fit the context."""
        return self.encoder.count_tokens(conversation)

    @property
    def nbytes(self) -> int:
        """How much memory the prefix cache and the encoder cache hold, in bytes."""
        return self.prefix_cache.nbytes + self.encoder_cache.nbytes

    def clear_cache(self) -> None:
        """Drop what earlier answers left; an answer that is being written has its own until it ends."""
        self.prefix_cache.clear()
        self.encoder_cache.clear()

    @property
    def max_num_seqs(self) -> int:
        """How many questions, each about a clip, are worth answering at once and fit the free memory, by estimate."""
        from videollava_cli.engine.model_access import free_bytes

        need = needed_memory(model_size(self.checkpoint), self.settings, self.model.dtype.itemsize * 8)
        limit = MAX_CPU_SEQS if self.model.device.type == "cpu" else MAX_GPU_SEQS
        fitting = int(SHARE_OF_MEMORY * free_bytes(self.model.device) / need.answer)
        return max(1, min(limit, self.seq_limit or limit, fitting))

    def limit_num_seqs(self, limit: int) -> None:
        """Answer no more sequences at once from now on: more of them did not fit the memory."""
        self.seq_limit = min(self.seq_limit or limit, limit)

    def _medium(self, medium: "str | PathLike[str] | Medium", sampling: Sampling) -> Medium:
        if isinstance(medium, Medium):
            return medium
        if self.read is None:
            raise UsageError(f"this engine was made without a reader, so it cannot read {fspath(medium)!r}")
        return self.read(fspath(medium), sampling)


def prompt_encoder(checkpoint: Checkpoint, tokenizer: "PreTrainedTokenizerBase") -> PromptEncoder:
    """Return what turns conversations into prompts of a checkpoint; it knows no weights."""
    media_tokens = {checkpoint.placeholder_id(kind): checkpoint.media_tokens(kind) for kind in MediaKind}
    return PromptEncoder(tokenizer, media_tokens, checkpoint.context_length, checkpoint.name)
