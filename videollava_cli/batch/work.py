"""The work list of a batch: which questions about which media, and the part of it that one machine does."""

import hashlib
import json
import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import groupby
from typing import Any, Self, TypeVar

from videollava_cli.errors import UsageError
from videollava_cli.media import MEDIA_SUFFIXES
from videollava_cli.reader.urls import local_path, shown_name, without_logins
from videollava_cli.text import decoded, parsed, unmarked

Entry = TypeVar("Entry", list[Any], dict[str, Any])

STDIN = "-"
ENTERED_BEFORE = "entered before"  # why a folder is not searched once more
JSON_ARRAY = re.compile(r"\s*\[\s*[]\[{\"]")  # a question may begin with a bracket, too: "[1] What happens?"


@dataclass(frozen=True, slots=True)
class Item:
    """One question about one medium. `id` is the medium's name unless the user gave one.

    `is_named` is False for a file that a folder holds: it may be no medium at all. `stamp` is a local file's size in
    bytes and time of modification in microseconds, `resolved` its absolute path without links. `problem` says why a
    folder that stands for its files cannot be searched.
    """

    id: str | int
    path: str
    question: str
    is_named: bool = True
    stamp: tuple[int, int] | None = None
    resolved: str | None = None
    problem: str | None = None

    @property
    def name(self) -> str:
        """The path as it is written down: without a URL's user and password."""
        return shown_name(self.path)


@dataclass(frozen=True, slots=True)
class Shard:
    """One of `count` parts of a work list, counted from 1.

    A hash of its path, as it is named, assigns a medium with all its questions to a part: so adding or removing
    others moves none, and machines that name the files alike agree without asking each other.
    """

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the shard that `2/8` names; raises UsageError if it names none."""
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text.strip())
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise UsageError(f"shard is {text!r}: give I/N with I from 1 to N, such as 2/8")
        return cls(int(match[1]), int(match[2]))

    def holds(self, path: str) -> bool:
        """Return whether a medium belongs to this part."""
        digest = hashlib.blake2b(path.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return int.from_bytes(digest, "big") % self.count == self.number - 1


def find_items(
    paths: Iterable[str], questions: Sequence[str], patterns: Sequence[str] = ()
) -> tuple[list[Item], list[str]]:
    """Return an item for every question about every path, each folder replaced by the files below it, sorted by name.

    Hidden files are passed over unless they are named. Links are followed, and each folder is entered once. `patterns`
    are for files in folders: one with a slash is matched against the path from the folder on, another against the name.
    A folder that cannot be searched becomes an item itself. Also return the paths of folders where nothing was found.
    """
    found: list[Item] = []
    fruitless = []
    entered: set[tuple[int, int]] = set()
    for path in map(local_path, paths):
        folder = os.path.expanduser(path)
        if "://" in path or not os.path.isdir(folder):
            found += (Item(shown_name(path), path, question) for question in questions)
            continue
        is_fruitless = True
        for name, problem in _names_below(folder, entered):
            if problem is None and not _matches(name, patterns):
                continue
            is_fruitless = False
            if problem != ENTERED_BEFORE:
                below = os.path.join(path, name) if name else path
                is_named = problem is not None
                found += (Item(below, below, question, is_named, problem=problem) for question in questions)
        if is_fruitless:
            fruitless.append(path)
    return found, fruitless


def _matches(name: str, patterns: Sequence[str]) -> bool:
    base = os.path.basename(name)
    return not patterns or any(fnmatchcase(name if "/" in each else base, each) for each in patterns)


def may_be_no_medium(item: Item) -> bool:
    """Return whether an item is about a file in a folder whose name is not like a medium's, and that can be read."""
    is_media_name = item.path.lower().endswith(MEDIA_SUFFIXES)
    return not item.is_named and not is_media_name and os.access(os.path.expanduser(item.path), os.R_OK)


def without_repetitions(items: Iterable[Item]) -> tuple[list[Item], int]:
    """Return each item once, and how many were repeated; raises UsageError if two media share an id and a question.

    An item without an id of its own is repeated by one about the same file under another name.
    """
    kept: dict[tuple[str | int, str], Item] = {}
    by_file: dict[tuple[str, str], Item] = {}
    num_items = 0
    for item in items:
        num_items += 1
        if item.id == item.name and item.resolved:
            first = by_file.setdefault((item.resolved, item.question), item)
            if first.path != item.path:
                continue
        other = kept.setdefault((item.id, item.question), item)
        if other.name != item.name and (other.resolved is None or other.resolved != item.resolved):
            paths = f"{other.name!r} and {item.name!r}"
            raise UsageError(f"the id {item.id!r} is given to two media, {paths}: give each its own")
    return list(kept.values()), num_items - len(kept)


def with_stamps(items: Sequence[Item]) -> list[Item]:
    """Return the items with their files' sizes, times and resolved paths, looked up once a medium."""
    stamps = {path: file_stamp(path) for path in dict.fromkeys(item.path for item in items)}
    folders: dict[str, str] = {}
    resolved = {path: _resolved(path, folders) for path, stamp in stamps.items() if stamp}
    return [replace(item, stamp=stamps[item.path], resolved=resolved.get(item.path)) for item in items]


