"""What a typed line means, and what each slash command does. To add a command, add a method to `Commands`."""

import os
import re
import shlex
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from videollava_cli.chat.session import STDIN, Answer, Session, read_again
from videollava_cli.chat.transcript import AnsweredTurn, ShownMedium, is_transcript, read_transcript, write_transcript
from videollava_cli.console import Console, clock
from videollava_cli.errors import OutputError, UsageError
from videollava_cli.media import MediaKind, Medium
from videollava_cli.output_file import check_output
from videollava_cli.reader.urls import local_path, shown_name
from videollava_cli.settings import ANSWER_KEYS, closest, for_one_answer, from_text

QUOTES = '"""'  # around a question of several lines
COMMAND = re.compile(r"/[^\s/.\\]*(?=\s|$)")
NO_MEDIA = "no media yet: /video PATH or /image PATH shows one"
HELP_END = """\
A path that is dragged into the terminal shows the file, as /video and /image do. Three quotes begin and end a question
of several lines. Ctrl-R searches what was typed before, Tab completes, Ctrl-C stops an answer, Ctrl-D leaves."""

Asked = tuple[str, Answer]  # a question, and its answer as it comes
Action = Callable[["Commands", str], Asked | None]


@dataclass(frozen=True, slots=True)
class SlashCommand:
    """A command: its argument, in brackets if it may be missing; the words that Tab completes; what it does."""

    name: str
    argument: str
    help: str
    choices: Sequence[str]
    run: Action

    @property
    def usage(self) -> str:
        """The command as it is typed."""
        return f"{self.name} {self.argument}".strip()


COMMANDS: dict[str, SlashCommand] = {}


def slash_command(argument: str = "", choices: Sequence[str] = ()) -> Callable[[Action], Action]:
    """Make a method the slash command of its name; its docstring is the help, and it gets the text behind the name."""

    def add(action: Action) -> Action:
        name, text = f"/{action.__name__}", action.__doc__ or " "
        COMMANDS[name] = SlashCommand(name, argument, text[0].lower() + text[1:].rstrip("."), choices, action)
        return action

    return add


