"""`vllava models`: the presets and the checkpoints on this disk, and fetching one before it is needed."""

import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from videollava_cli.commands import options as opt
from videollava_cli.console import Console, bytes_in_words, columns
from videollava_cli.engine.checkpoint import check_disk_space, fetch_weights, find_checkpoint, weight_bytes
from videollava_cli.errors import UsageError
from videollava_cli.settings import settings_from

EXAMPLES = """\b
Examples:
  vllava models                          # which are here, which fit
  vllava models --json | jq -r '.models[] | select(.fit == "fits") | .name'
  vllava models pull 7b                  # 15 GB; run it again to go on
"""
STATES = {"whole": "yes", "partly": "in part", "absent": "no", "broken": "damaged"}
FITS = {
    "fits": "yes",
    "fits_spread": "yes, over several GPUs",
    "fits_with_load_4bit": "with --load-4bit",
    "does_not_fit": "no",
    "unknown": "unknown",
}

PULL_EXAMPLES = """\b
Examples:
  vllava models pull 7b                  # 15 GB; run it again to go on
  vllava models pull owner/name --revision v2
"""

models = typer.Typer(cls=opt.HelpGroup, epilog=EXAMPLES, invoke_without_command=True)


@models.callback()
def list_all(context: typer.Context, json_object: opt.JsonObject = False, quiet: opt.Quiet = False) -> None:
    """List the presets, and the Video-LLaVA checkpoints in the hub's cache: which are here, which fit this machine.

    A model fits if a question about a clip has room in the memory that is free now. vllava doctor shows the sums.
    """
    if context.invoked_subcommand is not None:
        return
    console = Console(is_quiet=quiet)
    with console.status("Looking at this machine"):
        from videollava_cli.doctor.models import find_models

        found = find_models(settings_from({}))
    if json_object:
        console.answer(json.dumps({"models": found}) + "\n")
        return
    rows = [("MODEL", "SIZE", "HERE", "FITS", "CHECKPOINT"), *map(_row, found)]
    console.answer("".join(f"{line}\n" for line in columns(rows)))


def _row(model: Mapping[str, Any]) -> tuple[str, ...]:
    size = "unknown" if model["bytes"] is None else bytes_in_words(model["bytes"])
    return model["name"], size, STATES[model["state"]], FITS[model["fit"]], model["checkpoint"]


@models.command(cls=opt.HelpCommand, epilog=PULL_EXAMPLES, no_args_is_help=True)
@opt.command(takes=("revision", "quiet", "config"))
def pull(
    console: Console,
    given: opt.Given,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A preset or hub id.", show_default=False, autocompletion=opt.complete_model
        ),
    ],
) -> None:
    """Fetch a checkpoint from the Hugging Face hub, so that the first question need not wait for it.

    What is here already, in whole or in part, is not fetched again.
    """
    settings = settings_from(given.flags | {"model": model}, given.config)
    if settings.offline:
        raise UsageError(f"offline, so {model!r} cannot be fetched: unset HF_HUB_OFFLINE and offline")
    checkpoint = find_checkpoint(settings)
    if checkpoint.hub_id is None:
        console.notice(f"{model!r} is on this disk already, in {str(checkpoint.folder)!r}")
        return
    check_disk_space(checkpoint)
    fetch_weights(checkpoint, offline=False)
    console.notice(f"{model!r} is here: {bytes_in_words(weight_bytes(checkpoint))} in {str(checkpoint.folder)!r}")


def add_to(app: typer.Typer) -> None:
    """Add the command, which has commands of its own, to the app."""
    app.add_typer(models, name="models")
