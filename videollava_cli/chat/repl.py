"""The loop of a conversation: read a line, do what it asks for, print the answer, save; no mistake ends it."""

import os
import re
import signal
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from videollava_cli.chat.commands import QUOTES, Commands, is_open
from videollava_cli.chat.session import Session
from videollava_cli.chat.transcript import Transcript, write_transcript
from videollava_cli.console import Console
from videollava_cli.engine import Chunk
from videollava_cli.engine.request import answer_line, error_line, json_text
from videollava_cli.errors import ExitStatus, OutputError, UsageError, VllavaError

LINE_BREAK = re.compile(r"\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*")  # what str.splitlines takes for one
UTF8_MARK = "\ufeff"  # what some editors put at the beginning of a file


@dataclass
class Repl:
    """Reads lines, and does what they ask for, until there are no more.

    `read_line` gets the prompt to show; it raises EOFError at the end and KeyboardInterrupt at Ctrl-C. `is_terminal`
    says whether a person types: Ctrl-C stops an answer then, and everything else if not.
    """

    session: Session
    console: Console
    read_line: Callable[[str], str]
    answers: "Answers"
    autosave: "Autosave"
    is_terminal: bool

    def __post_init__(self) -> None:
        self.commands = Commands(self.session, self.console, is_terminal=self.is_terminal)

    def run(self) -> ExitStatus:
        """Return the status of the last line that failed in a pipe; a person has seen the error.

        What ends a conversation is raised: a stdout that takes no answers any more, a stdin that cannot be read, Ctrl-C
        in a pipe.
        """
        status = ExitStatus.ANSWERED
        self.commands.welcome()
        try:
            while not self.commands.has_ended:
                try:
                    line = self.read_line(f"[{self.session.percent}%] > " if self.is_terminal else "")
                except EOFError:
                    break
                except KeyboardInterrupt:
                    if not self.is_terminal:
                        raise
                    self.console.notice("Ctrl-D or /exit leaves; /help lists the commands")
                    continue
                try:
                    if asked := self.commands.run(line):
                        self._answer(*asked)
                except OutputError:
                    raise
                except VllavaError as error:
                    self.console.error(str(error))
                    status = error.status
                except KeyboardInterrupt:
                    if not self.is_terminal:
                        raise
                    self.console.notice("stopped")
                self.autosave.save(self.session.transcript)
        finally:
            self.autosave.save(self.session.transcript)
        return ExitStatus.ANSWERED if self.is_terminal else status

    def _answer(self, question: str, chunks: Generator[Chunk, None, None]) -> None:
        """Print an answer as it comes."""
        session, before, last = self.session, self.session.turns, Chunk("")
        try:
            with closing(chunks):
                for chunk in chunks:
                    last = chunk
                    self.answers.add(chunk)
        except KeyboardInterrupt:
            self.answers.end(session, question)
            if not self.is_terminal:
                raise
            self.console.notice(
                "stopped before the first word: nothing was said"
                if session.turns is before
                else "stopped: the answer stays as far as it is; /retry asks again, /undo takes it back"
            )
            return
        except OutputError:
            raise
        except VllavaError as error:
            self.answers.end(session, question, error)
            raise
        self.answers.end(session, question)
        self._comment(last)
        if session.turns == before and session.settings.temperature == 0:  # only /retry leaves as many turns
            self.console.notice("greedy answers are always the same: /set temperature 0.7 makes them vary")

    def _comment(self, last: Chunk) -> None:
        """Show what an answer took, and warn when it was cut off or the context is almost full."""
        if last.usage is not None:
            self.console.detail(f"{last.usage.in_words}, ended by {last.finish_reason}")
            if last.finish_reason == "length":
                context_length = self.session.engine.checkpoint.context_length
                remedy = f"/set max_new_tokens {2 * last.usage.new_tokens} allows more"
                self.console.notice(last.usage.cut_off_notice(context_length, remedy))
        self.session.warn_when_full()


class PipedLines:
    """The lines of a stream, those between three quotes together as one.

    Bytes that are no UTF-8 stand as surrogates, as they do in paths.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def read(self, _prompt: str) -> str:
        """Return the next line; raises EOFError at the end, UsageError if the stream cannot be read."""
        text = self._line()
        while is_open(text):
            try:
                text += "\n" + self._line()
            except EOFError:
                return f"{text}\n{QUOTES}"
        return text

    def _line(self) -> str:
        try:
            line = self._stream.readline()
        except OSError as error:  # such as a stdin that is open for writing only
            raise UsageError(f"cannot read questions from stdin: {error.strerror or error}") from error
        if not line:
            raise EOFError
        return os.fsdecode(line).removeprefix(UTF8_MARK).rstrip("\r\n")


class Answers:
    """Prints answers: live, as they come; or a line each; or a JSON object each.

    A line for each question, even one that fails, keeps lines in and lines out in step: line breaks in an answer, and
    the blanks around them, become one space. A JSON object has the keys of `ask --json`, or `error` as in `batch`.
    """

    def __init__(self, console: Console, form: Literal["live", "line", "json"]) -> None:
        self._console = console
        self._form = form
        self._chunks: list[Chunk] = []
        self._printed = ""

    def add(self, chunk: Chunk) -> None:
        """Take a piece of an answer, and print as much as can be printed now."""
        self._chunks.append(chunk)
        if self._form == "live":
            self._print(self._text)
        elif self._form == "line":
            self._print(LINE_BREAK.sub(" ", self._text.strip()))

    def end(self, session: Session, question: str, error: VllavaError | None = None) -> None:
        """End the answer, which may have failed or been stopped."""
        if self._form == "json":
            self._console.answer(json_text(_record(session, question, self._chunks, error)))
        elif self._form == "line" or (self._printed and not self._printed.endswith("\n")):
            self._console.answer("\n")
        self._chunks, self._printed = [], ""

    @property
    def _text(self) -> str:
        return "".join(chunk.text for chunk in self._chunks)

    def _print(self, text: str) -> None:
        """Print what the text adds to what was printed before."""
        if len(text) > len(self._printed):
            self._console.answer(text[len(self._printed) :])
            self._printed = text


def _record(session: Session, question: str, chunks: list[Chunk], error: VllavaError | None) -> dict[str, Any]:
    if error is not None:
        shown = [session.media[each].as_json() for each in session.shown if each in session.media]
        return error_line(shown, question, error)
    assert session.prompted is not None
    conversation, media = session.prompted
    answer = Chunk(
        text="".join(chunk.text for chunk in chunks),
        finish_reason=chunks[-1].finish_reason if chunks else None,
        usage=session.usage,
        prompt=session.engine.encoder.encoded(conversation).text,
    )
    return answer_line(media, question, answer, model=session.settings.model, seconds={})


class Autosave:
    """Saves a conversation whenever it has changed, to a file unless `path` is None.

    `saved` is what the file holds, if this conversation continues it. That saving failed is shown once.
    """

    def __init__(self, path: Path | None, saved: Transcript | None, console: Console) -> None:
        self._path = path
        self._saved = saved
        self._console = console
        self._has_failed = False

    def save(self, transcript: Transcript) -> None:
        """Save the conversation; one without a turn does not replace another one."""
        has_begun = bool(transcript.turns) or self._saved is not None
        if self._path is None or transcript == self._saved or not has_begun:
            return
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C meanwhile does nothing
        try:
            write_transcript(transcript, self._path)
        except OutputError as error:
            if not self._has_failed:
                self._console.error(str(error))
            self._has_failed = True
        else:
            self._saved, self._has_failed = transcript, False
        finally:
            signal.signal(signal.SIGINT, before)
