"""`vllava chat`: a conversation about media, over turns."""

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from videollava_cli.chat.history import (
    ID,
    Keeper,
    conversations,
    delete_conversations,
    find_conversation,
    summary,
)
from videollava_cli.chat.repl import Answers, Repl, read_piped
from videollava_cli.chat.session import STDIN, Session, read_again
from videollava_cli.chat.transcript import TYPED_LINES, Transcript, make_state_folder
from videollava_cli.commands import options as opt
from videollava_cli.commands.arguments import check_media
from videollava_cli.console import Console, columns
from videollava_cli.engine.checkpoint import find_checkpoint
from videollava_cli.engine.request import json_text
from videollava_cli.engine.startup import start_engine
from videollava_cli.errors import ExitStatus, OutputError, UsageError
from videollava_cli.prompt import one_question
from videollava_cli.reader import Reader
from videollava_cli.settings import ANSWER_KEYS, Settings, for_one_answer, settings_from, xdg_folder

SAMPLING_KEYS = ("start", "end", "at")  # they belong together: one that is given replaces all that were saved

CHAT_EXAMPLES = """\b
Examples:
  vllava chat clip.mp4           # ask on; /help lists the commands
  vllava chat                    # then /video clip.mp4, or drag it there
  vllava chat -c                 # go on with the last conversation
  vllava chat --list             # all of them, for -c ID, --delete ID
  printf 'What?\\nWhat color?\\n' | vllava chat -m tiny examples/triangle.jpg

Where stdin is no terminal, each line of it is a question or a command, and each question gets one line on stdout:
line breaks in an answer become spaces, and a question that fails gets an empty line and a reason on stderr. The exit
status is then that of the last line that failed. Three quotes begin and end a question of several lines.

When the context is full, the oldest turns are left out of what the model is given; never the media or --system.
"""


@opt.command(takes=(*opt.QUESTION, *opt.MODEL, *opt.ANSWER, *opt.CLIP, "save", "keep_last", *opt.OUTPUT))
def chat(
    given: opt.Given,
    console: Console,
    media: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MEDIA]...",
            help="Videos and images (path, URL, hf://[datasets/]owner/repo/path, - for stdin).",
            show_default=False,
        ),
    ] = None,
    take_up: Annotated[
        bool,
        opt.option(
            "Take up the last conversation, or the one whose ID follows, its media and settings.",
            "Question",
            *("-c", "--continue"),
        ),
    ] = False,
    is_listed: Annotated[
        bool, opt.option("List the conversations that are kept, the last used one first.", "Question", "--list")
    ] = False,
    delete: Annotated[
        list[str] | None,
        opt.option("Remove a conversation; repeat it for more.", "Question", "--delete", metavar="ID"),
    ] = None,
    json_lines: opt.Json = False,
) -> int:
    """Talk about videos and images: ask, show more, ask on.

    Each conversation is kept, readable by you only, in $XDG_STATE_HOME/vllava (~/.local/state/vllava); -c takes it up.
    """
    state, names = xdg_folder("STATE"), list(media or [])
    if is_listed or delete:
        if names or take_up:
            raise UsageError("--list and --delete take no media and begin no conversation")
        manage(state, delete or [], console, is_listed=is_listed, as_json=json_lines)
        return ExitStatus.ANSWERED
    beginning = next((name for name in names if ID.fullmatch(name) and not os.path.exists(name)), None)
    if take_up and beginning:
        names.remove(beginning)
    check_media(names, "ask it in the conversation, or pipe it in")
    with ExitStack() as stack:
        terminal = questions_terminal(names, stack)
        keeper = Keeper(state, console.notice)
        transcript = keeper.take_up(find_conversation(state, beginning)) if take_up else None
        settings = resolve_settings(given, transcript)
        keeper.keep_last = settings.keep_last
        is_saved = settings.save and make_folder(state, console)
        session = start_session(names, settings, transcript, console)
        read_line: Callable[[str], str] = partial(read_piped, sys.stdin.buffer)
        if terminal is not None:
            from videollava_cli.chat.input import Editor

            read_line = Editor(terminal, state / TYPED_LINES if is_saved else None).read
        answers = Answers(console, "json" if json_lines else "live" if terminal else "line")
        repl = Repl(session, console, answers, read_line, terminal is not None, keeper if is_saved else None)
        return repl.run(taken_up=keeper.path.stem if keeper.path else None)


