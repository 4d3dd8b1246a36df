"""The table `ask`: fresh processes that answer with `tiny`, and the time to their first word, against a script.

The script does as the model's documentation does (benchmarks/documented.py), and must give the same answers.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks import table
from benchmarks.table import ROOT, Record, in_turn, spread
from videollava_cli.engine.checkpoint import BUNDLED_FOLDER

CLIP = "examples/circle-moves-right.mp4"
QUESTIONS = ("What happens?", "What color is it?", "What shape is it?", "Which way does it move?")
CASES = {
    "mp4": (CLIP, QUESTIONS[:1]),
    "webm": ("examples/cross-moves-down.webm", QUESTIONS[:1]),
    "image": ("examples/triangle.jpg", ("What is in the image?",)),
    "mp4, 4 questions": (CLIP, QUESTIONS),
}


class Run(NamedTuple):
    """One process: seconds from its start to its first byte on stdout and to its end, and its words."""

    first: float
    whole: float
    words: list[str]


def _columns(key: str, name: str) -> tuple[table.Column, ...]:
    return (
        (f"{name}, vllava", ">", lambda row: spread(row["ours"][key])),
        ("documented", ">", lambda row: spread(row["documented"][key])),
        ("ratio", ">", lambda row: f"{row['ratios'][key]:.2f}"),
    )


COLUMNS: tuple[table.Column, ...] = (
    ("tiny, on a CPU", "<", lambda row: row["name"]),
    *_columns("first", "first word"),
    *_columns("whole", "whole process"),
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this table."""
    table.add_options(parser, runs=9)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES), help="all of them")


def print_table(options: argparse.Namespace) -> None:
    """Measure and print."""
    printed = table.Table(options, COLUMNS, "seconds (min to max), of vllava and of the documented way")
    for name in options.cases:
        printed.add(measure(name, *CASES[name], options.runs))


def measure(name: str, medium: str, questions: Sequence[str], runs: int) -> Record:
    """Run both sides in turn; exit if their answers differ."""
    asked = [word for question in questions for word in ("-q", question)]
    vllava = [str(Path(sys.executable).with_name("vllava")), "ask", "-m", "tiny", "--device", "cpu", medium, *asked]
    script = [sys.executable, "-m", "benchmarks.documented", "ask", str(BUNDLED_FOLDER / "tiny"), medium, *questions]
    results = in_turn({"ours": partial(_run, vllava), "documented": partial(_run, script)}, runs)
    for ours, documented in zip(*results.values(), strict=True):
        if ours.words != documented.words:
            raise SystemExit(f"{name}: vllava answered {ours.words}, the documented way {documented.words}")
    seconds = {
        side: {"first": [run.first for run in of_side], "whole": [run.whole for run in of_side]}
        for side, of_side in results.items()
    }
    ratios = {key: median(seconds["ours"][key]) / median(seconds["documented"][key]) for key in ("first", "whole")}
    return {"name": name, **seconds, "ratios": ratios}


def _run(command: Sequence[str]) -> Run:
    began = time.perf_counter()
    environment, pipe = table.child_environment(), subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, bufsize=0) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        start = process.stdout.read(1)
        first = time.perf_counter() - began
        answer, errors = start + process.stdout.read(), process.stderr.read()
    whole = time.perf_counter() - began
    if process.returncode or not start:
        raise SystemExit(f"{command[0]} ended with {process.returncode}: {errors.decode()}")
    return Run(first, whole, answer.decode().split())
