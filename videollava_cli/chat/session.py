"""A conversation that grows turn by turn within the model's context: what was asked and shown, and which turns fit."""

import os
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing
from dataclasses import replace

from videollava_cli.chat.transcript import AnsweredTurn, ShownMedium, Transcript
from videollava_cli.engine import Chunk, Engine, Usage
from videollava_cli.engine.checkpoint import Checkpoint
from videollava_cli.errors import UsageError, VllavaError
from videollava_cli.media import MediaKind, Medium
from videollava_cli.preprocessing import Fit
from videollava_cli.prompt import SEVERAL_MEDIA, Conversation, PromptStyle, Turn
from videollava_cli.reader import Reader
from videollava_cli.reader.urls import shown_name
from videollava_cli.settings import ANSWER_KEYS, SETTINGS, Settings, for_one_answer

STDIN = "-"
ANSWER_SHARE = 8  # an eighth of the context is kept free for an answer, unless it may not be so long
WARNING_PERCENT = 80

Answer = Generator[Chunk, None, None]  # as it comes
Turns = tuple[AnsweredTurn, ...]
Media = tuple[ShownMedium, ...]


class Session:
    """The turns and media so far, and the engine that answers.

    A turn counts once it has its answer, or as much of it as was written before the user stopped it; an error before
    that leaves everything as it was. `media` has those of the shown media that are not gone, `prompted` what the model
    was given last, `usage` what the last answer took.
    """

    def __init__(self, engine: Engine, settings: Settings, notify: Callable[[str], None]) -> None:
        self.engine = engine
        self.context_length = engine.checkpoint.context_length
        self.settings = settings
        self.turns: Turns = ()
        self.queued: Media = ()
        self.media: dict[ShownMedium, Medium] = {}
        self.num_left_out = 0
        self.prompted: tuple[Conversation, list[Medium]] | None = None
        self.usage: Usage | None = None
        self._notify = notify
        self._notified: set[str] = set()
        self._num_retries = 0
        self.num_begun = 0  # conversations: forgetting the turns begins another one

    @property
    def transcript(self) -> Transcript:
        """The conversation as it is saved."""
        s = self.settings
        answer_settings = {key: getattr(s, key) for key in ANSWER_KEYS}
        return Transcript(s.model, s.revision, answer_settings, self.turns, self.queued, self.num_left_out)

    @property
    def shown(self) -> Media:
        """All media, in the order in which they were shown."""
        return self.transcript.media

    @property
    def num_tokens(self) -> int:
        """How many tokens of the context are taken before the next question is asked."""
        conversation = self._conversation(self._turns(self.turns))
        for _ in range(self.num_left_out):
            conversation = conversation.without_oldest_turn()
        queued = sum(self.engine.checkpoint.media_tokens(kind) for kind in self._kinds(self.queued))
        return self.engine.count_tokens(conversation) + queued

    @property
    def percent(self) -> int:
        """How full the context is, in percent, rounded up."""
        return -(-100 * self.num_tokens // self.context_length)

    def read(self, name: str) -> Medium:
        """Find a medium and read it, unless `check_fits` refuses it; raises a MediaError if it cannot be read."""
        with Reader(self.settings) as reader:
            found = reader.find(name)
            self.check_fits(found.kind)
            return reader.read(found, self.engine.checkpoint.pixels)

    def check_fits(self, kind: MediaKind) -> None:
        """Refuse another medium by a UsageError if all media alone would fill the context: none is ever left out."""
        question = Turn("?", media=(*self._kinds(self.shown), kind))
        num_tokens = self.engine.count_tokens(self._conversation([question]))
        if num_tokens >= self.context_length:
            why = f"with it the media take {num_tokens:,} tokens, and the context holds {self.context_length:,}"
            raise UsageError(f"one more {kind} does not fit: {why}; /reset drops those shown so far")

    def show(self, name: str, medium: Medium) -> ShownMedium:
        """Show a medium, which was read with the session's settings, with the next question."""
        s, name = self.settings, shown_name(name)
        path = name if name == STDIN or "://" in name else os.path.abspath(os.path.expanduser(name))
        side = medium.pixels.shape[-2]
        shown = ShownMedium(path, medium.kind, s.start, s.end, s.at, s.fit, side, medium.digest)
        self.media[shown] = medium
        self.queued += (shown,)
        if len(self.shown) > 1:
            self._notify_once("several", SEVERAL_MEDIA)
        return shown

    def ask(self, question: str) -> Answer:
        """Stream the answer to a question, about all that was shown.

        Closing the stream, or Ctrl-C inside of it, keeps what was written as the answer. Where the question no longer
        fits, the oldest turns are left out of what the model is given; their media stay. Raises what `Engine.stream`
        raises, and a UsageError if the question is empty.
        """
        self._num_retries = 0
        yield from self._answer(question, self.queued, before=self.turns, queued=())

    def retry(self) -> Answer:
        """Stream another answer to the last question, sampled with the next seed; a failure leaves the old one."""
        if not self.turns:
            raise UsageError("nothing was asked yet, so there is nothing to retry")
        *before, last = self.turns
        self._num_retries += 1
        yield from self._answer(last.question, last.media, before=tuple(before), queued=self.queued)

    def undo(self) -> AnsweredTurn | ShownMedium:
        """Take back a medium that no question was asked about, else the last turn, whose media are queued again."""
        if self.queued:
            *queued, medium = self.queued
            self.queued = tuple(queued)
            return medium
        if not self.turns:
            raise UsageError("nothing was said or shown yet, so there is nothing to undo")
        *turns, last = self.turns
        self.turns, self.queued = tuple(turns), last.media
        self.num_left_out = min(self.num_left_out, max(len(turns) - 1, 0))
        return last

    def clear(self) -> None:
        """Forget the turns and keep the media: they are shown with the next question."""
        self.turns, self.queued, self.num_left_out = (), self.shown, 0
        self.num_begun += 1
        self._notified.clear()

    def reset(self) -> None:
        """Forget turns and media; the settings stay."""
        self.clear()
        self.queued, self.media, self.usage = (), {}, None
        self.engine.clear_cache()

    def take_up(self, transcript: Transcript, media: Mapping[ShownMedium, Medium]) -> None:
        """Continue a saved conversation with its settings; `media` are those still there.

        A wrong setting raises a UsageError and changes nothing.
        """
        self.settings = for_one_answer(self.settings, transcript.settings)
        self.reset()
        self.turns, self.queued, self.media = transcript.turns, transcript.queued, dict(media)
        self.num_left_out = max(min(transcript.num_left_out, len(self.turns) - 1), 0)

    def warn_when_full(self) -> None:
        """Warn once when the context is almost full."""
        if self.percent >= WARNING_PERCENT:
            state = f"the context of {self.context_length:,} tokens is {self.percent}% full"
            remedy = "/clear forgets the turns and keeps the media"
            self._notify_once("almost full", f"{state}: soon the oldest turns are left out; {remedy}")

    def _answer(self, question: str, media: Media, *, before: Turns, queued: Media) -> Answer:
        """Stream an answer; once there is one, the conversation is `before` and this turn, with `queued` waiting."""
        conversation, num_left_out = self._fitting(Turn(question, None, self._kinds(media)), before)
        shown = (*(medium for turn in before for medium in turn.media), *media)
        self.prompted = conversation, [self.media[medium] for medium in shown if medium in self.media]
        self.usage = None
        if not conversation.media:
            self._notify_once("nothing", "no video or image is shown yet: /video PATH or /image PATH shows one")
        settings = self.settings
        if not settings.is_greedy:
            settings = replace(settings, seed=(settings.seed + self._num_retries) % (1 << 63))
        text, is_whole = "", False

        def append_turn() -> None:
            self.turns = (*before, AnsweredTurn(question, text, media, is_stopped=not is_whole))
            self.queued, self.num_left_out = queued, num_left_out

        try:
            with closing(self.engine.stream(*self.prompted, settings)) as chunks:
                for chunk in chunks:
                    text += chunk.text
                    self.usage = chunk.usage
                    is_whole = chunk.finish_reason is not None
                    yield chunk
        except (GeneratorExit, KeyboardInterrupt):
            if is_whole or text.strip():
                append_turn()
            raise
        append_turn()

    def _fitting(self, asked: Turn, before: Turns) -> tuple[Conversation, int]:
        """Return as many of the turns as fit with the question and an answer, and how many are left out."""
        conversation = self._conversation([*self._turns(before), asked])
        num_free = min(self.settings.max_new_tokens, self.context_length // ANSWER_SHARE)
        num_left_out = 0
        while len(conversation.turns) > 1 and (
            num_left_out < self.num_left_out or self.engine.count_tokens(conversation) + num_free > self.context_length
        ):
            conversation = conversation.without_oldest_turn()
            num_left_out += 1
        if num_left_out > self.num_left_out and self.engine.count_tokens(conversation) < self.context_length:
            self._notify_once(
                "full",
                f"the context of {self.context_length:,} tokens is full: from here on the oldest turns are left out of "
                f"what the model is given, {num_left_out} by now; media and system text stay",
            )
        return conversation, num_left_out

    def _conversation(self, turns: Iterable[Turn]) -> Conversation:
        return Conversation(tuple(turns), self.settings.system, PromptStyle(self.settings.prompt_style))

    def _turns(self, turns: Iterable[AnsweredTurn]) -> list[Turn]:
        return [Turn(turn.question, turn.answer, self._kinds(turn.media)) for turn in turns]

    def _kinds(self, media: Iterable[ShownMedium]) -> tuple[MediaKind, ...]:
        """Return the kinds of those media that could be read; one that is gone has no placeholder."""
        return tuple(medium.kind for medium in media if medium in self.media)

    def _notify_once(self, about: str, text: str) -> None:
        if about not in self._notified:
            self._notified.add(about)
            self._notify(text)


def read_again(shown: Media, settings: Settings, checkpoint: Checkpoint) -> tuple[dict[ShownMedium, Medium], list[str]]:
    """Read the media of a saved conversation; return those still there, and a line about each gone or changed one."""
    media: dict[ShownMedium, Medium] = {}
    lines = []
    for each in dict.fromkeys(shown):
        try:
            media[each] = _read_again(each, settings, checkpoint)
        except VllavaError as error:
            lines.append(f"{error}; the conversation goes on without it")
            continue
        if media[each].pixels.shape[-2] == each.side and media[each].digest != each.digest:
            lines.append(f"{each.name!r} has changed since it was talked about: the model sees what is there now")
    return media, lines


def _read_again(shown: ShownMedium, settings: Settings, checkpoint: Checkpoint) -> Medium:
    if shown.name == STDIN:
        raise UsageError(f"a medium came on stdin ({shown.kind}) and cannot be read again")
    if shown.fit not in SETTINGS["fit"].choices:
        raise UsageError(f"fit of {shown.name!r} is {shown.fit!r}")
    then = for_one_answer(settings, {"start": shown.start, "end": shown.end, "at": shown.at})
    with Reader(then) as reader:
        found = reader.find(shown.name)
        if found.kind is not shown.kind:
            raise UsageError(f"{shown.name!r} is of another kind now, {found.kind} and not {shown.kind}")
        return reader.read(found, replace(checkpoint.pixels, fit=Fit(shown.fit)))
