"""Turns of a conversation to the prompt text; knows the model's format, nothing of tokens or pixels."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Self

from videollava_cli.errors import UsageError
from videollava_cli.media import MediaKind

SEVERAL_MEDIA = "Video-LLaVA was not trained for several media in one prompt: answers are less accurate"
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
    """A question, once it was given its answer, and the media that are shown with the question."""

    question: str
    answer: str | None = None
    media: tuple[MediaKind, ...] = ()

    def __post_init__(self) -> None:
        if not self.question.strip():
            raise UsageError('the question is empty: ask something, such as "What happens in this video?"')


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns and an optional system text, in the order in which they are said."""

    turns: tuple[Turn, ...]
    system: str | None = None
    style: PromptStyle = PromptStyle.NEWLINE

    @classmethod
    def about(cls, media: Sequence[MediaKind], turns: Sequence[Turn], **options: Any) -> Self:
        """Return a conversation whose media are all shown with the first turn; `options` are the other fields."""
        first, *others = turns
        return cls((replace(first, media=(*media, *first.media)), *others), **options)

    @property
    def media(self) -> tuple[MediaKind, ...]:
        """What all placeholders stand for, in their order."""
        return tuple(kind for turn in self.turns for kind in turn.media)

    def without_oldest_turn(self) -> Self:
        """Return the conversation without its first turn, whose media are then shown with the second.

        Raises:
            ValueError: If there is no second turn.
        """
        if len(self.turns) < 2:
            raise ValueError("the only turn cannot be left out")
        first, second, *others = self.turns
        return replace(self, turns=(replace(second, media=first.media + second.media), *others))

    def prompt(self, reserved: Sequence[str] = ()) -> str:
        """Return the prompt text: `USER: <video>\\n{q1} ASSISTANT: {a1} USER: {q2} ASSISTANT:`.

        Args:
            reserved: Words that the tokenizer would take for special tokens; where people wrote them in their
                own text they are set apart, `< video>`, so that they stay words.
        """
        gap = "\n" if self.style is PromptStyle.NEWLINE else ""
        parts = [set_apart(self.system, reserved)] if self.system else []
        for turn in self.turns:
            placeholders = "".join(PLACEHOLDERS[kind] + gap for kind in turn.media)
            parts.append(f"USER: {placeholders}{set_apart(turn.question.strip(), reserved)} ASSISTANT:")
            if turn.answer is not None:
                parts.append(set_apart(turn.answer.strip(), reserved))
        return " ".join(parts)


def set_apart(text: str, reserved: Sequence[str] = ()) -> str:
    """Return the text with every placeholder and reserved word broken up by a space after its first sign."""
    for word in {*PLACEHOLDERS.values(), *reserved}:
        text = text.replace(word, f"{word[0]} {word[1:]}")
    return text
