"""Turns of a conversation to the prompt text; knows the model's format, nothing of tokens or pixels."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from videollava_cli.errors import UsageError
from videollava_cli.media import MediaKind

PLACEHOLDERS = {MediaKind.VIDEO: "<video>", MediaKind.IMAGE: "<image>"}


class PromptStyle(StrEnum):
    """What follows a placeholder.

    Without the newline the 7B ends answers with a stray letter (PKU-YuanGroup/Video-LLaVA#156); older
    documentation of the model leaves it out.
    """

    NEWLINE = "newline"
    JOINED = "joined"


@dataclass(frozen=True, slots=True)
class Turn:
    """A question and, once it was given, its answer."""

    question: str
    answer: str | None = None

    def __post_init__(self) -> None:
        if not self.question.strip():
            raise UsageError('the question is empty: ask something, such as "What happens in this video?"')


@dataclass(frozen=True, slots=True)
class Conversation:
    """Media, turns and an optional system text, in the order in which they are said."""

    media: tuple[MediaKind, ...]
    turns: tuple[Turn, ...]
    system: str | None = None
    style: PromptStyle = PromptStyle.NEWLINE

    def prompt(self, reserved: Sequence[str] = ()) -> str:
        """Return the prompt text: `USER: <video>\\n{q1} ASSISTANT: {a1} USER: {q2} ASSISTANT:`.

        Args:
            reserved: Words that the tokenizer would take for special tokens; where people wrote them in their
                own text they are set apart, `< video>`, so that they stay words.
        """
        gap = "\n" if self.style is PromptStyle.NEWLINE else ""
        placeholders = "".join(PLACEHOLDERS[kind] + gap for kind in self.media)
        parts = [set_apart(self.system, reserved)] if self.system else []
        for number, turn in enumerate(self.turns):
            question = set_apart(turn.question.strip(), reserved)
            parts.append(f"USER: {placeholders if number == 0 else ''}{question} ASSISTANT:")
            if turn.answer is not None:
                parts.append(set_apart(turn.answer.strip(), reserved))
        return " ".join(parts)


def set_apart(text: str, reserved: Sequence[str] = ()) -> str:
    """Return the text with every placeholder and reserved word broken up by a space after its first sign."""
    for word in {*PLACEHOLDERS.values(), *reserved}:
        text = text.replace(word, f"{word[0]} {word[1:]}")
    return text
