"""The Typer app, and the one place where an error becomes a line and an exit status."""

import os
import sys
from typing import Annotated

import typer

from videollava_cli import __version__
from videollava_cli.console import Console
from videollava_cli.errors import ExitStatus, VllavaError

APP_HELP = "Ask questions about your videos and images with Video-LLaVA."
APP_EPILOG = """\b
Answers go to stdout, everything else to stderr.
Exit status: 0 answered, 1 the model or machine failed, 2 wrong usage or settings,
             3 media missing or unreadable, 5 checkpoint not to be had, 130 Ctrl-C.
Start with:  vllava ask --help
"""

app = typer.Typer(
    name="vllava",
    help=APP_HELP,
    epilog=APP_EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        Console().answer(f"vllava {__version__}\n")
        raise typer.Exit


@app.callback()
def common(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Hold the options that stand before a command."""


def main() -> int:
    """Run the command line and return the exit status."""
    from videollava_cli.commands.ask import EXAMPLES, ask

    app.command(name="ask", epilog=EXAMPLES, no_args_is_help=True)(ask)
    try:
        status = app(standalone_mode=False)
        return int(status or ExitStatus.ANSWERED)
    except VllavaError as error:
        Console().error(str(error))
        return error.status
    except (KeyboardInterrupt, typer.Abort):
        return ExitStatus.INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away, as in `| head -1`. Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitStatus.ANSWERED
    except typer.TyperException as error:
        return _usage_problem(error)


def _usage_problem(error: typer.TyperException) -> int:
    """Tell what is wrong with the command line; a bare command shows its help instead."""
    context = getattr(error, "ctx", None)
    message = error.format_message()
    if type(error).__name__ == "NoArgsIsHelpError":
        print(message, file=sys.stderr)  # noqa: T201 (Typer gives the help as the message)
    else:
        command = context.command_path if context else "vllava"
        Console().error(f"{message.rstrip('.')}: see {command} --help")
    return ExitStatus.USAGE
