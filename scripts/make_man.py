#!/usr/bin/env python3
"""Write the manual page, docs/vllava.1, from the help of all commands; the wheel puts it where man looks for it.

python scripts/make_man.py && man docs/vllava.1
"""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from videollava_cli import __version__
from videollava_cli.cli import make_app

PAGE = Path(__file__).resolve().parents[1] / "docs" / "vllava.1"


def main() -> None:
    """Write the page."""
    PAGE.write_text(make_page(), encoding="utf-8")


def make_page() -> str:
    """Return the page in the man macros of roff."""
    command: Any = typer.main.get_command(make_app())
    context = command.make_context("vllava", ["ask"], resilient_parsing=True)
    about = inspect.cleandoc(command.help)
    lines = [
        f'.TH VLLAVA 1 "" "vllava {__version__}" "User Commands"',
        ".SH NAME",
        f"vllava \\- {_escaped(about[:-1])}",
    ]
    lines += [".SH SYNOPSIS", ".B vllava", _escaped("[OPTIONS] COMMAND ..."), *_panels(command, context)]
    for name, each, its_context in _commands(command, context, "vllava"):
        usage = " ".join(each.collect_usage_pieces(its_context))
        lines += [f".SH {_escaped(name.upper())}", f".B {_escaped(name)}", _escaped(usage)]
        lines += _text(each.help or "", before=".PP")
        lines += [*_panels(each, its_context), *_text(each.epilog or "", before=".PP")]
    return "\n".join([*lines, ".SH NOTES", *_text(command.epilog, before=".PP")]) + "\n"


def _commands(group: Any, context: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        its_context = command.make_context(name, [], parent=context, resilient_parsing=True)
        yield f"{path} {name}", command, its_context
        if hasattr(command, "list_commands"):
            yield from _commands(command, its_context, f"{path} {name}")


def _panels(command: Any, context: Any) -> Iterator[str]:
    for panel, rows in command.panels(context).items():
        yield f".SS {panel}"
        for name, text in rows:
            yield from (".TP", f".B {_escaped(name)}", _escaped(" ".join(text.split())))


def _text(text: str, before: str) -> Iterator[str]:
    """Yield the paragraphs of a help text; those behind a backspace are kept as they are, line by line."""
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        if not paragraph.strip():
            continue
        yield before
        if paragraph.startswith("\b"):
            yield from (".nf", *map(_escaped, paragraph.splitlines()[1:]), ".fi")
        else:
            yield _escaped(" ".join(paragraph.split()))


def _escaped(text: str) -> str:
    r"""Return text so that roff prints it: backslashes, hyphens that are typed, and a dot that begins a line."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    return f"\\&{text}" if text.startswith((".", "\\(aq")) else text


if __name__ == "__main__":
    main()