class Commands:
    """Does what a line asks for; confirms it if a person types."""

    def __init__(self, session: Session, console: Console, *, is_terminal: bool) -> None:
        self.session = session
        self.console = console
        self.is_terminal = is_terminal
        self.has_ended = False

    def run(self, line: str) -> Asked | None:
        """Do what a line asks for, or raise a VllavaError; return a question with the stream of its answer."""
        match parse(line):
            case None:
                return None
            case "question", text:
                return text, self.session.ask(text)
            case "path", path:
                self._show(path)
                return None
            case name, argument:
                return COMMANDS[name].run(self, argument)

    def welcome(self, taken_up: str | None) -> None:
        """Name the conversation that was taken up, if one was, and who answers."""
        if taken_up is not None:
            self._tell_of_turns(f"{taken_up}: ")
        self._confirm(f"{self.session.settings.model} listens: ask, or /help; Ctrl-D leaves")

    @slash_command("PATH")
    def video(self, path: str) -> None:
        """Show a video (path or URL) with the next question."""
        self._show(to_path(path), MediaKind.VIDEO)

    @slash_command("PATH")
    def image(self, path: str) -> None:
        """Show an image with the next question."""
        self._show(to_path(path), MediaKind.IMAGE)

    @slash_command()
    def media(self, _: str) -> None:
        """List what was shown."""
        shown = [(f"turn {number}", turn.media) for number, turn in enumerate(self.session.turns, 1)]
        lines = []
        for where, media in [*shown, ("next question", self.session.queued)]:
            for each in media:
                medium = self.session.media.get(each)
                seen = ", gone" if medium is None else _frame_times(medium)
                lines.append(f"{where:13}  {each.kind}  {each.name}{seen}")
        self.console.report("\n".join(lines) or NO_MEDIA)

    @slash_command()
    def frames(self, _: str) -> None:
        """Show what the model sees of it."""
        if not self.session.shown:
            raise UsageError(NO_MEDIA)
        from videollava_cli.sheet import draw_frames, frame_lines, plain_tiles

        for each in self.session.shown:
            medium = self.session.media.get(each)
            if medium is None:
                self.console.report("gone")
                continue
            title = f"{os.path.basename(medium.name) or medium.name}{_frame_times(medium)}"
            side = medium.pixels.shape[-2]
            if not draw_frames(plain_tiles(medium), title, [f"the model sees {side} x {side}"], self.console):
                self.console.report("\n".join([title, *frame_lines(medium)]))

    @slash_command()
    def clear(self, _: str) -> None:
        """Forget the turns, keep the media."""
        self.session.clear()
        self._confirm(f"the turns are forgotten; {self._queued()}")

    @slash_command()
    def reset(self, _: str) -> None:
        """Forget turns and media."""
        self.session.reset()
        self._confirm("turns and media are forgotten")

    @slash_command()
    def retry(self, _: str) -> Asked:
        """Answer the last question once more, sampled answers with the next seed."""
        question = self.session.turns[-1].question if self.session.turns else ""
        return question, self.session.retry()

    @slash_command()
    def undo(self, _: str) -> None:
        """Take back what came last: an unused medium, else a question and its answer."""
        undone = self.session.undo()
        what = f"{undone.question!r} and its answer" if isinstance(undone, AnsweredTurn) else repr(undone.name)
        self._confirm(f"taken back: {what}; {self._queued()}")

    @slash_command("[KEY VALUE]", ANSWER_KEYS)
    def set(self, argument: str) -> None:
        """Change a setting, or list them; the value none unsets one."""
        key, _, text = argument.partition(" ")
        if not key:
            settings = self.session.settings
            self.console.report("\n".join(f"{each:18}  {_or_none(getattr(settings, each))}" for each in ANSWER_KEYS))
        elif text.strip():
            self._set(key.lower().replace("-", "_"), text.strip())
        else:
            raise UsageError(f"/set needs a value after {key!r}: /set {key} VALUE, or none to unset it")

    @slash_command("[TEXT]")
    def system(self, text: str) -> None:
        """Set the text before the conversation, or show it; none removes it."""
        if text:
            self._set("system", text)
        else:
            self.console.report(_or_none(self.session.settings.system))

    @slash_command("FILE")
    def save(self, argument: str) -> None:
        """Write the conversation to a file."""
        path = _file(argument)
        try:
            check_output(path, "conversation", is_transcript, is_stream_fine=False)
            write_transcript(self.session.transcript, path)
        except OutputError as error:
            raise UsageError(str(error)) from error  # an OutputError would end the conversation
        self._confirm(f"saved in {str(path)!r}; /load takes it up")

    @slash_command("FILE")
    def load(self, argument: str) -> None:
        """Go on with a conversation that was saved."""
        session = self.session
        transcript = read_transcript(_file(argument))
        with self.console.status("Reading media"):
            media, lines = read_again(transcript.media, session.settings, session.engine.checkpoint)
        session.take_up(transcript, media)
        for line in lines:
            self.console.notice(line)
        if transcript.model != session.settings.model:
            self.console.notice(f"{transcript.model} answered then, and {session.settings.model} goes on")
        if self.is_terminal:
            self._tell_of_turns()

    @slash_command()
    def stats(self, _: str) -> None:
        """Show the tokens used of the context, cached, tokens/s."""
        session = self.session
        left_out = f", of which the first {session.num_left_out} are left out" if session.num_left_out else ""
        self.console.report(
            f"context      {session.num_tokens:,} of {session.context_length:,} tokens, {session.percent}%\n"
            f"turns        {len(session.turns)}{left_out}\n"
            f"last answer  {session.usage.in_words if session.usage else 'none, or stopped'}\n"
            f"kept         {session.engine.nbytes / (1 << 20):,.1f} MiB for the next answer"
        )

    @slash_command()
    def help(self, _: str) -> None:
        """List the commands."""
        width = max(len(command.usage) for command in COMMANDS.values())
        lines = [f"{command.usage:{width}}  {command.help}" for command in COMMANDS.values()]
        self.console.report("\n".join([*lines, "", HELP_END]))

    @slash_command()
    def exit(self, _: str) -> None:
        """Leave; Ctrl-D does, too."""
        self.has_ended = True

    def _show(self, path: str, kind: MediaKind | None = None) -> None:
        """Read a medium and show it; `kind` is what the user takes it for, but what it holds counts."""
        if path == STDIN:
            raise UsageError("'-' can be named on the command line only: vllava chat -")
        with self.console.status("Reading media"):
            medium = self.session.read(path)
        self.console.media_notices([medium], self.session.settings)
        self.session.show(path, medium)
        name = shown_name(path)
        article = "an image" if medium.kind is MediaKind.IMAGE else "a video"
        if kind not in (None, medium.kind):
            self.console.notice(f"{name!r} holds {article}, and is shown as one")
        self._confirm(f"{name!r} is shown with the next question: {article}{_frame_times(medium)}")

    def _set(self, key: str, text: str) -> None:
        settings = for_one_answer(self.session.settings, {key: from_text(key, text)})
        self.session.settings = settings
        self._confirm(f"{key} is {_or_none(getattr(settings, key))}")

    def _queued(self) -> str:
        queued = self.session.queued
        return f"shown with the next question: {_names(queued)}" if queued else "no media wait for the next question"

    def _tell_of_turns(self, name: str = "") -> None:
        turns, shown = self.session.turns, self.session.shown
        about = f" about {_names(shown)}" if shown else ""
        self.console.notice(f"{name}{len(turns)} turn{'' if len(turns) == 1 else 's'}{about} taken up")
        if self.is_terminal and turns:
            self.console.report(f"> {turns[-1].question}\n{turns[-1].answer}")

    def _confirm(self, text: str) -> None:
        if self.is_terminal:
            self.console.notice(text)


