"""A conversation at the terminal or through a pipe: each line is read, done or asked, and no mistake ends it."""

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

from videollava_cli.chat.answers import Answers
from videollava_cli.chat.keeping import Keeper
from videollava_cli.chat.orders import Orders
from videollava_cli.chat.session import Session
from videollava_cli.chat.slash import Dragged, Order, Question, meaning
from videollava_cli.console import Console
from videollava_cli.engine import Chunk
from videollava_cli.errors import ExitStatus, OutputError, VllavaError


class Lines(Protocol):
    """Where lines come from."""

    def read(self, prompt: str) -> str:
        """Return the next one.

        Raises:
            EOFError: If there is none.
            KeyboardInterrupt: At Ctrl-C.
        """


@dataclass(frozen=True, slots=True)
class Outlet:
    """Where answers go, and what writes the conversation down after each line."""

    answers: Answers
    keeper: Keeper


class Talk:
    """Reads lines until there are no more.

    Args:
        session: What is talked about.
        console: The output streams.
        lines: Where lines come from.
        outlet: Where answers go.
        is_terminal: Whether a person types. Ctrl-C stops an answer then, and everything else if not.
    """

    def __init__(self, session: Session, console: Console, lines: Lines, outlet: Outlet, *, is_terminal: bool) -> None:
        self.session = session
        self.console = console
        self.lines = lines
        self.answers = outlet.answers
        self.keeper = outlet.keeper
        self.is_terminal = is_terminal
        self.orders = Orders(session, console, is_terminal=is_terminal)
        self._status = ExitStatus.ANSWERED

    def run(self) -> ExitStatus:
        """Talk.

        Returns:
            The status of the last line that failed; nothing has failed for a person, who was told.

        Raises:
            OutputError: If stdout does not take answers any more.
            KeyboardInterrupt: At Ctrl-C, unless a person types.
        """
        self.orders.welcome()
        is_going_on = True
        while is_going_on:
            try:
                is_going_on = self._next()
            finally:
                self.keeper.keep(self.session.transcript)
        return ExitStatus.ANSWERED if self.is_terminal else self._status

    def _next(self) -> bool:
        """Read a line and do what it says; return whether there may be another one."""
        try:
            line = self.lines.read(f"[{self.session.percent}%] > " if self.is_terminal else "")
        except EOFError:
            return False
        except KeyboardInterrupt:
            if not self.is_terminal:
                raise
            self.console.notice("Ctrl-D or /exit leaves; /help lists the commands")
            return True
        try:
            return self._take(line)
        except OutputError:
            raise
        except VllavaError as error:
            self.console.error(str(error))
            self._status = error.status
        except KeyboardInterrupt:
            if not self.is_terminal:
                raise
            self.console.notice("stopped")
        return True

    def _take(self, line: str) -> bool:
        """Do what a line says; return whether the conversation goes on."""
        match meaning(line):
            case Question(text):
                self._answer(text, self.session.ask(text))
            case Dragged(path):
                self.orders.show(path)
            case Order("/exit"):
                return False
            case Order("/retry"):
                self._retry()
            case Order() as order:
                self.orders.obey(order)
            case None:
                pass
        return True

    def _retry(self) -> None:
        last = self.session.turns[-1] if self.session.turns else None
        self._answer(last.question if last else "", self.session.retry())
        is_same = last is not None and self.session.turns[-1] == last
        if is_same and self.session.settings.temperature == 0:
            self.console.notice("greedy answers are always the same: /set temperature 0.7 makes them vary")

    def _answer(self, question: str, chunks: Generator[Chunk, None, None]) -> None:
        """Print an answer as it comes, and what there is to say about it."""
        before, last = self.session.turns, Chunk("")
        try:
            with closing(chunks):
                for chunk in chunks:
                    last = chunk
                    self.answers.add(chunk)
        except KeyboardInterrupt:
            self.answers.end(self.session, question)
            if not self.is_terminal:
                raise
            self.console.notice(
                "stopped: the answer stays as far as it is; /retry asks again, /undo takes it back"
                if self.session.turns is not before
                else "stopped before the first word: nothing was said"
            )
            return
        except OutputError:
            raise
        except VllavaError as error:
            self.answers.end(self.session, question, error)
            raise
        self.answers.end(self.session, question)
        self._tell_about(last)

    def _tell_about(self, last: Chunk) -> None:
        if last.usage is not None:
            self.console.detail(f"{last.usage.in_words}, ended by {last.finish_reason}")
            if last.finish_reason == "length":
                context_length = self.session.engine.checkpoint.context_length
                remedy = f"/set max_new_tokens {2 * last.usage.new_tokens} allows more"
                self.console.notice(last.usage.cut_off_notice(context_length, remedy))
        self.session.tell_of_fullness()
