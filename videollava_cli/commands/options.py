"""How a command gets its options, those of settings from their table, and how its help shows them.

Help is plain text: as wide as the terminal, options in panels, and examples that can be copied.
"""

import functools
import inspect
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup

from videollava_cli.console import Console
from videollava_cli.errors import UsageError
from videollava_cli.process import silence_libraries
from videollava_cli.settings import (
    DEFAULTS,
    SETTINGS,
    TYPES,
    preset_names,
    presets_folder,
    settings_from,
    unknown_variables,
)

Result = TypeVar("Result")

MAX_WIDTH, NARROW = 100, 60  # columns
PANELS_AT_END = ("Options",)  # those that every command has
FLASH_ATTENTION = "flash_attention_2"
DEVICES = ("auto", "cpu", "cuda", "mps")  # which the shell completes
FILLED_IN = ("console", "settings", "given")  # parameters of a command that are no options of its own

# Names for `command(takes=...)`
QUESTION, MODEL, ANSWER, CLIP = (
    tuple(key for key, setting in SETTINGS.items() if setting.panel == panel)
    for panel in ("Question", "Model", "Answer", "Clip")
)
MODEL = (*MODEL[:-1], "flash_attn", MODEL[-1])  # before attn_implementation, which it sets
CHECKPOINT = ("model", "revision", "offline")  # for commands that load no weights
OUTPUT = ("quiet", "verbose", "config")


@dataclass(frozen=True, slots=True)
class Given:
    """What the command line gives: settings, None for those that it does not give, and the config file."""

    flags: dict[str, Any]
    config: Path | None


def option(
    help_text: str,
    panel: str,
    *names: str,
    metavar: str | None = None,
    completion: Callable[[str], list[str]] | None = None,
) -> Any:
    """Return an option for `Annotated`; `panel` is its part of the help, `completion` gives values that begin so."""
    how: dict[str, Any] = {"metavar": metavar, "show_default": False, "autocompletion": completion}
    return typer.Option(*names, help=help_text, rich_help_panel=panel, **how)


def complete_model(incomplete: str) -> list[str]:
    """Return the presets and the cached checkpoints whose names begin so, for the shell's completion."""
    from videollava_cli.doctor.models import cached_names

    return [name for name in (*preset_names(presets_folder()), *cached_names()) if name.startswith(incomplete)]


def _completion(name: str) -> Callable[[str], list[str]] | None:
    if name == "model":
        return complete_model
    values = DEVICES if name == "device" else SETTINGS[name].choices
    return (lambda incomplete: [value for value in values if value.startswith(incomplete)]) if values else None


Questions = Annotated[
    list[str] | None,
    option(
        "A question; repeat it for more. All positionals are media then.",
        "Question",
        *("-q", "--question"),
        metavar="QUESTION",
    ),
]
Json = Annotated[bool, option("Print one JSON object a question, one a line.", "Output", "--json")]
JsonObject = Annotated[bool, option("Print one JSON object.", "Output", "--json")]
Quiet = Annotated[bool, option("No notes and no progress on stderr.", "Output", "--quiet")]
Verbose = Annotated[bool, option("Say on stderr which frames, how many tokens, how fast.", "Output", "--verbose")]
Config = Annotated[
    Path | None, option("Read this file in place of your config.toml.", "Output", "--config", metavar="FILE.toml")
]
FlashAttn = Annotated[bool, option(f"Same as --attn-implementation {FLASH_ATTENTION}.", "Model", "--flash-attn")]


def command(takes: Sequence[str]) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """Give a command options of the table, named settings and those of `OUTPUT`, and call it with their values.

    Of these parameters a command declares those that it needs: `console`, `settings`, and, if it resolves its settings
    itself, `given`. All others are its own options. In the help its own panels stand first, then those that `takes`
    names, in this order; in a panel its own options stand first.
    """

    def decorate(function: Callable[..., Result]) -> Callable[..., Result]:
        signature = inspect.signature(function, eval_str=True).parameters
        own = [parameter for name, parameter in signature.items() if name not in FILLED_IN]
        taken = [_parameter(name) for name in takes]

        @functools.wraps(function)
        def run(**own_values: Any) -> Result:
            flags = {parameter.name: own_values.pop(parameter.name) for parameter in taken}
            console = Console(is_quiet=flags.pop("quiet", False), is_verbose=flags.pop("verbose", False))
            if console.is_quiet:
                silence_libraries()
                os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # huggingface_hub reads it when it is imported
            config = flags.pop("config", None)
            _resolve_flash_attn(flags)
            for line in unknown_variables(os.environ):
                console.notice(line)
            values = {"console": console, "given": Given(flags, config)}
            if "settings" in signature:
                values["settings"] = settings_from(flags, config)
            return function(**own_values, **{name: value for name, value in values.items() if name in signature})

        run.__signature__ = inspect.Signature(_in_panels(own, taken))  # type: ignore[attr-defined]
        return run

    return decorate


