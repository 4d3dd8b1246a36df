"""`vllava doctor`: what this machine can run, and what is missing."""

import json
from typing import Annotated

import typer

from videollava_cli.commands import options as opt
from videollava_cli.console import Console
from videollava_cli.errors import ExitStatus
from videollava_cli.settings import Settings

EXAMPLES = """\b
Examples:
  vllava doctor                       # would `vllava ask` work here?
  vllava doctor -m 7b-4bit            # and with this model?
  vllava doctor --no-self-test        # without asking tiny: quicker
  vllava doctor --json | jq .works
"""


@opt.command(takes=(*(key for key in opt.MODEL if key not in ("cache", "force")), "max_new_tokens", "quiet", "config"))
def doctor(
    settings: Settings,
    console: Console,
    self_test: Annotated[
        bool,
        opt.option(
            "Ask tiny a question whose answer is known (default), or do not.", "Work", "--self-test/--no-self-test"
        ),
    ] = True,
    json_object: opt.JsonObject = False,
) -> ExitStatus:
    """Tell what this machine can run, and what is missing.

    Exit status 0: vllava ask would work, with your settings and these options.
    Its packages load, the settings suit the machine, the model has room in
    the memory that is free now, and tiny answers as it should. A checkpoint
    that is not there may be downloaded and has room on the disk: whether the
    network is there is not tried. Else it is 1, and the last line but one says
    why. The last line says what to run.

    A problem keeps vllava ask from working; a note is worth knowing.
    """
    # What looks at the machine is imported here: other commands start without it.
    from videollava_cli.doctor import examine, show

    with console.status("Looking at this machine"):
        report = examine(settings, is_tested=self_test)
    if json_object:
        console.answer(json.dumps(report, ensure_ascii=False) + "\n")
    else:
        show(report, console)
    return ExitStatus.ANSWERED if report["works"] else ExitStatus.FAILED


def add_to(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command(cls=opt.HelpCommand, epilog=EXAMPLES)(doctor)
