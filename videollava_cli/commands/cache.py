"""`vllava cache`: list, verify and clear the quantized weights that are kept on disk."""

import json
import shutil
import sys
import time
from typing import Annotated

import typer

from videollava_cli.commands import options as opt
from videollava_cli.console import Console, bytes_in_words, columns
from videollava_cli.engine.quantized_cache import Entry, cache_folder, check_entry, entries
from videollava_cli.errors import OutputError, UsageError, VllavaError
from videollava_cli.settings import closest

CACHE_EXAMPLES = """\b
Examples:
  vllava cache                                   # what is kept, its size
  vllava cache --json | jq '.entries[].bytes'
  vllava cache verify                            # read it all, compare sums
  vllava cache clear Video-LLaVA-7B-hf-4bit-0123456789abcdef
  vllava cache clear --yes                       # all of it, unasked
"""

VERIFY_EXAMPLES = """\b
Examples:
  vllava cache verify
  vllava cache verify --json | jq -r '.entries[] | select(.problem).folder'
  vllava cache verify --repair                   # remove what is damaged
"""

cache = typer.Typer(cls=opt.HelpGroup, epilog=CACHE_EXAMPLES, invoke_without_command=True)
NAMES_HELP = "Entries, or models as the list names them. Default: all"
Names = Annotated[list[str] | None, typer.Argument(metavar="[NAME...]", help=NAMES_HELP, show_default=False)]
Yes = Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")]
Repair = Annotated[bool, typer.Option("--repair", help="Remove damaged entries, so that they are made again.")]


@cache.callback()
def list_entries(context: typer.Context, json_object: opt.JsonObject = False) -> None:
    """List the 4-bit weights that are kept in $XDG_CACHE_HOME/vllava (~/.cache/vllava), with their sizes."""
    if context.invoked_subcommand is not None:
        return
    found, console = entries(cache_folder()), Console()
    if json_object:
        console.answer(_json_object(found))
    elif not found:
        console.answer(f"nothing is kept in {str(cache_folder())!r}\n")
    else:
        console.answer("".join(f"{line}\n" for line in _table(found)) + f"{_total_size(found)} in all\n")


@cache.command(cls=opt.HelpCommand, epilog=VERIFY_EXAMPLES)
def verify(
    names: Names = None, repair: Repair = False, json_object: opt.JsonObject = False, quiet: opt.Quiet = False
) -> None:
    """Read kept weights and compare their sums. Status 1 if damaged entries are left."""
    console, checked = Console(is_quiet=quiet), []
    for each in _chosen(names):
        with console.status(f"Reading {each.name}"):
            entry = check_entry(each.folder, reads_weights=True)
        checked.append(entry)
        if not json_object:
            verdict = f"damaged: {entry.problem}" if entry.problem else entry.state.replace("kept", "ok")
            console.answer(f"{entry.name}: {verdict}\n")
    if json_object:
        console.answer(_json_object(checked, "problem"))
    elif not checked:
        console.answer(f"nothing is kept in {str(cache_folder())!r}\n")
    damaged = [entry for entry in checked if entry.problem]
    if damaged and not repair:
        named = ", ".join(f"{entry.name!r} ({entry.problem})" for entry in damaged)
        raise VllavaError(f"damaged: {named}: vllava cache verify --repair removes them")
    if damaged:
        _remove(damaged)
        console.notice(f"removed {_counted(damaged)}, to be made again when needed")


@cache.command(cls=opt.HelpCommand)
def clear(names: Names = None, yes: Yes = False, quiet: opt.Quiet = False) -> None:
    """Remove kept weights, and what unfinished or damaged ones left behind."""
    found, console = _chosen(names), Console(is_quiet=quiet)
    if not found:
        console.notice("nothing is kept")
        return
    if not yes:
        if sys.stdin is None or not sys.stdin.isatty():
            raise UsageError("there is no terminal to ask at: add --yes")
        typer.confirm(f"Remove {_counted(found)}?", abort=True, err=True)
    _remove(found)
    console.notice(f"removed {_counted(found)}")


def _chosen(names: list[str] | None) -> list[Entry]:
    """Return the entries of these names or models; all without a name."""
    found = entries(cache_folder())
    known = {known for entry in found for known in (entry.name, entry.model) if known}
    for name in names or []:
        if name not in known:
            raise UsageError(f"nothing that is kept is called {name!r}{closest(name, known)}: see vllava cache")
    return [entry for entry in found if not names or {entry.name, entry.model} & set(names)]


def _remove(found: list[Entry]) -> None:
    for entry in found:
        try:
            shutil.rmtree(entry.folder)
        except OSError as error:
            raise OutputError(f"cannot remove {str(entry.folder)!r}: {error.strerror or error}") from error


def _counted(found: list[Entry]) -> str:
    return f"{len(found)} entr{'y' if len(found) == 1 else 'ies'}, {_total_size(found)}"


def _total_size(found: list[Entry]) -> str:
    return bytes_in_words(sum(entry.num_bytes for entry in found))


def _table(found: list[Entry]) -> list[str]:
    rows = [("MODEL", "WHAT", "SIZE", "LAST USED", "FOLDER")]
    for entry in found:
        what = entry.what if entry.state == "kept" else " ".join(filter(None, (entry.what, f"({entry.state})")))
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))
        rows.append((entry.model or "-", what, bytes_in_words(entry.num_bytes), used, str(entry.folder)))
    return columns(rows)


def _json_object(found: list[Entry], *more: str) -> str:
    """Return what --json prints, with `more` fields of each entry; `last_used` is in seconds since 1970."""
    fields = ("name", "model", "what", "num_bytes", "used", "state", "folder", *more)
    keys = {"num_bytes": "bytes", "used": "last_used"}
    lines = [{keys.get(field, field): getattr(entry, field) for field in fields} for entry in found]
    return json.dumps({"entries": lines, "bytes": sum(entry.num_bytes for entry in found)}, default=str) + "\n"


def add_to(app: typer.Typer) -> None:
    """Add the command, which has commands of its own, to the app."""
    app.add_typer(cache, name="cache")
