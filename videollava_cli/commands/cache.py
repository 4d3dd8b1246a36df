"""`vllava cache`: the quantized weights that are kept on disk, listed and cleared."""

import json
import shutil
import sys
import time
from typing import Annotated

import typer

from videollava_cli.commands import options as opt
from videollava_cli.console import Console, bytes_in_words
from videollava_cli.engine.quantized import Entry, entries
from videollava_cli.engine.startup import cache_folder
from videollava_cli.errors import OutputError, UsageError
from videollava_cli.settings import closest

CACHE_EXAMPLES = """\b
Examples:
  vllava cache                                   what is kept, and how much disk it takes
  vllava cache --json | jq '.entries[].bytes'
  vllava cache clear Video-LLaVA-7B-hf-4bit-0123456789abcdef
  vllava cache clear --yes                       all of it, unasked
"""

cache = typer.Typer(epilog=CACHE_EXAMPLES, invoke_without_command=True)
Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[NAME...]", help="Entries, or models as the list names them. Default: all", show_default=False
    ),
]
Yes = Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")]


@cache.callback()
def list_entries(context: typer.Context, json_object: opt.JsonObject = False) -> None:
    """List the 4-bit weights that are kept in $XDG_CACHE_HOME/vllava (~/.cache/vllava), with their sizes."""
    if context.invoked_subcommand is not None:
        return
    found, console = entries(cache_folder()), Console()
    total = sum(entry.num_bytes for entry in found)
    if json_object:
        console.answer(json.dumps({"entries": [as_json(entry) for entry in found], "bytes": total}) + "\n")
    elif not found:
        console.answer(f"nothing is kept in {str(cache_folder())!r}\n")
    else:
        console.answer("".join(f"{line}\n" for line in table(found)) + f"{bytes_in_words(total)} in all\n")


@cache.command()
def clear(names: Names = None, yes: Yes = False, quiet: opt.Quiet = False) -> None:
    """Remove kept weights, and what unfinished or damaged ones left behind."""
    found = chosen(entries(cache_folder()), names or [])
    console = Console(is_quiet=quiet)
    if not found:
        console.notice("nothing is kept")
        return
    if not yes:
        confirm(found)
    for entry in found:
        try:
            shutil.rmtree(entry.folder)
        except OSError as error:
            raise OutputError(f"cannot remove {str(entry.folder)!r}: {error.strerror or error}") from error
    console.notice(f"removed {counted(found)}, {bytes_in_words(sum(entry.num_bytes for entry in found))}")


def chosen(found: list[Entry], names: list[str]) -> list[Entry]:
    """Return the entries of these names, or of these models; all without a name.

    Raises:
        UsageError: If a name is nothing's.
    """
    known = {known for entry in found for known in (entry.name, entry.model) if known}
    for name in names:
        if name not in known:
            raise UsageError(f"nothing that is kept is called {name!r}{closest(name, known)}: see vllava cache")
    return [entry for entry in found if not names or {entry.name, entry.model} & set(names)]


def confirm(found: list[Entry]) -> None:
    """Ask whether to remove entries, and leave if the answer is no.

    Raises:
        UsageError: If there is no terminal to ask at.
    """
    if sys.stdin is None or not sys.stdin.isatty():
        raise UsageError("there is no terminal to ask at: add --yes")
    what = f"{counted(found)}, {bytes_in_words(sum(entry.num_bytes for entry in found))}"
    typer.confirm(f"Remove {what}?", abort=True, err=True)


def counted(found: list[Entry]) -> str:
    """Return how many entries there are, in words."""
    return f"{len(found)} entr{'y' if len(found) == 1 else 'ies'}"


def table(found: list[Entry]) -> list[str]:
    """Return the entries as lines: a head, then each one's model, what it is, its size, its last use and its folder."""
    rows = [("MODEL", "WHAT", "SIZE", "LAST USED", "FOLDER")]
    for entry in found:
        what = entry.what if entry.state == "kept" else " ".join(filter(None, (entry.what, f"({entry.state})")))
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))
        rows.append((entry.model or "-", what, bytes_in_words(entry.num_bytes), used, str(entry.folder)))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return ["  ".join([*(cell.ljust(w) for cell, w in zip(row[:4], widths, strict=True)), row[4]]) for row in rows]


def as_json(entry: Entry) -> dict[str, str | int | float]:
    """Return an entry as --json prints it; `last_used` is in seconds since 1970."""
    return {
        "name": entry.name,
        "model": entry.model,
        "what": entry.what,
        "bytes": entry.num_bytes,
        "last_used": entry.used,
        "state": entry.state,
        "folder": str(entry.folder),
    }
