#!/usr/bin/env python3
"""Measure how fast vllava is against something known, both sides in one run, in turn.

scripts/bench ask      scripts/bench batch      scripts/bench startup
scripts/bench read     scripts/bench chat       scripts/bench questions
scripts/bench load     scripts/bench generate   scripts/bench gpu
scripts/bench cpu
"""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

TABLES = ("ask", "batch", "startup", "read", "chat", "questions", "generate", "gpu", "load", "cpu")
MODULES = {"chat": "talking", "questions": "talking"}  # of tables that are not named like their module
ROOT = Path(__file__).resolve().parents[1]


def main(arguments: Sequence[str]) -> None:
    """Run one table and print it; only its own module is imported, so that it needs no more than it uses."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tables = parser.add_subparsers(dest="table", required=True)
    modules = {name: import_module(f"benchmarks.{MODULES.get(name, name)}") for name in TABLES if name in arguments[:1]}
    for name in TABLES:
        table = tables.add_parser(name, description=modules[name].__doc__ if name in modules else None)
        if name in modules:
            modules[name].add_options(table)
    options = parser.parse_args(arguments)
    modules[options.table].print_table(options)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # where vllava is not installed, as on a rented machine with a card
    main(sys.argv[1:])
