"""The loop of a conversation: read a line, do what it asks for, print the answer, save; no mistake ends it."""

import os
import re
import signal
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, Literal

from videollava_cli.chat.commands import QUOTES, Commands, is_open
from videollava_cli.chat.history import Keeper
from videollava_cli.chat.session import Answer, Session
from videollava_cli.console import Console
from videollava_cli.engine import Chunk
from videollava_cli.engine.request import answer_line, error_line, json_text
from videollava_cli.engine.startup import show_prefill
from videollava_cli.errors import ExitStatus, Interrupted, OutputError, UsageError, VllavaError
from videollava_cli.process import echo_off
from videollava_cli.text import unmarked

LINE_BREAK = re.compile(r"\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*")  # what str.splitlines takes for one


@dataclass
class Repl:
    """Reads lines, and does what they ask for, until there are no more.

    The conversation is saved by `keeper`, if there is one; when turns are forgotten another conversation begins.
    `read_line` gets the prompt to show; it raises EOFError at the end and KeyboardInterrupt at Ctrl-C, which stops an
    answer if a person types (`is_terminal`), and everything else if not.
    """

    session: Session
    console: Console
    answers: "Answers"
    read_line: Callable[[str], str]
    is_terminal: bool
    keeper: Keeper | None
    _has_save_failed: bool = False
    _num_begun: int = 0

    def run(self, taken_up: str | None = None) -> ExitStatus:
        """Return the status of the last line that failed in a pipe; a person has seen the error.

        `taken_up` is the id of the conversation that goes on.

        Raises OutputError if stdout takes no more answers, UsageError if stdin cannot be read, and Ctrl-C in a pipe.
        """
        status = ExitStatus.ANSWERED
        commands = Commands(self.session, self.console, is_terminal=self.is_terminal)
        commands.welcome(taken_up)
        self._num_begun = self.session.num_begun
        try:
            while not commands.has_ended:
                try:
                    line = self.read_line(f"[{self.session.percent}%] > " if self.is_terminal else "")
                except EOFError:
                    break
                except KeyboardInterrupt as interrupt:
                    if self._ends(interrupt):
                        raise
                    self.console.notice("Ctrl-D or /exit leaves; /help lists the commands")
                    continue
                try:
                    if asked := commands.run(line):
                        self._answer(*asked)
                except OutputError:
                    raise
                except VllavaError as error:
                    self.console.error(str(error))
                    status = error.status
                except KeyboardInterrupt as interrupt:
                    if self._ends(interrupt):
                        raise
                    self.console.notice("stopped")
                self._save()
        finally:
            self._save()
        return ExitStatus.ANSWERED if self.is_terminal else status

    def _answer(self, question: str, chunks: Answer) -> None:
        session, before, last = self.session, self.session.turns, Chunk("")
        try:
            with echo_off(), closing(show_prefill(chunks, session.engine, self.console)) as shown:
                for last in shown:
                    self.answers.add(last)
        except KeyboardInterrupt as interrupt:
            self.answers.end(session, question)
            if self._ends(interrupt):
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
        if last.usage is not None:
            self.console.detail(f"{last.usage.in_words}, ended by {last.finish_reason}")
            if last.finish_reason == "length":
                remedy = f"/set max_new_tokens {2 * last.usage.new_tokens} allows more"
                self.console.notice(last.usage.cut_off_notice(session.context_length, remedy))
        session.warn_when_full()
        if session.turns == before and session.settings.is_greedy:  # only /retry leaves as many turns
            self.console.notice("greedy answers are always the same: /set temperature 0.7 makes them vary")

    def _ends(self, interrupt: KeyboardInterrupt) -> bool:
        return not self.is_terminal or isinstance(interrupt, Interrupted)

    def _save(self) -> None:
        if self.keeper is None:
            return
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C meanwhile does nothing
        try:
            if self.session.num_begun != self._num_begun:
                self.keeper.begin()
                self._num_begun = self.session.num_begun
            self.keeper.keep(self.session.transcript)
        except OutputError as error:
            if not self._has_save_failed:
                self.console.error(str(error))
            self._has_save_failed = True
        else:
            self._has_save_failed = False
        finally:
            signal.signal(signal.SIGINT, before)


def read_piped(stream: BinaryIO, _prompt: str = "") -> str:
    """Return the next line, or lines between three quotes as one; bytes that are no UTF-8 stand as surrogates.

    Raises EOFError at the end, UsageError if the stream cannot be read.
    """
    lines: list[str] = []
    while not lines or is_open("\n".join(lines)):
        try:
            line = stream.readline()
        except OSError as error:  # such as a stdin that is open for writing only
            raise UsageError(f"cannot read questions from stdin: {error.strerror or error}") from error
        if not line and not lines:
            raise EOFError
        lines.append(os.fsdecode(unmarked(line, "the text on stdin")).rstrip("\r\n") if line else QUOTES)
    return "\n".join(lines)


class Answers:
    """Prints answers: live, as they come; or a line each; or a JSON object each.

    A line for each question, even one that fails, keeps lines in and lines out in step: line breaks in an answer, and
    the blanks around them, become one space. A JSON object has the keys of `ask --json`, or `error` as in `batch`.
    """

    def __init__(self, console: Console, form: Literal["live", "line", "json"]) -> None:
        self._console = console
        self._form = form
        self._chunks: list[Chunk] = []
        self._blanks = ""  # that end the answer so far; those at the end of a line are not printed
        self._last_printed = ""

    def add(self, chunk: Chunk) -> None:
        """Take a piece of an answer, and print as much as can be printed now."""
        self._chunks.append(chunk)
        if self._form == "json":
            return
        text = self._blanks + chunk.text
        if self._form == "line":
            words = text.rstrip()
            self._blanks = text[len(words) :]
            text = LINE_BREAK.sub(" ", words if self._last_printed else words.lstrip())
        if text:
            self._console.answer(text)
            self._last_printed = text

    def end(self, session: Session, question: str, error: VllavaError | None = None) -> None:
        """End the answer, which may have failed or been stopped."""
        if self._form == "json":
            self._console.answer(json_text(_record(session, question, self._chunks, error)))
        elif self._form == "line" or (self._last_printed and not self._last_printed.endswith("\n")):
            self._console.answer("\n")
        self._chunks, self._blanks, self._last_printed = [], "", ""


def _record(session: Session, question: str, chunks: list[Chunk], error: VllavaError | None) -> dict[str, Any]:
    if error is not None:
        shown = [session.media[each].as_json() for each in session.shown if each in session.media]
        return error_line(shown, question, error)
    assert session.prompted is not None
    conversation, media = session.prompted
    text, prompt = "".join(chunk.text for chunk in chunks), session.engine.encoder.encoded(conversation).text
    answer = replace(chunks[-1] if chunks else Chunk(""), text=text, prompt=prompt)
    return answer_line(media, question, answer, model=session.settings.model, seconds={})
