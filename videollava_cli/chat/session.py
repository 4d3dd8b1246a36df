"""A conversation that grows turn by turn within the model's context; knows an engine, no files and no terminal."""

from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing
from dataclasses import replace
from typing import NamedTuple

from videollava_cli.chat.transcript import Said, Source, Transcript
from videollava_cli.engine import Chunk, Engine, Usage
from videollava_cli.errors import UsageError
from videollava_cli.media import MediaKind, Medium
from videollava_cli.prompt import SEVERAL_MEDIA, Conversation, PromptStyle, Turn
from videollava_cli.settings import ANSWER_KEYS, Settings, for_one_answer

ANSWER_SHARE = 8  # an eighth of the context is kept free for an answer, unless it may not be so long
WARNING_PERCENT = 80


class Given(NamedTuple):
    """What the model is given: a conversation, the media in it, and how many of the first turns it leaves out."""

    conversation: Conversation
    media: list[Medium]
    num_left_out: int


class Session:
    """What was said and shown so far, and the engine that answers.

    A turn counts once it has its answer, or as much of it as was written before the user stopped it; whatever goes
    wrong before leaves everything as it was.

    Args:
        engine: Who answers.
        settings: How; those of a single answer can be changed with `set`.
        tell: Is called with what the user should know.
    """

    def __init__(self, engine: Engine, settings: Settings, tell: Callable[[str], None]) -> None:
        self.engine = engine
        self.settings = settings
        self.turns: tuple[Said, ...] = ()
        self.queued: tuple[Source, ...] = ()
        self.media: dict[Source, Medium] = {}
        self.num_left_out = 0
        self.given: Given | None = None
        self.usage: Usage | None = None
        self._tell = tell
        self._num_retries = 0
        self._told: set[str] = set()

    @property
    def sources(self) -> tuple[Source, ...]:
        """All media, in the order in which they were shown."""
        return (*(source for turn in self.turns for source in turn.media), *self.queued)

    @property
    def transcript(self) -> Transcript:
        """The conversation as it is written down."""
        settings = {key: getattr(self.settings, key) for key in ANSWER_KEYS}
        model, revision = self.settings.model, self.settings.revision
        return Transcript(model, revision, settings, self.turns, self.queued, self.num_left_out)

    @property
    def num_tokens(self) -> int:
        """How many tokens of the context are taken before the next question is asked."""
        turns = [self._turn(said.question, said.media, said.answer) for said in self.turns]
        conversation = self._conversation(turns)
        for _ in range(min(self.num_left_out, len(turns) - 1)):
            conversation = conversation.without_oldest_turn()
        checkpoint = self.engine.checkpoint
        waiting = sum(checkpoint.media_tokens(kind) for kind in self._kinds(self.queued))
        return self.engine.count_tokens(conversation) + waiting

    @property
    def percent(self) -> int:
        """How full the context is, in percent, rounded up."""
        return -(-100 * self.num_tokens // self.engine.checkpoint.context_length)

    def show(self, source: Source, medium: Medium) -> None:
        """Show a medium with the next question."""
        self.media[source] = medium
        self.queued += (source,)
        if len(self.sources) > 1:
            self._tell_once("several", SEVERAL_MEDIA)

    def check_room(self, kind: MediaKind) -> None:
        """Refuse another medium if all media alone fill the context; none of them is ever left out.

        Raises:
            UsageError: If so.
        """
        kinds = self._kinds(self.sources)
        num_tokens = self.engine.count_tokens(self._conversation([Turn("?", media=(*kinds, kind))]))
        length = self.engine.checkpoint.context_length
        if num_tokens >= length:
            raise UsageError(
                f"one more {kind} does not fit: with it the media take {num_tokens:,} tokens, and the context holds "
                f"{length:,}; /reset drops those shown so far"
            )

    def ask(self, question: str) -> Generator[Chunk, None, None]:
        """Stream the answer to a question, about all that was shown.

        Closing the stream, or Ctrl-C inside of it, keeps what was written as the answer. Where the question no longer
        fits, the oldest turns are left out of what the model is given; their media stay.

        Raises:
            UsageError: If the question does not even fit alone.
            GenerationError: If the memory does not suffice.
        """
        self._num_retries = 0
        yield from self._answer(Said(question, "", self.queued), self.turns, ())

    def retry(self) -> Generator[Chunk, None, None]:
        """Stream another answer to the last question in place of the one it has.

        A sampled answer takes the next seed. Raises what `ask` raises, and the old answer stays then.

        Raises:
            UsageError: If nothing was asked.
        """
        if not self.turns:
            raise UsageError("nothing was asked yet, so there is nothing to retry")
        *before, last = self.turns
        self._num_retries += 1
        yield from self._answer(last, tuple(before), self.queued)

    def undo(self) -> Said | Source:
        """Take back what came last: a medium that no question was asked about, else the last turn.

        The media of a turn that is taken back wait for the next question.

        Raises:
            UsageError: If there is nothing to take back.
        """
        if self.queued:
            *queued, source = self.queued
            self.queued = tuple(queued)
            return source
        if not self.turns:
            raise UsageError("nothing was said or shown yet, so there is nothing to undo")
        *turns, last = self.turns
        self.turns, self.queued = tuple(turns), last.media
        self.num_left_out = min(self.num_left_out, max(len(turns) - 1, 0))
        return last

    def clear(self) -> None:
        """Forget the turns and keep the media: they are shown with the next question."""
        self.turns, self.queued, self.num_left_out = (), self.sources, 0
        self._told.clear()

    def reset(self) -> None:
        """Forget turns and media; the settings stay."""
        self.clear()
        self.queued, self.media, self.usage = (), {}, None
        self.engine.clear_cache()

    def set(self, options: Mapping[str, object]) -> None:
        """Change settings from the next answer on, or for media that are shown from now on.

        Raises:
            UsageError: If one is unknown, wrong, or cannot change any more.
        """
        self.settings = for_one_answer(self.settings, options)

    def take_up(self, transcript: Transcript, media: Mapping[Source, Medium]) -> None:
        """Go on with a conversation that was written down, in place of this one.

        Args:
            transcript: The conversation; its settings count from now on.
            media: Those of it that could be read again.

        Raises:
            UsageError: If a setting of it is wrong; nothing has changed then.
        """
        self.set(transcript.settings)
        self.reset()
        self.turns, self.queued, self.media = transcript.turns, transcript.queued, dict(media)
        self.num_left_out = min(transcript.num_left_out, max(len(self.turns) - 1, 0))

    def tell_of_fullness(self) -> None:
        """Warn once when the context is almost full."""
        if self.percent >= WARNING_PERCENT:
            self._tell_once(
                "almost full",
                f"the context of {self.engine.checkpoint.context_length:,} tokens is {self.percent}% full: soon the "
                f"oldest turns are left out; /clear forgets the turns and keeps the media",
            )

    def _answer(
        self, asked: Said, before: tuple[Said, ...], still_queued: tuple[Source, ...]
    ) -> Generator[Chunk, None, None]:
        """Stream an answer; once there is one, the conversation is the turns before, and this one."""
        given = self._given(asked, before)
        self.given, self.usage = given, None
        if not given.media:
            self._tell_once("nothing", "no video or image is shown yet: /video PATH or /image PATH shows one")
        settings = self.settings
        if settings.temperature > 0:
            settings = replace(settings, seed=(settings.seed + self._num_retries) % (1 << 63))
        text, is_whole = "", False

        def keep() -> None:
            """Take the turn into the conversation, with as much of its answer as there is."""
            self.turns = (*before, replace(asked, answer=text, is_stopped=not is_whole))
            self.queued, self.num_left_out = still_queued, given.num_left_out

        try:
            with closing(self.engine.stream(given.conversation, given.media, settings)) as chunks:
                for chunk in chunks:
                    text += chunk.text
                    self.usage = chunk.usage
                    is_whole = chunk.finish_reason is not None
                    yield chunk
        except (GeneratorExit, KeyboardInterrupt):
            if is_whole or text.strip():
                keep()
            raise
        keep()

    def _given(self, asked: Said, before: tuple[Said, ...]) -> Given:
        """Return what the model is given: as many of the turns before a question as leave room for its answer."""
        turns = [self._turn(said.question, said.media, said.answer) for said in before]
        conversation = self._conversation([*turns, self._turn(asked.question, asked.media)])
        length = self.engine.checkpoint.context_length
        room = min(self.settings.max_new_tokens, length // ANSWER_SHARE)
        num_left_out = 0
        while len(conversation.turns) > 1 and (
            num_left_out < self.num_left_out or self.engine.count_tokens(conversation) + room > length
        ):
            conversation = conversation.without_oldest_turn()
            num_left_out += 1
        if num_left_out > self.num_left_out and self.engine.count_tokens(conversation) < length:
            self._tell_once(
                "full",
                f"the context of {length:,} tokens is full: from here on the oldest turns are left out of what the "
                f"model is given, {num_left_out} by now; media and system text stay",
            )
        sources = [source for said in (*before, asked) for source in said.media]
        return Given(conversation, [self.media[source] for source in sources if source in self.media], num_left_out)

    def _conversation(self, turns: Iterable[Turn]) -> Conversation:
        return Conversation(tuple(turns), self.settings.system, PromptStyle(self.settings.prompt_style))

    def _turn(self, question: str, media: Iterable[Source], answer: str | None = None) -> Turn:
        return Turn(question, answer, tuple(self._kinds(media)))

    def _kinds(self, sources: Iterable[Source]) -> list[MediaKind]:
        """Return what media are that could be read; those that are gone have no placeholder."""
        return [source.kind for source in sources if source in self.media]

    def _tell_once(self, what: str, text: str) -> None:
        if what not in self._told:
            self._told.add(what)
            self._tell(text)
