"""`scripts/bench chat` and `scripts/bench questions`, each with one run on a small checkpoint."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def bench(table, *options):
    command = [sys.executable, "scripts/bench.py", table, "--geometry", "mini", "--runs", "1", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300).stdout


@pytest.mark.parametrize(("table", "names"), [("chat", ["1", "2", "10"]), ("questions", ["1", "4", "16"])])
def test_rows_tell_every_single_time_of_both_sides(table, names):
    rows = [json.loads(line) for line in bench(table, "--json").splitlines()]

    assert [row["name"] for row in rows] == names
    for row in rows:
        assert len(row["ours"]) == len(row["documented"]) == 1
        assert row["ratio"] == row["ours"][0] / row["documented"][0]


def test_table_names_machine_and_weights():
    said = bench("questions")

    assert "mini: 0 M random weights, fp32, 40 tokens a clip" in said
    assert said.count("\n| ") == 4