def _parameter(name: str) -> Parameter:
    shared = {"quiet": Quiet, "verbose": Verbose, "config": Config, "flash_attn": FlashAttn}
    annotation = shared[name] if name in shared else _setting_option(name)
    default = False if get_args(annotation)[0] is bool else None  # None: not given, so that other sources count
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _setting_option(name: str) -> Any:
    setting = SETTINGS[name]
    (kind,) = (kind for kind in TYPES[name] if kind is not type(None))
    spelling = name.replace("_", "-")
    flags = [f"--{spelling}/--no-{spelling}" if kind is bool else f"--{spelling}"]
    if setting.short_flag:
        flags.insert(0, setting.short_flag)
    help_text = setting.help.replace("{default}", str(DEFAULTS[name]).removesuffix(".0"))
    if setting.parse is not None:
        kind = str
    metavar = setting.metavar or name.rpartition("_")[2].upper()
    how: dict[str, Any] = {} if kind is bool else {"metavar": metavar, "completion": _completion(name)}
    return Annotated[kind | None, option(help_text, setting.panel, *flags, **how)]


def _in_panels(own: Iterable[Parameter], taken: Iterable[Parameter]) -> list[Parameter]:
    """Return parameters as keyword-only ones, in the order of the help."""

    def panel_of(parameter: Parameter) -> Any:  # None for an argument
        return get_args(parameter.annotation)[1].rich_help_panel

    order = {panel: place for place, panel in enumerate(dict.fromkeys(map(panel_of, taken)))}
    in_order = sorted([*own, *taken], key=lambda parameter: order.get(panel_of(parameter), -1))
    return [each.replace(kind=Parameter.KEYWORD_ONLY) for each in in_order]


def _resolve_flash_attn(flags: dict[str, Any]) -> None:
    if flags.pop("flash_attn", False):
        if (chosen := flags["attn_implementation"]) not in (None, FLASH_ATTENTION):
            raise UsageError(f"--flash-attn and --attn-implementation {chosen} exclude each other")
        flags["attn_implementation"] = FLASH_ATTENTION


class _PlainHelp:
    """Help in the width of the terminal, where Typer's own is at least 50 columns wide, or has boxes and types."""

    def get_help(self, ctx: Any) -> str:
        """Return the help; lines of examples are as long as they are."""
        formatter = ctx.make_formatter()
        formatter.width = min(shutil.get_terminal_size().columns, MAX_WIDTH) - 2
        self.format_help(ctx, formatter)  # type: ignore[attr-defined]
        text: str = formatter.getvalue()
        return text.rstrip("\n")

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return what stands behind the command's name: arguments as their help names them."""
        parameters = self.get_params(ctx)  # type: ignore[attr-defined]
        pieces = ["[OPTIONS]", *(each.metavar or "" for each in parameters if isinstance(each, TyperArgument))]
        return [*pieces, "[COMMAND]"] if isinstance(self, TyperGroup) else pieces

    def panels(self, ctx: Any) -> dict[str, list[tuple[str, str]]]:
        """Return names and texts: of arguments and options by their panels, then of commands, if there are any."""
        found: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):  # type: ignore[attr-defined]
            if (record := parameter.get_help_record(ctx)) is not None:
                is_argument = isinstance(parameter, TyperArgument)
                name = parameter.metavar if is_argument else record[0]
                panel = getattr(parameter, "rich_help_panel", None) or ("Arguments" if is_argument else "Options")
                found.setdefault(panel, []).append((name, parameter.help or record[1]))
        found = {panel: found[panel] for panel in sorted(found, key=PANELS_AT_END.__contains__)}
        if isinstance(self, TyperGroup):
            commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
            found["Commands"] = [(name, each.get_short_help_str(limit=1000)) for name, each in commands if each]
        return found

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the panels, each with its name; in a narrow terminal texts stand below names."""
        how = {"col_max": 0, "col_spacing": 4} if formatter.width < NARROW else {}
        for panel, rows in self.panels(ctx).items():
            with formatter.section(panel):
                formatter.write_dl(rows, **how)


class HelpCommand(_PlainHelp, TyperCommand):
    """A command with plain help."""


class HelpGroup(_PlainHelp, TyperGroup):
    """A command with commands of its own, and plain help."""
