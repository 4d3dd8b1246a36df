"""Prompt text to token ids with placeholders expanded, and whether they fit; knows a tokenizer, no weights."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from videollava_cli.conversation import Conversation, PromptStyle, Turn
from videollava_cli.engine.checkpoint import Checkpoint
from videollava_cli.errors import UsageError
from videollava_cli.media import MediaKind
from videollava_cli.settings import Settings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def one_question(kinds: Sequence[MediaKind], question: str, settings: Settings) -> Conversation:
    """Return a conversation of one question about media, in the prompt style of the settings."""
    style = PromptStyle(settings.prompt_style)
    return Conversation.about(kinds, (Turn(question),), system=settings.system, style=style)


def prompt_text(conversation: Conversation, tokenizer: "PreTrainedTokenizerBase") -> str:
    """Return the prompt, with the tokenizer's special tokens set apart where people wrote them."""
    return conversation.prompt(tuple(str(token) for token in tokenizer.all_special_tokens))


def prompt_ids(text: str, tokenizer: "PreTrainedTokenizerBase", checkpoint: Checkpoint) -> list[int]:
    """Return the token ids of a prompt, each placeholder repeated once per media token.

    Raises:
        UsageError: If there is no room for an answer in the context.
    """
    ids = expanded_ids(text, tokenizer, checkpoint)
    if len(ids) >= checkpoint.context_length:
        counts = {kind: ids.count(checkpoint.placeholder_id(kind)) for kind in MediaKind}
        num_media = sum(count // checkpoint.media_tokens(kind) for kind, count in counts.items())
        raise UsageError(
            f"the prompt has {len(ids):,} tokens ({sum(counts.values()):,} of them for "
            f"{num_media} media) and the context of {checkpoint.name!r} holds {checkpoint.context_length:,}: "
            f"ask about fewer media, or say less"
        )
    return ids


def expanded_ids(text: str, tokenizer: "PreTrainedTokenizerBase", checkpoint: Checkpoint) -> list[int]:
    """Return the token ids of a prompt, however many, each placeholder repeated once per media token.

    One id repeated N times after tokenizing equals N placeholder words before it, which is what
    `VideoLlavaProcessor` makes of a prompt.
    """
    repeats = {checkpoint.placeholder_id(kind): checkpoint.media_tokens(kind) for kind in MediaKind}
    encoded: list[int] = tokenizer(text, verbose=False)["input_ids"]  # its advice on long texts is not for users
    return [token for token in encoded for _ in range(repeats.get(token, 1))]
