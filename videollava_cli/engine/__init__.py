"""The engine: a loaded checkpoint that answers requests, one or many at a time."""

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Unpack

from videollava_cli.engine.checkpoint import Checkpoint, model_size, needed_memory
from videollava_cli.engine.request import Chunk, FinishReason, Request, Usage, in_order
from videollava_cli.errors import UsageError
from videollava_cli.media import MediaKind, Medium
from videollava_cli.prompt import Conversation, PromptEncoder, PromptStyle, Turn
from videollava_cli.sampling import Sampling
from videollava_cli.settings import Settings, for_one_answer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, VideoLlavaForConditionalGeneration

    from videollava_cli.engine.keywords import AnswerOptions
    from videollava_cli.reader.in_memory import Source

    Media = Source | Medium | Sequence[Source | Medium]

__all__ = ["Chunk", "Engine", "FinishReason", "Request", "Usage", "in_order", "prompt_encoder"]

# Beyond these more sequences at once give hardly more answers a second. That of a GPU is a guess.
MAX_GPU_SEQS, MAX_CPU_SEQS = 32, 8
SHARE_OF_MEMORY = 0.8  # of what is free; allocators waste some


NAME_WIDTH = 40  # of a model in a line of 80 columns

History = Iterable[tuple[str, str]]  # questions and their answers, oldest first


