"""Text from people: it is Unicode, or it is refused before a tokenizer meets it."""

from videollava_cli.errors import UsageError

EXCERPT = 30  # characters before and after the one that is wrong


def check_unicode(text: str, what: str) -> None:
    """Raise UsageError for text with lone surrogates: bytes that were no UTF-8, or halves of JSON's `\\uXXXX` pairs."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        excerpt = text[max(0, error.start - EXCERPT) : error.start + EXCERPT]
        raise UsageError(f"{what} is no Unicode text: {excerpt!r}; write it in UTF-8") from error
