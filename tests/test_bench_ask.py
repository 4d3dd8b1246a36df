"""`scripts/bench ask` with one run: both sides give the same answers, and their times are told."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_row_tells_every_single_time_of_both_sides():
    command = [sys.executable, "scripts/bench.py", "ask", "--runs", "1", "--cases", "webm", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300)

    row = json.loads(done.stdout)
    assert row["name"] == "webm"
    for side in (row["ours"], row["documented"]):
        [first], [whole] = side["first"], side["whole"]
        assert 0 < first < whole
    assert row["ratios"]["whole"] == row["ours"]["whole"][0] / row["documented"]["whole"][0]
