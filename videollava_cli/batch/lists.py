"""Files that name media and questions; knows their formats, nothing of the media."""

import json
import os
import sys
from collections.abc import Iterator
from typing import Any

from videollava_cli.batch import Item, Source
from videollava_cli.errors import UsageError

STDIN = "-"
BYTE_ORDER_MARK = "\ufeff"


def read_list(name: str, *, is_null_separated: bool) -> list[str]:
    """Return the paths that a file or stdin lists, empty ones left out.

    Args:
        name: The file, or `-`.
        is_null_separated: Whether NUL ends a path, as with `find -print0`, and not the end of a line.

    Raises:
        UsageError: If it cannot be read, or is NUL-separated and nobody said so.
    """
    content = _content(name)
    if is_null_separated:
        return [os.fsdecode(path) for path in content.split(b"\0") if path]
    if b"\0" in content:
        raise UsageError(f"the list {name!r} holds NUL bytes: add -0 if they end the paths")
    return [os.fsdecode(path) for line in content.split(b"\n") if (path := line.removesuffix(b"\r"))]


def read_questions(name: str) -> list[str] | list[Item]:
    r"""Return the questions in a file: one a line, or items when its lines are JSON objects.

    A line is `{"path": "a.mp4", "question": "What happens?", "id": 7}`; without an id the path is it, and other keys
    are ignored, so that what --dry-run prints can be asked.

    Raises:
        UsageError: If it cannot be read, has no question, or a line lacks what it needs.
    """
    try:
        text = _content(name).decode("utf-8").removeprefix(BYTE_ORDER_MARK)
    except UnicodeDecodeError as error:
        raise UsageError(f"the questions in {name!r} are not UTF-8: {error.reason} at byte {error.start}") from error
    numbered = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not numbered:
        raise UsageError(f"there is no question in {name!r}: write one a line")
    if numbered[0][1].startswith("{"):
        return list(_items(name, numbered))
    return [line for _, line in numbered]


def _items(name: str, numbered: list[tuple[int, str]]) -> Iterator[Item]:
    for number, line in numbered:
        where = f"line {number} of {name!r}"
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise UsageError(f"{where} is no JSON object: {error}") from error
        if not isinstance(entry, dict):
            raise UsageError(f"{where} is no JSON object: {line[:40]!r}")
        path, question = (_text(entry, key, where) for key in ("path", "question"))
        known_as = entry.get("id", path)
        if not isinstance(known_as, str | int) or isinstance(known_as, bool):
            raise UsageError(f"the id on {where} is {known_as!r}: give a text or a whole number")
        yield Item(known_as, Source(path), question)


def _text(entry: dict[str, Any], key: str, where: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value.strip():
        raise UsageError(f'{where} has no {key}: write {{"path": "a.mp4", "question": "What happens?"}}')
    return value


def _content(name: str) -> bytes:
    try:
        if name != STDIN:
            with open(os.path.expanduser(name), "rb") as file:
                return file.read()
        if sys.stdin is None:
            raise UsageError("'-' reads a list from stdin, and stdin is closed: pipe a list into it")
        return sys.stdin.buffer.read()
    except OSError as error:
        raise UsageError(f"cannot read {name!r}: {error.strerror or error}") from error
