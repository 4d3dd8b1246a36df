"""From the turns of a conversation to prompt text and token ids, in the format that the model was trained with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self

from videollava_cli.errors import UsageError
from videollava_cli.media import MediaKind
from videollava_cli.settings import Settings
from videollava_cli.text import check_unicode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SEVERAL_MEDIA = "Video-LLaVA was not trained for several media in one prompt: answers are less accurate"
PLACEHOLDERS = {MediaKind.VIDEO: "<video>", MediaKind.IMAGE: "<image>"}


class PromptStyle(StrEnum):
    """What follows a placeholder."""

    NEWLINE = "newline"  # without it the 7B ends answers with a stray letter (PKU-YuanGroup/Video-LLaVA#156)
    JOINED = "joined"


@dataclass(frozen=True, slots=True)
class Turn:
    """A question, once it was given its answer, and the media that are shown with the question."""

    question: str
    answer: str | None = None
    media: tuple[MediaKind, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.question, str) or not isinstance(self.answer, str | None):
            raise UsageError(f"a question is {self.question!r}, its answer {self.answer!r}: give texts")
        if not self.question.strip():
            raise UsageError('the question is empty: ask something, such as "What happens in this video?"')
        check_unicode(self.question, "the question")
        check_unicode(self.answer or "", "the answer")


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns and an optional system text, oldest first."""

    turns: tuple[Turn, ...]
    system: str | None = None
    style: PromptStyle = PromptStyle.NEWLINE

    def __post_init__(self) -> None:
        check_unicode(self.system or "", "the system text")

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
        """Return the conversation without its first turn, whose media are then shown with the second."""
        if len(self.turns) < 2:
            raise ValueError("the only turn cannot be left out")
        first, second, *others = self.turns
        return replace(self, turns=(replace(second, media=first.media + second.media), *others))

    def prompt(self, reserved: Sequence[str] = ()) -> str:
        """Return the prompt text: `USER: <video>\\n{q1} ASSISTANT: {a1} USER: {q2} ASSISTANT:`.

        `reserved` are the tokenizer's special tokens; where people wrote them they are set apart, to stay words.
        """
        gap = "\n" if self.style is PromptStyle.NEWLINE else ""
        parts = [set_apart(self.system, reserved)] if self.system else []
        for turn in self.turns:
            placeholders = "".join(PLACEHOLDERS[kind] + gap for kind in turn.media)
            parts.append(f"USER: {placeholders}{set_apart(turn.question.strip(), reserved)} ASSISTANT:")
            if turn.answer is not None:
                parts.append(set_apart(turn.answer.strip(), reserved))
        return " ".join(parts)


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """A prompt's text and its token ids, each placeholder repeated once per media token."""

    text: str
    token_ids: tuple[int, ...]


class PromptEncoder:
    """Turn conversations into prompts, each once: by `encode`, or by `encoded` whether or not they fit the context.

    `media_tokens` has, by a placeholder's id, how many tokens its medium takes. `name` is the checkpoint's, for errors.
    """

    def __init__(
        self, tokenizer: "PreTrainedTokenizerBase", media_tokens: Mapping[int, int], *, context_length: int, name: str
    ) -> None:
        self.tokenizer = tokenizer
        self.media_tokens = media_tokens
        self.context_length = context_length
        self.name = name
        self.encoded = lru_cache(maxsize=256)(self._encode)

    def encode(self, conversation: Conversation) -> EncodedPrompt:
        """Return a conversation's prompt; raises UsageError if it leaves no token of the context for an answer."""
        prompt = self.encoded(conversation)
        num_tokens = len(prompt.token_ids)
        if num_tokens >= self.context_length:
            counts = {token: prompt.token_ids.count(token) for token in self.media_tokens}
            num_media = sum(count // self.media_tokens[token] for token, count in counts.items())
            raise UsageError(
                f"the prompt has {num_tokens:,} tokens ({sum(counts.values()):,} of them for {num_media} media) and "
                f"the context of {self.name!r} holds {self.context_length:,}: ask about fewer media, or say less"
            )
        return prompt

    def _encode(self, conversation: Conversation) -> EncodedPrompt:
        # One id repeated N times after tokenizing equals N placeholder words before it, as VideoLlavaProcessor does it.
        text = conversation.prompt(tuple(str(token) for token in self.tokenizer.all_special_tokens))
        ids: list[int] = self.tokenizer(text, verbose=False)["input_ids"]  # its advice on long texts is not for users
        return EncodedPrompt(text, tuple(token for token in ids for _ in range(self.media_tokens.get(token, 1))))


def one_question(kinds: Sequence[MediaKind], question: str, settings: Settings) -> Conversation:
    """Return a conversation of one question about media, in the prompt style of the settings."""
    style = PromptStyle(settings.prompt_style)
    return Conversation.about(kinds, (Turn(question),), system=settings.system, style=style)


def set_apart(text: str, reserved: Sequence[str] = ()) -> str:
    """Return the text with every placeholder and reserved word broken up by a space after its first sign."""
    for word in {*PLACEHOLDERS.values(), *reserved}:
        text = text.replace(word, f"{word[0]} {word[1:]}")
    return text
