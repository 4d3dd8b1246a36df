"""The table `ask`: whole processes that answer with `tiny`, and the time to their first word, against a script.

The script does as the model's documentation does (benchmarks/documented_ask.py). Both sides start as fresh processes,
in turn, and must give the same answers.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.machine import ROOT, machine_line
from videollava_cli.engine.checkpoint import BUNDLED_FOLDER

CLIP = "examples/circle-moves-right.mp4"
QUESTIONS = ("What happens?", "What color is it?", "What shape is it?", "Which way does it move?")
CASES = {
    "mp4": (CLIP, QUESTIONS[:1]),
    "webm": ("examples/cross-moves-down.webm", QUESTIONS[:1]),
    "image": ("examples/triangle.jpg", ("What is in the image?",)),
    "mp4, 4 questions": (CLIP, QUESTIONS),
}


@dataclass(frozen=True, slots=True)
class Run:
    """One process: seconds from its start to its first byte on stdout and to its end, and what it said."""

    first: float
    whole: float
    answer: str


@dataclass(slots=True)
class Side:
    """Seconds of the runs of one side."""

    first: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)

    def add(self, run: Run) -> None:
        """Keep what a run took."""
        self.first.append(run.first)
        self.whole.append(run.whole)


@dataclass(slots=True)
class Row:
    """One medium with its questions: both sides."""

    name: str
    ours: Side = field(default_factory=Side)
    documented: Side = field(default_factory=Side)

    @property
    def ratios(self) -> dict[str, float]:
        """Our medians over the documented way's."""
        keys = ("first", "whole")
        return {key: median(getattr(self.ours, key)) / median(getattr(self.documented, key)) for key in keys}

    def cells(self) -> str:
        """Return the row of a table."""
        cells = [self.name]
        for key, ratio in self.ratios.items():
            cells += [_spread(getattr(self.ours, key)), _spread(getattr(self.documented, key)), f"{ratio:.2f}"]
        return f"| {' | '.join(cells)} |"

    def told(self) -> dict[str, Any]:
        """Return the row as an object, with every single time."""
        return asdict(self) | {"ratios": self.ratios}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this table."""
    parser.add_argument("--runs", type=int, default=9, help="of each side, after one that does not count")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES), help="all of them")
    parser.add_argument("--json", action="store_true", help="one object a row, with every single time")


def print_table(options: argparse.Namespace) -> None:
    """Measure and print."""
    rows = [measure(name, *CASES[name], options.runs) for name in options.cases]
    if options.json:
        for row in rows:
            print(json.dumps(row.told()))
        return
    print(f"{machine_line(options.runs)}; seconds (min to max), of vllava and of the documented way\n")
    print("| tiny, on a CPU | first word, vllava | documented | ratio | whole process, vllava | documented | ratio |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for row in rows:
        print(row.cells())


def measure(name: str, medium: str, questions: Sequence[str], runs: int) -> Row:
    """Run both sides in turn so many times, after one run of each that does not count.

    Raises:
        SystemExit: If their answers differ.
    """
    asked = [word for question in questions for word in ("-q", question)]
    ours = [str(Path(sys.executable).with_name("vllava")), "ask", "-m", "tiny", "--device", "cpu", medium, *asked]
    script = [sys.executable, "-m", "benchmarks.documented_ask", str(BUNDLED_FOLDER / "tiny"), medium, *questions]
    row = Row(name)
    for number in range(runs + 1):
        mine, documented = time_process(ours), time_process(script)
        if mine.answer.split() != documented.answer.split():
            raise SystemExit(f"{name}: vllava said {mine.answer!r}, the documented way {documented.answer!r}")
        if number:
            row.ours.add(mine)
            row.documented.add(documented)
    return row


def time_process(command: Sequence[str]) -> Run:
    """Run a command from the top of the repository, and time its first byte on stdout and its end.

    Raises:
        SystemExit: If it fails.
    """
    began = time.perf_counter()
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'scripts'}{os.pathsep}{ROOT}"}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        start = process.stdout.read(1)
        first = time.perf_counter() - began
        rest = process.stdout.read()
        errors = process.stderr.read()
    whole = time.perf_counter() - began
    if process.returncode or not start:
        raise SystemExit(f"{command[0]} ended with {process.returncode}: {errors.decode()}")
    return Run(first, whole, ((start or b"") + (rest or b"")).decode())


def _spread(seconds: Sequence[float]) -> str:
    return f"{median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})"
