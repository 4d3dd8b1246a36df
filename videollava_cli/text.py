"""Text from people and their files: Unicode, in UTF-8, or one line that says what is wrong with it."""

import codecs
from collections.abc import Callable
from typing import Any

from videollava_cli.errors import UsageError

EXCERPT = 30  # characters before and after the one that is wrong
WIDE_MARKS = {  # UTF-32 first: its mark in little-endian order begins with that of UTF-16
    **dict.fromkeys((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE), "UTF-32"),
    **dict.fromkeys((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE), "UTF-16"),
}


def check_unicode(text: str, what: str) -> None:
    """Raise UsageError for text with lone surrogates: bytes that were no UTF-8, or halves of JSON's `\\uXXXX` pairs."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        excerpt = text[max(0, error.start - EXCERPT) : error.start + EXCERPT]
        raise UsageError(f"{what} is no Unicode text: {excerpt!r}; write it in UTF-8") from error


def unmarked(content: bytes, what: str, *, is_null_separated: bool = False) -> bytes:
    """Return bytes without the byte order mark that editors of other systems write; raises UsageError for UTF-16.

    Without a mark, UTF-16 shows in the zeros beside its letters, unless zeros separate the names of a list.
    """
    encoding = next((name for mark, name in WIDE_MARKS.items() if content.startswith(mark)), None)
    if encoding is None and not is_null_separated and 0 in content[:2]:
        encoding = "UTF-32" if content[:4].count(0) == 3 else "UTF-16"
    if encoding:
        raise UsageError(f"{what} is {encoding}: save it as UTF-8")
    return content.removeprefix(codecs.BOM_UTF8)


def decoded(content: bytes, what: str) -> str:
    """Return UTF-8 as text, without a byte order mark; raises UsageError for any other encoding."""
    try:
        return unmarked(content, what).decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{what} is not UTF-8 at byte {error.start + 1}: save it as UTF-8") from error


def parsed(parse: Callable[[Any], Any], content: str | bytes) -> Any:
    """Return what a parser of JSON or TOML makes of its content; raises ValueError, whose message is for users."""
    try:
        return parse(content)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except ValueError as error:
        if type(error) is not ValueError:  # a JSONDecodeError or its like, which names the place
            raise
        raise ValueError("a number in it has too many digits") from error  # Python's int() takes 4,300
