"""Help as plain text: as wide as the terminal, options in panels, and examples that can be copied."""

import shutil
from typing import Any

from typer.core import TyperArgument, TyperCommand, TyperGroup

MAX_WIDTH, NARROW = 100, 60  # columns
PANELS_AT_END = ("Options",)  # those that every command has


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
