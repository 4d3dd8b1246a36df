"""How the answers of a conversation reach stdout: as they are written, as one line each, or as JSON lines."""

import json
from typing import Any, Protocol

from videollava_cli.chat.lines import OneLine
from videollava_cli.chat.session import Session
from videollava_cli.console import Console
from videollava_cli.engine import Chunk
from videollava_cli.errors import VllavaError


class Answers(Protocol):
    """What takes the pieces of an answer."""

    def add(self, chunk: Chunk) -> None:
        """Take a piece."""

    def end(self, session: Session, question: str, error: VllavaError | None = None) -> None:
        """End the answer, which may have failed or been stopped."""


class LiveAnswers:
    """Answers as they are written."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._text = ""

    def add(self, chunk: Chunk) -> None:
        """Print a piece."""
        self._text += chunk.text
        self._console.answer(chunk.text)

    def end(self, _session: Session, _question: str, _error: VllavaError | None = None) -> None:
        """End the line if one was begun."""
        if self._text and not self._text.endswith("\n"):
            self._console.answer("\n")
        self._text = ""


class LineAnswers:
    """One line for each question, whatever becomes of it, so that lines in and lines out stay in step."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._line = OneLine()

    def add(self, chunk: Chunk) -> None:
        """Print a piece."""
        if text := self._line.add(chunk.text):
            self._console.answer(text)

    def end(self, _session: Session, _question: str, _error: VllavaError | None = None) -> None:
        """End the line."""
        self._console.answer("\n")
        self._line = OneLine()


class JsonAnswers:
    """One JSON object for each question, with the keys of `ask --json`; `error` where it failed, as in `batch`."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._text = ""
        self._finish_reason: str | None = None

    def add(self, chunk: Chunk) -> None:
        """Take a piece."""
        self._text += chunk.text
        self._finish_reason = chunk.finish_reason

    def end(self, session: Session, question: str, error: VllavaError | None = None) -> None:
        """Print the object."""
        line = self._failed(session, question, error) if error else self._answered(session, question)
        self._console.answer(json.dumps(line, ensure_ascii=False).encode("utf-8", "backslashreplace").decode() + "\n")
        self._text, self._finish_reason = "", None

    def _answered(self, session: Session, question: str) -> dict[str, Any]:
        given, usage = session.given, session.usage
        assert given is not None, "an answer was given to something"
        line: dict[str, Any] = {
            "media": [medium.as_json() for medium in given.media],
            "question": question,
            "prompt": session.engine.encoder.text(given.conversation),
            "answer": self._text,
            "finish_reason": self._finish_reason,
        }
        if usage is not None:
            seconds = {"prefill_s": usage.prefill_seconds, "generate_s": usage.generate_seconds}
            line |= {
                "prompt_tokens": usage.prompt_tokens,
                "cached_tokens": usage.cached_tokens,
                "new_tokens": usage.new_tokens,
                "timings": {name: round(value, 4) for name, value in seconds.items()},
            }
        return line | {"model": session.settings.model}

    def _failed(self, session: Session, question: str, error: VllavaError) -> dict[str, Any]:
        media = [session.media[source].as_json() for source in session.sources if source in session.media]
        message = " ".join(str(error).split())
        return {"media": media, "question": question, "error": {"type": type(error).__name__, "message": message}}
