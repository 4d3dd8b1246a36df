"""What all tables share: --runs and --json, sides that take turns, the machine's line, medians, and printing."""

import argparse
import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "bench"

Record = dict[str, Any]
Column = tuple[str, str, Callable[[Record], object]]  # heading, "<" (left) or ">" (right), content of a cell
Result = TypeVar("Result")


def add_options(
    parser: argparse.ArgumentParser, *, runs: int, of: str = "each side, after one that does not count"
) -> None:
    """Add the options of every table; `runs` is the default."""
    parser.add_argument("--runs", type=int, default=runs, help=f"of {of}")
    parser.add_argument("--json", action="store_true", help="one object a row, with every single run")


def in_turn(sides: Mapping[str, Callable[[], Result]], runs: int) -> dict[str, list[Result]]:
    """Run all sides in turn, A B A B, after one run of each that does not count; return the results by side."""
    results: dict[str, list[Result]] = {name: [] for name in sides}
    for run in range(runs + 1):
        for name, side in sides.items():
            result = side()
            if run:
                results[name].append(result)
    return results


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Return the median of values with the least and the greatest, or nothing if there are none."""
    if not values:
        return ""
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def child_environment() -> dict[str, str]:
    """Return the environment of a process that imports these scripts and this copy of the package."""
    return {**os.environ, "PYTHONPATH": f"{ROOT / 'scripts'}{os.pathsep}{ROOT}"}


class Table:
    """A table of records, each printed at once: as a row of Markdown, or with --json as an object a line.

    The machine and `notes` stand above it.
    """

    def __init__(self, options: argparse.Namespace, columns: Sequence[Column], *notes: str) -> None:
        self._as_json, self._columns = options.json, columns
        machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
        title = "; ".join([machine, f"medians of {options.runs}", *notes])
        headings = " | ".join(heading for heading, _, _ in columns)
        rule = "|".join({"<": "---", ">": "--:"}[side] for _, side, _ in columns)
        self.say(f"{title}\n\n| {headings} |\n|{rule}|")

    def add(self, record: Record) -> None:
        cells = " | ".join(str(cell(record)) for _, _, cell in self._columns)
        print(json.dumps(record) if self._as_json else f"| {cells} |", flush=True)

    def say(self, text: str) -> None:
        """Print a line that is no row, unless objects are printed."""
        if not self._as_json:
            print(text, flush=True)
