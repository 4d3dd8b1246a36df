"""`vllava examples`: where the clips and pictures are that come with vllava."""

import typer

from videollava_cli.commands import options as opt
from videollava_cli.console import Console
from videollava_cli.settings import data_folder

EXAMPLES = """\b
Examples:
  vllava examples                                     # the folder
  vllava batch -m tiny "$(vllava examples)" -q "What happens?"
"""


def examples() -> None:
    """Print the folder of the clips and pictures that come with vllava; tiny knows what they show."""
    Console().answer(f"{data_folder('examples')}\n")


def add_to(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command(cls=opt.HelpCommand, epilog=EXAMPLES)(examples)
