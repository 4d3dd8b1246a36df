"""`vllava chat`: a conversation about media, over turns."""

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, TextIO

import typer

from videollava_cli.chat.answers import Answers, JsonAnswers, LineAnswers, LiveAnswers
from videollava_cli.chat.keeping import Keeper
from videollava_cli.chat.lines import PipedLines
from videollava_cli.chat.start import Beginning, begin
from videollava_cli.chat.store import StateFolder, read_transcript
from videollava_cli.chat.talk import Lines, Outlet, Talk
from videollava_cli.chat.transcript import Transcript
from videollava_cli.commands import options as opt
from videollava_cli.console import Console
from videollava_cli.errors import OutputError, UsageError
from videollava_cli.settings import ANSWER_KEYS, Settings, for_one_answer, settings_from

SAMPLING_KEYS = ("start", "end", "at")  # they belong together: one that is given replaces all that were saved

CHAT_EXAMPLES = """\b
Examples:
  vllava chat clip.mp4                     ask on; /help lists the commands, Ctrl-D leaves
  vllava chat                              then /video clip.mp4, or drag it into the terminal
  vllava chat -c                           go on with the last conversation
  printf 'What is it?\\nWhat color is it?\\n' | vllava chat -m tiny examples/triangle.jpg

\b
Where stdin is no terminal, each line of it is a question or a command, and each question gets one line on stdout:
line breaks in an answer become spaces, and a question that fails gets an empty line and a reason on stderr. The exit
status is then that of the last line that failed. Three quotes begin and end a question of several lines.

\b
When the context is full, the oldest turns are left out of what the model is given; never the media or --system.
"""


@opt.command(takes=(*opt.QUESTION, *opt.MODEL, *opt.ANSWER, *opt.CLIP, *opt.OUTPUT))
def chat(
    flags: dict[str, object],
    config: Path | None,
    console: Console,
    media: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MEDIA]...",
            help="Videos and images (path, URL, hf://\\[datasets/]owner/repo/path, - for stdin).",
            show_default=False,
        ),
    ] = None,
    take_up: Annotated[
        bool, opt.option("Take up the last conversation, its media and settings.", "Question", "-c", "--continue")
    ] = False,
    json_lines: opt.Json = False,
    no_save: Annotated[
        bool, opt.option("Keep neither the conversation nor the typed lines on disk.", "Output", "--no-save")
    ] = False,
) -> int:
    """Talk about videos and images: ask, show more, ask on.

    The conversation is kept, readable by you only, in $XDG_STATE_HOME/vllava (~/.local/state/vllava); -c takes it up.
    """
    given = {key: value for key, value in flags.items() if value is not None}
    with ExitStack() as stack:
        terminal = questions_terminal(media or [], stack)
        folder = StateFolder.of()
        if take_up and not folder.last.exists():
            raise UsageError(f"there is no conversation to take up in {str(folder.path)!r}: leave --continue out")
        transcript = read_transcript(folder.last) if take_up else None
        settings = settings_of(given, transcript, settings_from(loading(given, transcript), config))
        kept = None if no_save else made(folder, console)
        session = begin(Beginning(tuple(media or ()), settings, transcript), console)
        answers: Answers = JsonAnswers(console) if json_lines else LineAnswers(console)
        lines: Lines = PipedLines(sys.stdin.buffer)
        if terminal is not None:
            from videollava_cli.chat.editor import Editor

            lines = Editor(kept.lines if kept else None, terminal)
            answers = JsonAnswers(console) if json_lines else LiveAnswers(console)
        keeper = Keeper(kept.last if kept else None, transcript, console)
        return Talk(session, console, lines, Outlet(answers, keeper), is_terminal=terminal is not None).run()


def questions_terminal(media: list[str], stack: ExitStack) -> TextIO | None:
    """Return the terminal from which questions come; None if they come through a pipe or from a file.

    Where stdin is a medium, it is the terminal that the command was started from.

    Raises:
        UsageError: If there is none, or stdin is closed.
    """
    if sys.stdin is None:
        raise UsageError("stdin is closed, and questions come from there: pipe them into it")
    if "-" not in media:
        return sys.stdin if sys.stdin.isatty() else None
    if media.count("-") > 1:
        raise UsageError("'-' is given more than once, and stdin can be read only once")
    try:
        return stack.enter_context(open("/dev/tty", encoding="utf-8"))
    except OSError as error:
        raise UsageError("'-' takes stdin for a medium, and there is no terminal for the questions") from error


def loading(flags: dict[str, object], transcript: Transcript | None) -> dict[str, object]:
    """Return the flags of loading; without -m the model of the conversation that is taken up is loaded."""
    chosen = {key: value for key, value in flags.items() if key not in ANSWER_KEYS}
    if transcript is None or "model" in flags:
        return chosen
    saved = {"model": transcript.model, "revision": transcript.revision}
    return {key: value for key, value in saved.items() if value is not None} | chosen


def settings_of(flags: dict[str, object], transcript: Transcript | None, loaded: Settings) -> Settings:
    """Lay over the settings of loading those of the conversation that is taken up, and over them the flags.

    Raises:
        UsageError: If one of them is wrong.
    """
    chosen = {key: value for key, value in flags.items() if key in ANSWER_KEYS}
    if transcript is not None:
        saved = dict(transcript.settings)
        if any(key in chosen for key in SAMPLING_KEYS):
            saved |= dict.fromkeys(SAMPLING_KEYS)
        loaded = for_one_answer(loaded, saved)
    return for_one_answer(loaded, chosen)


def made(folder: StateFolder, console: Console) -> StateFolder | None:
    """Make the folder of conversations; where that cannot be done, say so and go on without."""
    try:
        folder.make()
    except OutputError as error:
        console.notice(str(error))
        return None
    return folder
