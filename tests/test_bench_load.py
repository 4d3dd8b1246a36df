"""`scripts/bench load`, with one run on a small checkpoint."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.skipif(sys.platform != "linux", reason="peaks of memory are read from /proc")
def test_rows_tell_seconds_and_peaks_and_both_4_bit_ways_give_the_same_tokens():
    command = [sys.executable, "scripts/bench.py", "load", "--geometry", "mini", "--runs", "1", "--tokens", "4"]
    run = [*command, "--only-4-bit", "--json"]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300)

    *rows, sums = [json.loads(line) for line in done.stdout.splitlines()]

    ways = ["4-bit, quantizing", "4-bit, kept"]
    assert [row["name"] for row in rows] == [*ways, "cat FILES > /dev/null", "reading and copying the files"]
    assert [len(row["seconds"]) for row in rows] == [1, 1, 2, 2]
    assert rows[0]["weight_bytes"] == rows[1]["weight_bytes"] > 0
    assert (sums["same_tokens"], sums["tokens"]) == (4, 4)
