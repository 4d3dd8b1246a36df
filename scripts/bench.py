#!/usr/bin/env python3
"""Measure how fast vllava is against something known, both sides in one run, in turn.

scripts/bench startup
scripts/bench ask
scripts/bench read
scripts/bench chat
scripts/bench questions
scripts/bench batch
"""

import argparse

from benchmarks import ask, batch, chat, questions, read, startup

TABLES = {"ask": ask, "batch": batch, "startup": startup, "read": read, "chat": chat, "questions": questions}


def main() -> None:
    """Run one table and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tables = parser.add_subparsers(dest="table", required=True)
    for name, module in TABLES.items():
        module.add_options(tables.add_parser(name, description=module.__doc__))
    options = parser.parse_args()
    TABLES[options.table].print_table(options)


if __name__ == "__main__":
    main()