@dataclass(eq=False, repr=False)
class Engine:
    """A loaded checkpoint. `model` and `tokenizer` are transformers' own objects.

    `read` turns what a caller names into a `Medium`. The KV cache of the last prompt and the features of recent media
    stay for the next answer. `seq_limit` is how many sequences fit at once, once more of them ran out of memory.
    """

    model: "VideoLlavaForConditionalGeneration"
    tokenizer: "PreTrainedTokenizerBase"
    checkpoint: Checkpoint
    settings: Settings = field(default_factory=Settings)
    read: Callable[["Source", Sampling], Medium] | None = None
    encoder: PromptEncoder = None  # type: ignore[assignment]  # made of the others unless it is given
    static_decode: bool | None = None

    def __post_init__(self) -> None:
        from videollava_cli.engine.generate import ModelRunner

        self.encoder = self.encoder or prompt_encoder(self.checkpoint, self.tokenizer)
        self.runner = ModelRunner(self.model, static_decode=self.static_decode)
        self.seq_limit: int | None = None
        self.clear_cache()

    def answer(
        self, requests: Iterable[Request | None], *, max_num_seqs: int | None = None
    ) -> Generator[tuple[Request, Chunk], None, None]:
        """Answer requests, each as it would be answered alone, and yield their chunks as tokens come.

        Requests are taken lazily, when there are free seats, while others decode; an iterable that may block can yield
        None for "nothing waits now". Neighbours about the same media share their prefix. First chunks come in the order
        of the requests. At most `max_num_seqs` run at once, or as many as the KV budget allows; after an out-of-memory
        error fewer. A prompt that does not fit the context, or a sequence that does not fit the memory alone, ends in
        a chunk with an `error`, and the others go on.
        """
        from videollava_cli.engine.scheduler import Scheduler

        yield from Scheduler(self, requests, max_num_seqs).run()

    def stream(
        self, conversation: Conversation, media: Sequence[Medium], settings: Settings | None = None
    ) -> Generator[Chunk, None, None]:
        """Stream the answer to a conversation's last question; `media` are those of its placeholders, in their order.

        Raises UsageError if the prompt does not fit the context, MemoryFullError if the memory does not suffice.
        """
        request = Request(conversation, tuple(media), settings or self.settings)
        with closing(self.answer([request])) as pairs:
            for _, chunk in pairs:
                if chunk.error is not None:
                    raise chunk.error
                yield chunk

    def ask(
        self, media: "Media", question: str, *, history: History = (), **options: "Unpack[AnswerOptions]"
    ) -> Generator[Chunk, None, None]:
        """Stream the answer to a question about media: one, or a list of them, which may be empty.

        A medium is a path, URL or hf:// name, a PIL image, a uint8 array (H, W, 3) of an image or (T, H, W, 3) of a
        clip, bytes, an open binary file, `clip(frames)`, or what was read before. A list inside the list has the frames
        of one clip. `history` has earlier questions about the media with their answers. `options` are settings for this
        answer only, such as `max_new_tokens=64`, `temperature=0.7` or `start=60.0`.

        Raises UsageError if one is wrong, MediaError if a medium cannot be read, and what `stream` raises.
        """
        request = self.request(media, question, history=history, **options)
        return self.stream(request.conversation, request.media, request.settings)

    def answer_text(
        self, media: "Media", question: str, *, history: History = (), **options: "Unpack[AnswerOptions]"
    ) -> str:
        """Return the whole answer that `ask` streams."""
        return "".join(chunk.text for chunk in self.ask(media, question, history=history, **options))

    def request(
        self, media: "Media", question: str, *, history: History = (), **options: "Unpack[AnswerOptions]"
    ) -> Request:
        """Return the request that `ask` answers, its media read: `answer` takes many of them."""
        settings = for_one_answer(self.settings, options)
        earlier = list(history) if isinstance(history, Iterable) else [history]
        if not all(isinstance(turn, tuple | list) and len(turn) == 2 for turn in earlier):
            raise UsageError(f"history is {history!r}: give pairs of a question and its answer")
        turns = [*(Turn(*turn) for turn in earlier), Turn(question)]
        read = [self._read(medium, settings) for medium in as_media(media)]
        style = PromptStyle(settings.prompt_style)
        conversation = Conversation.about([each.kind for each in read], turns, system=settings.system, style=style)
        return Request(conversation, tuple(read), settings)

    def count_tokens(self, conversation: Conversation) -> int:
        """Return how many tokens a conversation's prompt has, whether or not they fit the context."""
        return len(self.encoder.encoded(conversation).token_ids)

    @property
    def compute_dtype(self) -> str:
        """The number format in which the model computes, by torch's name."""
        return str(self.model.dtype).removeprefix("torch.")

    @property
    def nbytes(self) -> int:
        """How much memory the prefix cache and the encoder cache hold, in bytes."""
        return self.prefix_cache.nbytes + self.encoder_cache.nbytes

    def clear_cache(self) -> None:
        """Drop what earlier answers left; an answer that is being written has its own until it ends."""
        from videollava_cli.engine.kv_cache import PrefixCache
        from videollava_cli.engine.model_access import EncoderCache

        self.prefix_cache = PrefixCache(self.model.config)
        self.encoder_cache = EncoderCache(self.model, self.checkpoint.pixels)

    @property
    def max_num_seqs(self) -> int:
        """How many questions, each about a clip, are worth answering at once and fit the free memory, by estimate."""
        from videollava_cli.engine.model_access import free_bytes

        need = needed_memory(model_size(self.checkpoint), self.settings, self.model.dtype.itemsize * 8)
        limit = MAX_CPU_SEQS if self.model.device.type == "cpu" else MAX_GPU_SEQS
        fitting = int(SHARE_OF_MEMORY * free_bytes(self.model.device) / need.answer)
        return max(1, min(limit, self.seq_limit or limit, fitting))

    def _read(self, medium: "Source | Medium", settings: Settings) -> Medium:
        side = self.checkpoint.pixels.crop_side
        if not isinstance(medium, Medium):
            if self.read is None:
                raise UsageError("this engine was made without a reader: give it media that were read before")
            medium = self.read(medium, settings.sampling)
        if (seen := medium.pixels.shape[1]) != side:
            model = ascii(self.settings.model)
            sees = f"{model} sees {side} x {side}: say read(..., model={model})"
            raise UsageError(f"{medium.name!r} was read as {seen} x {seen} pixels, and {sees}")
        return medium

    def __repr__(self) -> str:
        name = ascii(self.settings.model)
        name = name if len(name) <= NAME_WIDTH else f"'...{name[4 - NAME_WIDTH :]}"
        return f"<Engine {name} on {self.model.device}, {self.compute_dtype}>"


def as_media(media: "Media") -> Sequence["Source | Medium"]:
    """Return media as a list: one alone is a list of one."""
    return media if isinstance(media, list | tuple) else [media]  # type: ignore[list-item]


def prompt_encoder(checkpoint: Checkpoint, tokenizer: "PreTrainedTokenizerBase") -> PromptEncoder:
    """Return what turns conversations into prompts of a checkpoint; it knows no weights."""
    media_tokens = {checkpoint.placeholder_id(kind): checkpoint.media_tokens(kind) for kind in MediaKind}
    return PromptEncoder(tokenizer, media_tokens, context_length=checkpoint.context_length, name=checkpoint.name)