def parse(line: str) -> tuple[str, str] | None:
    """Return what a line is, "question", "path" or the name of a slash command, and its text; None if it is blank.

    Text between three quotes is a question, whatever it looks like. Then come slash commands, then paths of files that
    are there (dragged into the terminal, say); every other line is a question. Raises a UsageError for a wrong command.
    """
    text = line.strip()
    if not text:
        return None
    if text.startswith(QUOTES):
        return "question", text.removeprefix(QUOTES).removesuffix(QUOTES).strip("\n")
    found = COMMAND.match(text)
    if found and (command := COMMANDS.get(found[0])):
        argument = text[found.end() :].strip()
        if argument and not command.argument:
            raise UsageError(f"{command.name} takes nothing after it, and there is {argument!r}")
        if command.argument and not argument and not command.argument.startswith("["):
            raise UsageError(f"{command.name} needs something after it: {command.usage}")
        return command.name, argument
    path = to_path(text)
    with suppress(ValueError):  # a zero byte is in no path
        if os.path.isfile(os.path.expanduser(path)):
            return "path", path
    if found:
        raise UsageError(f"no command {found[0]!r}{closest(found[0], COMMANDS) or ':'} /help lists them")
    return "question", text


def is_open(text: str) -> bool:
    """Return whether a question in three quotes has begun and not ended."""
    begun = text.lstrip()
    return begun.startswith(QUOTES) and not begun.removeprefix(QUOTES).rstrip().endswith(QUOTES)


def to_path(text: str) -> str:
    """Return the path or URL that was typed, without quotes, backslashes and `file://` unless a file has that name."""
    with suppress(ValueError):
        if os.path.exists(os.path.expanduser(text)):
            return text
    with suppress(ValueError):  # an open quote belongs to the name
        words = shlex.split(text)
        if len(words) == 1:
            text = words[0]
    return local_path(text)


def _file(argument: str) -> Path:
    path = Path(os.path.expanduser(to_path(argument))).absolute()
    if path.is_dir():
        raise UsageError(f"{str(path)!r} is a folder: name a file")
    return path


def _frame_times(medium: Medium) -> str:
    if not medium.stamps:
        return ""
    first, last = medium.stamps[0].seconds, medium.stamps[-1].seconds
    return f", {len(medium.stamps)} frames from {clock(first)} to {clock(last)}"


def _names(shown: Sequence[ShownMedium]) -> str:
    return ", ".join(repr(os.path.basename(each.name) or each.name) for each in shown)


def _or_none(value: object) -> str:
    return "none" if value is None else str(value)
