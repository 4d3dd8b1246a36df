"""`vllava ask`: one answer to each question about some media."""

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Annotated

import typer

from videollava_cli.commands import options as opt
from videollava_cli.commands.arguments import media_and_questions
from videollava_cli.console import Console
from videollava_cli.engine import Engine, Request, in_order
from videollava_cli.engine.checkpoint import find_checkpoint
from videollava_cli.engine.request import answer_line, json_text
from videollava_cli.engine.startup import show_prefill, start_engine
from videollava_cli.errors import GenerationError, UsageError
from videollava_cli.media import Medium
from videollava_cli.process import echo_off
from videollava_cli.prompt import SEVERAL_MEDIA, Turn, one_question
from videollava_cli.reader import Reader
from videollava_cli.reader.urls import local_path
from videollava_cli.settings import Settings

EXAMPLES = """\b
Examples:
  vllava ask clip.mp4 "What happens in this video?"
  vllava ask photo.jpg -q "What is this?" -q "What color is it?"
  curl -s https://example.org/clip.webm | vllava ask - "Why is this funny?"
  vllava ask talk.mkv --start 60 --end 90 "Who speaks?" --json | jq .answer
  vllava ask -m tiny examples/circle-moves-right.mp4 "What happens?"
"""


@opt.command(takes=(*opt.QUESTION, *opt.MODEL, *opt.ANSWER, *opt.CLIP, *opt.OUTPUT))
def ask(
    settings: Settings,
    console: Console,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MEDIA... QUESTION",
            help="Videos and images (path, URL, hf://[datasets/]owner/repo/path, - for stdin), then the question.",
            show_default=False,
        ),
    ] = None,
    question: opt.Questions = None,
    json_lines: opt.Json = False,
    stream: Annotated[
        bool | None,
        opt.option("Print the answer as it is written (default) or at its end.", "Output", "--stream/--no-stream"),
    ] = None,
) -> None:
    """Answer a question about videos and images, as it is written.

    The model sees eight frames of a video, or the image. Answers are greedy: same input, same text.
    """
    if json_lines and stream:
        raise UsageError("--json and --stream exclude each other: a JSON line is printed whole")
    sources, questions = split_arguments(arguments or [], question or [], console)
    engine, media, seconds = start(sources, questions, settings, console)
    if len(media) > 1:
        console.notice(SEVERAL_MEDIA)
    console.media_notices(media, settings)
    kinds = [medium.kind for medium in media]
    requests = [Request(one_question(kinds, question, settings), media, settings) for question in questions]
    is_live = stream is not False and not json_lines
    try:
        answer(requests, engine, console, is_live=is_live, seconds=seconds if json_lines else None)
    except (KeyboardInterrupt, GenerationError):
        console.end_line()
        raise


def split_arguments(
    arguments: Sequence[str], questions: Sequence[str], console: Console
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return media and questions, at least one of each; without -q the last positional is the question."""
    sources, asked = media_and_questions(arguments, questions, console)
    if not asked:
        if len(sources) < 2:
            raise UsageError('media and a question are needed: vllava ask clip.mp4 "What happens in this video?"')
        asked = [sources.pop()]
        if asked[0].strip() and os.path.isfile(local_path(asked[0])):
            raise UsageError(f"the last argument is the question, and {asked[0]!r} is a file: add a question")
    if not sources:
        raise UsageError('a video or image is needed: vllava ask clip.mp4 "What happens in this video?"')
    if sources.count("-") > 1:
        raise UsageError("'-' is given more than once, and stdin can be read only once")
    for text in asked:
        Turn(text)
    return tuple(sources), tuple(asked)


def start(
    sources: Sequence[str], questions: Sequence[str], settings: Settings, console: Console
) -> tuple[Engine, tuple[Medium, ...], dict[str, float]]:
    """Find the media, and start the engine while they are read; return both with the seconds each took."""
    began = time.perf_counter()
    with Reader(settings) as reader:
        with console.status("Finding media"):
            found = [reader.find(source) for source in sources]
        find_seconds = time.perf_counter() - began
        checkpoint = find_checkpoint(settings)
        kinds = [file.kind for file in found]
        conversations = [one_question(kinds, question, settings) for question in questions]
        with reader.read_ahead(found, checkpoint.pixels, source=lambda file: file) as ahead:
            engine, load_seconds = start_engine(settings, checkpoint, console, conversations=conversations, media=ahead)
            media = tuple(ahead.result())
    console.detail(f"{settings.model} on {engine.model.device}, {engine.compute_dtype}")
    return engine, media, {"read_s": find_seconds + ahead.seconds, "load_s": load_seconds}


def answer(
    requests: Sequence[Request], engine: Engine, console: Console, *, is_live: bool, seconds: Mapping[str, float] | None
) -> None:
    """Print the answers in the order of their questions: as they are written, whole, or, with `seconds`, as JSON."""
    text = ""
    with echo_off(), closing(show_prefill(engine.answer(requests), engine, console)) as chunks:
        for request, chunk in in_order(chunks):
            if chunk.error is not None:
                raise chunk.error
            text += chunk.text
            if is_live:
                console.answer(chunk.text)
            if chunk.usage is None:
                continue
            whole, text = replace(chunk, text=text), ""
            if seconds is not None:
                question = request.conversation.turns[-1].question
                line = answer_line(request.media, question, whole, model=engine.settings.model, seconds=seconds)
                console.answer(json_text(line))
            else:
                end = "" if whole.text.endswith("\n") else "\n"
                console.answer(end if is_live else whole.text + end)
                if chunk.finish_reason == "length":
                    advice = "give a larger --max-new-tokens"
                    console.notice(chunk.usage.cut_off_notice(engine.checkpoint.context_length, advice))
            console.detail(f"{chunk.usage.in_words}, ended by {chunk.finish_reason}")


def add_to(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command(cls=opt.HelpCommand, epilog=EXAMPLES, no_args_is_help=True)(ask)
