"""`--ray [ADDRESS]`: an option whose value may be left out, which Typer has not; knows words, nothing of Ray."""

from typing import Any

from typer.core import TyperCommand

from videollava_cli.batch.cluster import ADDRESS, LOCAL


def with_address(arguments: list[str]) -> list[str]:
    """Return arguments whose bare `--ray` has the address of a Ray of our own, unless an address follows.

    What has no form of one follows on its own: in `--ray clips/` it is a folder.
    """
    end = arguments.index("--") if "--" in arguments else len(arguments)
    return [
        f"--ray={LOCAL}"
        if word == "--ray" and number < end and not ADDRESS.fullmatch((*arguments, "")[number + 1])
        else word
        for number, word in enumerate(arguments)
    ]


class RayCommand(TyperCommand):
    """A command with `--ray [ADDRESS]`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse arguments after filling in what may be left out."""
        return super().parse_args(ctx, with_address(args))
