"""The Typer app, and the one place where an error becomes a line and an exit status."""

import atexit
import errno
import gc
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated

import typer

from videollava_cli import __version__, process
from videollava_cli.console import Console
from videollava_cli.errors import ExitStatus, OutputClosedError, OutputError, VllavaError

APP_EPILOG = """\b
Answers go to stdout, everything else to stderr.
Exit status: 0 answered, 1 the model or machine failed,
             2 wrong usage or settings, 3 media missing or unreadable,
             4 batch finished, some items failed,
             5 checkpoint not to be had, 6 nothing found,
             129 SIGHUP, 130 Ctrl-C, 143 SIGTERM.
Start with:  vllava ask --help
"""

COMMANDS = ("ask", "batch", "cache", "chat", "doctor", "examples", "frames", "models")  # each a module of `commands`


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        Console().answer(f"vllava {__version__}\n")
        raise typer.Exit


def _common(
    _version: Annotated[
        bool,
        typer.Option("-V", "--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Hold the options that stand before a command."""


def make_app(words: Sequence[str] = ()) -> typer.Typer:
    """Return the app: with the command that the words call, whose imports suffice, else with all commands."""
    from videollava_cli.commands.options import HelpGroup

    app = typer.Typer(
        name="vllava",
        help="Ask questions about your videos and images with Video-LLaVA.",
        epilog=APP_EPILOG,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        cls=HelpGroup,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_common)
    called = next((word for word in words if not word.startswith("-")), None)
    for name in [called] if called in COMMANDS else COMMANDS:
        import_module(f"videollava_cli.commands.{name}").add_to(app)
    return app


def _with_options(words: Sequence[str]) -> Sequence[str]:
    """Return the words with the options that `version` and `help [COMMAND...]` stand for, as in other tools."""
    match words:
        case ["version"]:
            return ["--version"]
        case ["help", *called]:
            return [*called, "--help"]
    return words


def main() -> int:
    """Run the command line and return the exit status: that of the signal which ended it, if one did."""
    process.reserve_descriptors()
    process.keep_stdout()
    with process.Ending() as ending:
        status = _run()
    return status if ending.status is None else ending.status


def _run() -> int:
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # libraries' advice to programmers is not for users; `python -W` shows it
    # Torch and transformers make many objects and hardly any garbage: collecting slows their import and the exit.
    gc.set_threshold(100_000)  # new objects; Python's own choice is 700
    atexit.register(gc.freeze)
    try:
        words = _with_options(sys.argv[1:])
        app = make_app(words)
        return int(app(args=words, prog_name="vllava", standalone_mode=False) or ExitStatus.ANSWERED)
    except OutputError as error:
        return _output_problem(error)
    except VllavaError as error:
        Console().error(str(error))
        return error.status
    except MemoryError:
        Console().error("the memory is full: close other programs, or give fewer or smaller files, or a smaller model")
        return ExitStatus.FAILED
    except (KeyboardInterrupt, typer.Abort):
        return ExitStatus.INTERRUPTED
    except SystemExit as error:
        # Typer leaves with 1 when the reader of its help goes away: for us that is no failure.
        is_closed_pipe = isinstance(error.__context__, BrokenPipeError)
        return ExitStatus.ANSWERED if is_closed_pipe else int(error.code or 0)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return _output_problem(OutputError(f"cannot write the help: {error.strerror}"))
    except typer.TyperException as error:
        return _usage_problem(error)


def _output_problem(error: OutputError) -> int:
    if sys.stdout is not None:
        # Python would try once more at exit to write what stdout did not take, and print an error.
        process.point_to_nothing(sys.stdout.fileno())
    if not isinstance(error, OutputClosedError):
        Console().error(str(error))
    return error.status


def _usage_problem(error: typer.TyperException) -> int:
    context = getattr(error, "ctx", None)
    message = error.format_message().strip()
    if context is not None and message == context.get_help().strip():  # of a command without arguments
        Console().answer(f"{message}\n")
    else:
        from videollava_cli.reader.urls import without_logins

        command = context.command_path if context else "vllava"
        advice = f"see {command} --help"
        if command == "vllava" and message.startswith("No such option"):
            advice = "options stand behind the command, as in vllava ask -m tiny ...; see vllava --help"
        Console().error(f"{without_logins(message).rstrip('.')}: {advice}")
    return ExitStatus.USAGE