def file_stamp(path: str) -> tuple[int, int] | None:
    """Return a file's size in bytes and time of modification in microseconds; None if there is no regular file."""
    try:
        found = os.stat(os.path.expanduser(path))
    except (OSError, ValueError):
        return None
    # Microseconds: nanoseconds since 1970 are beyond the integers that every reader of JSON holds exactly.
    return (found.st_size, found.st_mtime_ns // 1000) if stat.S_ISREG(found.st_mode) else None


def _resolved(path: str, folders: dict[str, str]) -> str:
    """Return the absolute path of a file without links; `folders` remembers those of folders, which hold many files."""
    folder, name = os.path.split(os.path.expanduser(path))
    if folder not in folders:
        folders[folder] = os.path.realpath(folder)
    resolved = os.path.join(folders[folder], name)
    return os.path.realpath(resolved) if os.path.islink(resolved) else resolved


def by_medium(items: Iterable[Item]) -> Iterator[tuple[Item, ...]]:
    """Yield neighbours about the same medium together: it is read once for all of them."""
    for _, about_it in groupby(items, key=lambda item: item.path):
        yield tuple(about_it)


def read_list(name: str, *, is_null_separated: bool) -> list[str]:
    """Return the paths that a file, or stdin for `-`, lists one a line, or NUL-separated as with `find -print0`."""
    what = f"the list {name!r}"
    content = unmarked(_content(name), what, is_null_separated=is_null_separated)
    if is_null_separated:
        return [os.fsdecode(path) for path in content.split(b"\0") if path]
    if b"\0" in content:
        raise UsageError(f"{what} holds NUL bytes: add -0 if they end the paths")
    return [os.fsdecode(path) for line in content.split(b"\n") if (path := line.removesuffix(b"\r"))]


def read_questions(name: str) -> list[str] | list[Item]:
    r"""Return the questions in a file: one a line, or items when its lines are JSON objects; or a JSON array of either.

    An item is `{"path": "a.mp4", "question": "What happens?", "id": 7}`; without an id the path is it, and other keys
    are ignored, so that the lines of --dry-run can be asked.
    """
    text = decoded(_content(name), f"the list of questions {name!r}")
    if JSON_ARRAY.match(text):
        entries = enumerate(_json(repr(name), text, list), 1)
        found: list[tuple[str, Any]] = [(f"item {number} of {name!r}", entry) for number, entry in entries]
    else:
        lines = enumerate(text.split("\n"), 1)
        found = [(f"line {number} of {name!r}", line.strip()) for number, line in lines if line.strip()]
        if text.lstrip().startswith("{"):
            found = [(where, _json(where, line, dict)) for where, line in found]
    if not found:
        raise UsageError(f"there is no question in {name!r}: write one a line")
    if not isinstance(found[0][1], str):
        return [_item(where, entry) for where, entry in found]
    for where, entry in found:
        if not isinstance(entry, str):
            raise UsageError(f"{where} is no question, as those before it are: {entry!r:.40}")
    return [entry.strip() for _, entry in found]


def _json(where: str, text: str, kind: type[Entry]) -> Entry:
    name = "array" if kind is list else "object"
    try:
        entry = parsed(json.loads, text)
    except ValueError as error:
        raise UsageError(f"{where} is no JSON {name}: {error}") from error
    if not isinstance(entry, kind):
        raise UsageError(f"{where} is no JSON {name}: {without_logins(text)[:40]!r}")
    return entry


def _item(where: str, entry: object) -> Item:
    if not isinstance(entry, dict):
        raise UsageError(f"{where} is no JSON object: {without_logins(repr(entry))[:40]}")
    path, question = (_text(entry, key, where) for key in ("path", "question"))
    path = local_path(path)
    item_id = entry.get("id", shown_name(path))
    if not isinstance(item_id, str | int) or isinstance(item_id, bool):
        raise UsageError(f"the id on {where} is {item_id!r}: give a text or a whole number")
    return Item(without_logins(item_id) if isinstance(item_id, str) else item_id, path, question)


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


def _names_below(folder: str, entered: set[tuple[int, int]], prefix: str = "") -> Iterator[tuple[str, str | None]]:
    """Yield the name of each file below a folder, and None; of a folder that is not searched, and why."""
    try:
        found = os.stat(folder)
        if (found.st_dev, found.st_ino) in entered:
            yield prefix.rstrip("/"), ENTERED_BEFORE
            return
        entered.add((found.st_dev, found.st_ino))
        with os.scandir(folder) as entries:
            visible = sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: os.fsencode(e.name))
            # `isdir` takes a link to itself for none, where `is_dir` fails.
            folders = {e.name for e in visible if (os.path.isdir(e.path) if e.is_symlink() else e.is_dir())}
    except OSError as error:
        yield prefix.rstrip("/"), error.strerror
        return
    for entry in visible:
        if entry.name in folders:
            yield from _names_below(entry.path, entered, f"{prefix}{entry.name}/")
        elif entry.is_symlink() or entry.is_file():  # a link to nowhere fails when it is read
            yield prefix + entry.name, None
