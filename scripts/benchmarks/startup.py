"""The table `startup`: whole processes, from their start to their end, against the imports they cannot do without."""

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks import table
from benchmarks.table import ROOT, in_turn, spread

EMPTY_TYPER_APP = """
import typer

app = typer.Typer()

@app.callback()
def common() -> None: ...

@app.command()
def ask(question: str) -> None: ...

app()
"""
COLUMNS: tuple[table.Column, ...] = (
    ("ours", "<", lambda row: row["name"]),
    ("s (min to max)", ">", lambda row: spread(row["ours"])),
    ("against", "<", lambda row: row["other_name"]),
    ("s (min to max)", ">", lambda row: spread(row["other"])),
    ("ratio", ">", lambda row: f"{row['ratio']:.2f}"),
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this table."""
    table.add_options(parser, runs=9)


def print_table(options: argparse.Namespace) -> None:
    """Compare start-up, mistakes and a whole answer with the imports that they cannot do without."""
    printed = table.Table(options, COLUMNS)
    with TemporaryDirectory() as folder:
        for name, ours, other_name, other in _pairs(Path(folder)):
            sides = {"ours": partial(_seconds, ours), "other": partial(_seconds, other)}
            seconds = in_turn(sides, options.runs)
            ratio = median(seconds["ours"]) / median(seconds["other"])
            printed.add({"name": name, "other_name": other_name, **seconds, "ratio": ratio})


def _pairs(folder: Path) -> Iterator[tuple[str, list[str], str, list[str]]]:
    python, vllava = sys.executable, str(Path(sys.executable).with_name("vllava"))
    text, app = folder / "text.mp4", folder / "empty_app.py"
    text.write_text("no video\n" * 100)
    app.write_text(EMPTY_TYPER_APP)
    yield "vllava --help", [vllava, "--help"], "empty Typer app --help", [python, str(app), "--help"]
    help_and_pyav = ["sh", "-c", f"{vllava} --help >/dev/null && {python} -c 'import av'"]
    for name, path in (("a missing file", "none.mp4"), ("a text file", str(text)), ("a folder", str(folder))):
        yield f"ask {name}", [vllava, "ask", path, "Why?"], "--help, then import av", help_and_pyav
    answer = [vllava, "ask", "-m", "tiny", "examples/circle-moves-right.mp4", "What happens?"]
    bare_import = [python, "-c", "from transformers import VideoLlavaForConditionalGeneration"]
    yield "ask -m tiny, whole answer", answer, "import VideoLlavaForConditionalGeneration", bare_import


def _seconds(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    return time.perf_counter() - began
