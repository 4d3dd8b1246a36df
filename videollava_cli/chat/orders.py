"""What the slash commands of a conversation do, but for those that ask or leave."""

import os
from collections.abc import Callable
from pathlib import Path

from videollava_cli.chat.drawing import frame_times, show_frames
from videollava_cli.chat.session import Session
from videollava_cli.chat.showing import STDIN, read_again, read_medium
from videollava_cli.chat.slash import COMMANDS, Order, to_path
from videollava_cli.chat.store import check_target, read_transcript, write_transcript
from videollava_cli.chat.transcript import Said, Source
from videollava_cli.console import Console
from videollava_cli.errors import OutputError, UsageError
from videollava_cli.media import MediaKind
from videollava_cli.settings import ANSWER_KEYS, from_text

HELP_END = """\
A path that is dragged into the terminal shows the file, as /video and /image do. Three quotes begin and end a question
of several lines. Ctrl-R searches what was typed before, Tab completes, Ctrl-C stops an answer, Ctrl-D leaves."""


class Orders:
    """Does what slash commands say.

    Args:
        session: The conversation.
        console: Where to say what was done.
        is_terminal: Whether a person types, who is told what was done; in a pipe only what failed is.
    """

    def __init__(self, session: Session, console: Console, *, is_terminal: bool) -> None:
        self.session = session
        self.console = console
        self.is_terminal = is_terminal
        self._actions: dict[str, Callable[[str], None]] = {
            "/video": lambda path: self.show(to_path(path), MediaKind.VIDEO),
            "/image": lambda path: self.show(to_path(path), MediaKind.IMAGE),
            "/media": lambda _: self._list_media(),
            "/frames": lambda _: self._frames(),
            "/clear": lambda _: self._clear(),
            "/reset": lambda _: self._reset(),
            "/undo": lambda _: self._undo(),
            "/set": self._set,
            "/system": self._system,
            "/save": lambda path: self._save(_file(path)),
            "/load": lambda path: self._load(_file(path)),
            "/stats": lambda _: self._stats(),
            "/help": lambda _: self._help(),
        }

    def welcome(self) -> None:
        """Say what there is to talk about."""
        if self.session.turns:
            self._tell_what_was_taken_up()
        if self.is_terminal:
            self.console.notice(f"{self.session.settings.model} listens: ask, or /help; Ctrl-D leaves")

    def obey(self, order: Order) -> None:
        """Do what a slash command says.

        Raises:
            UsageError: If it cannot be done.
            MediaError: If a medium cannot be read.
        """
        self._actions[order.command](order.argument)

    def show(self, path: str, kind: MediaKind | None = None) -> None:
        """Read a medium and show it with the next question.

        Args:
            path: Where it is, or its URL.
            kind: What the user takes it for; what it holds counts.

        Raises:
            MediaError: If there is none.
            UsageError: If it does not fit the context.
        """
        if path == STDIN:
            raise UsageError("'-' can be named on the command line only: vllava chat -")
        session = self.session
        with self.console.status("Reading media"):
            source, medium = read_medium(path, session.settings, session.engine.checkpoint, session.check_room)
        self.console.media_notices([medium], session.settings)
        session.show(source, medium)
        article = "an image" if source.kind is MediaKind.IMAGE else "a video"
        if kind not in (None, source.kind):
            self.console.notice(f"{path!r} holds {article}, and is shown as one")
        self._confirm(f"{path!r} is shown with the next question: {article}{frame_times(medium)}")

    def _clear(self) -> None:
        self.session.clear()
        self._confirm(f"the turns are forgotten; {self._waiting()}")

    def _reset(self) -> None:
        self.session.reset()
        self._confirm("turns and media are forgotten")

    def _undo(self) -> None:
        undone = self.session.undo()
        if isinstance(undone, Said):
            self._confirm(f"taken back: {undone.question!r} and its answer; {self._waiting()}")
        else:
            self._confirm(f"taken back: {undone.name!r}; {self._waiting()}")

    def _waiting(self) -> str:
        queued = self.session.queued
        return f"shown with the next question: {_names(queued)}" if queued else "no media wait for the next question"

    def _list_media(self) -> None:
        rows = [
            (source, f"turn {number}") for number, said in enumerate(self.session.turns, 1) for source in said.media
        ]
        rows += [(source, "next question") for source in self.session.queued]
        lines = []
        for source, where in rows:
            medium = self.session.media.get(source)
            seen = ", gone" if medium is None else frame_times(medium)
            lines.append(f"{where:13}  {source.kind}  {source.name}{seen}")
        self.console.report("\n".join(lines) or "no media yet: /video PATH or /image PATH shows one")

    def _frames(self) -> None:
        if not self.session.sources:
            raise UsageError("no media yet: /video PATH or /image PATH shows one")
        show_frames([self.session.media.get(source) for source in self.session.sources], self.console)

    def _help(self) -> None:
        width = max(len(command.usage) for command in COMMANDS)
        lines = [f"{command.usage:{width}}  {command.help}" for command in COMMANDS]
        self.console.report("\n".join([*lines, "", HELP_END]))

    def _set(self, argument: str) -> None:
        key, _, text = argument.partition(" ")
        if not key:
            settings = self.session.settings
            self.console.report("\n".join(f"{each:18}  {_shown(getattr(settings, each))}" for each in ANSWER_KEYS))
            return
        if not text.strip():
            raise UsageError(f"/set needs a value after {key!r}: /set {key} VALUE, or none to unset it")
        key = key.lower().replace("-", "_")
        self.session.set({key: from_text(key, text.strip())})
        self._confirm(f"{key} is {_shown(getattr(self.session.settings, key))}")

    def _system(self, text: str) -> None:
        if not text:
            self.console.report(_shown(self.session.settings.system))
            return
        self.session.set({"system": from_text("system", text)})
        self._confirm(f"system is {_shown(self.session.settings.system)}")

    def _save(self, path: Path) -> None:
        check_target(path)
        try:
            write_transcript(self.session.transcript, path)
        except OutputError as error:
            raise UsageError(str(error)) from error  # an answer can still be written
        self._confirm(f"saved in {str(path)!r}; /load takes it up")

    def _load(self, path: Path) -> None:
        transcript = read_transcript(path)
        with self.console.status("Reading media"):
            media, lines = read_again(transcript.sources, self.session.settings, self.session.engine.checkpoint)
        self.session.take_up(transcript, media)
        for line in lines:
            self.console.notice(line)
        if transcript.model != self.session.settings.model:
            self.console.notice(f"{transcript.model} answered then, and {self.session.settings.model} goes on")
        self._tell_what_was_taken_up()

    def _tell_what_was_taken_up(self) -> None:
        turns = self.session.turns
        about = f" about {_names(self.session.sources)}" if self.session.sources else ""
        self._confirm(f"{len(turns)} turn{'' if len(turns) == 1 else 's'}{about} taken up")
        if self.is_terminal and turns:
            self.console.report(f"> {turns[-1].question}\n{turns[-1].answer}")

    def _stats(self) -> None:
        session = self.session
        used, length = session.num_tokens, session.engine.checkpoint.context_length
        turns = f"{len(session.turns)}, of which the first {session.num_left_out} are left out"
        lines = [
            f"context      {used:,} of {length:,} tokens, {session.percent}%",
            f"turns        {turns if session.num_left_out else len(session.turns)}",
            f"last answer  {session.usage.in_words if session.usage else 'none, or stopped'}",
            f"kept         {session.engine.nbytes / (1 << 20):,.1f} MiB for the next answer",
        ]
        self.console.report("\n".join(lines))

    def _confirm(self, text: str) -> None:
        """Tell a person what was done."""
        if self.is_terminal:
            self.console.notice(text)


def _file(argument: str) -> Path:
    path = Path(os.path.expanduser(to_path(argument))).absolute()
    if path.is_dir():
        raise UsageError(f"{str(path)!r} is a folder: name a file")
    return path


def _names(sources: tuple[Source, ...]) -> str:
    return ", ".join(repr(os.path.basename(source.name) or source.name) for source in sources)


def _shown(value: object) -> str:
    return "none" if value is None else str(value)
