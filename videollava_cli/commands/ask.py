"""`vllava ask`: one answer to each question about some media."""

import json
import os
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from videollava_cli.commands import options as opt
from videollava_cli.console import Console
from videollava_cli.conversation import SEVERAL_MEDIA, Conversation, Turn
from videollava_cli.engine import Chunk, Engine, Usage
from videollava_cli.engine.checkpoint import find_checkpoint
from videollava_cli.engine.chunks import in_order
from videollava_cli.engine.notes import cut_off_line, tell_about_engine, tell_about_media, usage_line
from videollava_cli.engine.prompting import one_question, prompt_text
from videollava_cli.engine.startup import BackgroundReading, start_engine
from videollava_cli.errors import UsageError
from videollava_cli.media import Medium
from videollava_cli.reader import MediaReader
from videollava_cli.settings import Settings

EXAMPLES = """\b
Examples:
  vllava ask clip.mp4 "What happens in this video?"
  vllava ask photo.jpg -q "What is this?" -q "What color is it?"
  curl -s https://example.org/clip.webm | vllava ask - "Why is this funny?"
  vllava ask talk.mkv --start 60 --end 90 "Who speaks?" --json | jq -r .answer
  vllava ask -m tiny examples/circle-moves-right.mp4 "What happens?"
"""


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for: media sources, questions, settings, and the form of the output."""

    sources: tuple[str, ...]
    questions: tuple[str, ...]
    settings: Settings
    is_json: bool = False
    is_streaming: bool = True

    @property
    def is_live(self) -> bool:
        """Whether an answer is printed as it comes."""
        return self.is_streaming and not self.is_json


@opt.command(takes=(*opt.QUESTION, *opt.MODEL, *opt.ANSWER, *opt.CLIP, *opt.OUTPUT))
def ask(
    settings: Settings,
    console: Console,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MEDIA... QUESTION",
            help="Videos and images (path, URL, hf://\\[datasets/]owner/repo/path, - for stdin), then the question.",
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
    sources, questions = split_arguments(arguments or [], question or [])
    request = Request(sources, questions, settings, json_lines, is_streaming=stream is not False)
    answer(request, console)


def split_arguments(arguments: Sequence[str], questions: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return media and questions: without -q the last positional is the question.

    Raises:
        UsageError: If either is missing, or a question is empty.
    """
    sources = list(arguments)
    asked = list(questions)
    if not asked:
        if len(sources) < 2:
            raise UsageError('media and a question are needed: vllava ask clip.mp4 "What happens in this video?"')
        asked = [sources.pop()]
        if asked[0].strip() and os.path.isfile(asked[0]):
            raise UsageError(f"the last argument is the question, and {asked[0]!r} is a file: add a question")
    if not sources:
        raise UsageError('a video or image is needed: vllava ask clip.mp4 "What happens in this video?"')
    if sources.count("-") > 1:
        raise UsageError("'-' is given more than once, and stdin can be read only once")
    for text in asked:
        Turn(text)
    return tuple(sources), tuple(asked)


def answer(request: Request, console: Console) -> None:
    """Find the media, load the checkpoint while they are read, and print the answers."""
    settings = request.settings
    with MediaReader(offline=settings.offline, decode_threads=settings.decode_threads) as reader:
        clock = Clock()
        with console.status("Finding media"):
            found = [reader.find(source) for source in request.sources]
        find_seconds = clock.lap()
        checkpoint = find_checkpoint(settings)
        with BackgroundReading(reader, found, checkpoint, settings.sampling) as reading:
            kinds = [each.kind for each in found]
            engine, load_seconds = start_engine(
                settings,
                checkpoint,
                console,
                conversations=[one_question(kinds, question, settings) for question in request.questions],
                media=reading.media,
            )
            media = tuple(reading.media.result())
    tell_about_engine(engine, console)
    if len(media) > 1:
        console.notice(SEVERAL_MEDIA)
    tell_about_media(media, settings, console)
    seconds = {"read_s": find_seconds + reading.seconds, "load_s": load_seconds}
    _answer_all([Asked(question, engine, media, seconds) for question in request.questions], request, console)


class Clock:
    """Seconds since it was made or last looked at."""

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def lap(self) -> float:
        """Return the seconds since the last look."""
        last, self._last = self._last, time.perf_counter()
        return self._last - last


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """One question on its way to an answer, and the seconds that reading and loading took."""

    question: str
    engine: Engine
    media: tuple[Medium, ...]
    seconds: dict[str, float]

    @property
    def conversation(self) -> Conversation:
        """The question, about the media."""
        return one_question([medium.kind for medium in self.media], self.question, self.engine.settings)


def _answer_all(asked: Sequence[Asked], request: Request, console: Console) -> None:
    """Print the answers in the order of their questions, the first open one as it is written if it is wanted so."""
    engine, media = asked[0].engine, asked[0].media
    text = ""
    with closing(engine.stream_together([each.conversation for each in asked], media)) as chunks:
        for number, chunk in in_order(chunks):
            text += chunk.text
            if request.is_live:
                console.answer(chunk.text)
            if chunk.usage is not None:
                _end_answer(asked[number], Chunk(text, chunk.finish_reason, chunk.usage), request, console)
                text = ""


def _end_answer(asked: Asked, whole: Chunk, request: Request, console: Console) -> None:
    """Print an answer unless that was done as it came, as text or as a JSON line; and say what it took."""
    usage = whole.usage
    assert usage is not None, "the last chunk tells the usage"
    end = "" if whole.text.endswith("\n") else "\n"
    if request.is_json:
        console.answer(json.dumps(_json_line(asked, whole.text, whole.finish_reason, usage), ensure_ascii=False) + "\n")
    else:
        console.answer(end if request.is_live else whole.text + end)
        if whole.finish_reason == "length":
            context_length = asked.engine.checkpoint.context_length
            console.notice(cut_off_line(usage, context_length, "give a larger --max-new-tokens"))
    console.detail(f"{usage_line(usage)}, ended by {whole.finish_reason}")


def _json_line(asked: Asked, text: str, finish_reason: str | None, usage: Usage) -> dict[str, Any]:
    seconds = {**asked.seconds, "prefill_s": usage.prefill_seconds, "generate_s": usage.generate_seconds}
    return {
        "media": [medium.as_json() for medium in asked.media],
        "question": asked.question,
        "prompt": prompt_text(asked.conversation, asked.engine.tokenizer),
        "answer": text,
        "finish_reason": finish_reason,
        "prompt_tokens": usage.prompt_tokens,
        "cached_tokens": usage.cached_tokens,
        "new_tokens": usage.new_tokens,
        "model": asked.engine.settings.model,
        "timings": {name: round(value, 4) for name, value in seconds.items()},
    }