def make_folder(state: Path, console: Console) -> bool:
    """Return whether conversations can be kept; a folder that cannot be made is a note."""
    try:
        make_state_folder(state)
    except OutputError as error:
        console.notice(str(error))
        return False
    return True


def manage(state: Path, delete: Sequence[str], console: Console, *, is_listed: bool, as_json: bool) -> None:
    """Remove conversations, or list them; one that cannot be read is a note."""
    for name in delete_conversations(state, delete):
        console.notice(f"removed {name}")
    rows: list[dict[str, Any]] = []
    for path in conversations(state) if is_listed else ():
        try:
            rows.append(summary(path))
        except UsageError as error:
            console.notice(f"{error}; vllava chat --delete {path.stem} removes it")
        except FileNotFoundError:
            continue  # another process removed it meanwhile
    if as_json:
        console.answer("".join(map(json_text, rows)))
    elif rows:
        cells = [
            (
                row["id"],
                row["last_used"][:16].replace("T", " "),
                str(row["turns"]),
                row["model"],
                ", ".join(row["media"]),
            )
            for row in rows
        ]
        questions = [" ".join(row["question"].split()) for row in rows]
        head = ("ID", "LAST USED", "TURNS", "MODEL", "MEDIA", "FIRST QUESTION")
        lines = columns([head, *((*cell, question) for cell, question in zip(cells, questions, strict=True))])
        console.answer("".join(f"{line}\n" for line in lines))
    elif is_listed:
        console.notice(f"no conversation is kept in {str(state)!r}")


def questions_terminal(media: list[str], stack: ExitStack) -> TextIO | None:
    """Return the terminal from which questions come, the controlling one where stdin is a medium; None for a pipe."""
    if sys.stdin is None:
        raise UsageError("stdin is closed, and questions come from there: pipe them into it")
    if STDIN not in media:
        return sys.stdin if sys.stdin.isatty() else None
    if media.count(STDIN) > 1:
        raise UsageError("'-' is given more than once, and stdin can be read only once")
    try:
        return stack.enter_context(open("/dev/tty", encoding="utf-8"))
    except OSError as error:
        raise UsageError("'-' takes stdin for a medium, and there is no terminal for the questions") from error


def resolve_settings(given: opt.Given, transcript: Transcript | None) -> Settings:
    """Resolve the settings; those of a saved conversation count more than a file's and less than a flag's."""
    if transcript is None:
        return settings_from(given.flags, given.config)
    flags = {key: value for key, value in given.flags.items() if value is not None}
    for_answers = {key: flags.pop(key) for key in ANSWER_KEYS if key in flags}
    if "model" not in flags:
        flags = {"model": transcript.model, "revision": transcript.revision, **flags}
    saved = dict(transcript.settings)
    if any(key in for_answers for key in SAMPLING_KEYS):
        saved |= dict.fromkeys(SAMPLING_KEYS)
    return for_one_answer(for_one_answer(settings_from(flags, given.config), saved), for_answers)


def start_session(names: Sequence[str], settings: Settings, transcript: Transcript | None, console: Console) -> Session:
    """Load the engine while media are read; take up a conversation, and show the media with the next question."""
    with Reader(settings) as reader:
        with console.status("Finding media"):
            found = [reader.find(name) for name in names]
        checkpoint = find_checkpoint(settings)
        with reader.read_ahead(found, checkpoint.pixels, source=lambda file: file) as ahead:
            with console.status("Reading media"):
                shown, lines = read_again(transcript.media if transcript else (), settings, checkpoint)
            for line in lines:
                console.notice(line)
            kinds = [*(each.kind for each in shown), *(file.kind for file in found)]
            shortest = one_question(kinds, "?", settings)
            engine, _ = start_engine(settings, checkpoint, console, conversations=[shortest], media=ahead)
            media = ahead.result()
    console.detail(f"{settings.model} on {engine.model.device}, {engine.compute_dtype}")
    if media:
        console.media_notices(media, settings)
    session = Session(engine, settings, console.notice)
    if transcript is not None:
        session.take_up(transcript, shown)
        session.settings = settings  # flags count more than what was saved
    for name, medium in zip(names, media, strict=True):
        session.show(name, medium)
    return session


def add_to(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command(cls=opt.HelpCommand, epilog=CHAT_EXAMPLES)(chat)
