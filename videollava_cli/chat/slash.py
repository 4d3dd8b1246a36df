"""What a typed line means: a question, a slash command, or a medium dragged into the terminal; does none of it."""

import os
import re
import shlex
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote, urlsplit

from videollava_cli.errors import UsageError
from videollava_cli.settings import closest

QUOTES = '"""'  # around a question of several lines
COMMAND = re.compile(r"/[^\s/.\\]*(?=\s|$)")

Needs = Literal["nothing", "something", "anything"]


@dataclass(frozen=True, slots=True)
class SlashCommand:
    """A command, what stands after it, whether that must be there, and what it does."""

    name: str
    argument: str
    needs: Needs
    help: str

    @property
    def usage(self) -> str:
        """The command as it is typed."""
        return f"{self.name} {self.argument}".strip()


COMMANDS = (
    SlashCommand("/video", "PATH", "something", "show a video (path or URL) with the next question"),
    SlashCommand("/image", "PATH", "something", "show an image with the next question"),
    SlashCommand("/media", "", "nothing", "list what was shown"),
    SlashCommand("/frames", "", "nothing", "what the model sees of it"),
    SlashCommand("/clear", "", "nothing", "forget the turns, keep the media"),
    SlashCommand("/reset", "", "nothing", "forget turns and media"),
    SlashCommand("/retry", "", "nothing", "answer the last question once more, sampled answers with the next seed"),
    SlashCommand("/undo", "", "nothing", "take back what came last: an unused medium, else a question and its answer"),
    SlashCommand("/set", "[KEY VALUE]", "anything", "change a setting, or list them; the value none unsets one"),
    SlashCommand("/system", "[TEXT]", "anything", "set the text before the conversation, or show it; none removes it"),
    SlashCommand("/save", "FILE", "something", "write the conversation to a file"),
    SlashCommand("/load", "FILE", "something", "go on with a conversation that was saved"),
    SlashCommand("/stats", "", "nothing", "tokens used of the context, cached, tokens/s"),
    SlashCommand("/help", "", "nothing", "list the commands"),
    SlashCommand("/exit", "", "nothing", "leave; Ctrl-D does, too"),
)
BY_NAME = {command.name: command for command in COMMANDS}
PATH_COMMANDS = ("/video", "/image", "/load", "/save")


@dataclass(frozen=True, slots=True)
class Question:
    """A line that is asked."""

    text: str


@dataclass(frozen=True, slots=True)
class Order:
    """A line that is a slash command, and what stands after it."""

    command: str
    argument: str


@dataclass(frozen=True, slots=True)
class Dragged:
    """A line that is nothing but the path of a file that is there."""

    path: str


def meaning(line: str) -> Question | Order | Dragged | None:
    r"""Return what a line means; None if it is blank.

    What stands between three quotes is a question, whatever it looks like. Then come slash commands, then paths of
    files that are there; every other line is a question.

    Raises:
        UsageError: If it looks like a command and is none, or has too much or too little after it.
    """
    text = line.strip()
    if not text:
        return None
    if text.startswith(QUOTES):
        return _question(text.removeprefix(QUOTES).removesuffix(QUOTES).strip("\n"))
    found = COMMAND.match(text)
    if found and found[0] in BY_NAME:
        return _order(BY_NAME[found[0]], text[found.end() :].strip())
    path = to_path(text)
    with suppress(ValueError):  # no path has a NUL
        if os.path.isfile(os.path.expanduser(path)):
            return Dragged(path)
    if found:
        raise UsageError(f"no command {found[0]!r}{closest(found[0], BY_NAME) or ':'} /help lists them")
    return _question(text)


def _question(text: str) -> Question:
    return Question(text.encode("utf-8", "replace").decode())  # surrogates are no text


def _order(command: SlashCommand, argument: str) -> Order:
    if command.needs == "something" and not argument:
        raise UsageError(f"{command.name} needs something after it: {command.usage}")
    if command.needs == "nothing" and argument:
        raise UsageError(f"{command.name} takes nothing after it, and there is {argument!r}")
    return Order(command.name, argument)


def is_open(text: str) -> bool:
    """Return whether a question in three quotes has begun and not ended."""
    begun = text.lstrip()
    return begun.startswith(QUOTES) and not begun.removeprefix(QUOTES).rstrip().endswith(QUOTES)


def to_path(text: str) -> str:
    """Return the path or URL that was typed, completed, or dragged into the terminal.

    A file of exactly this name comes first; then quotes, backslashes and `file://` are taken off.
    """
    if _is_there(text):
        return text
    with suppress(ValueError):  # an open quote belongs to the name
        words = shlex.split(text)
        if len(words) == 1:
            text = words[0]
    address = urlsplit(text) if text.startswith("file://") else None
    if address is not None and address.netloc in ("", "localhost"):
        return unquote(address.path)
    return text


def _is_there(text: str) -> bool:
    try:
        return os.path.exists(os.path.expanduser(text))
    except ValueError:
        return False
