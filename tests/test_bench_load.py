"""`scripts/bench load`, with one run on a small checkpoint."""

import json
import sys

import bench
import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="peaks of memory are read from /proc")
def test_rows_tell_seconds_and_peaks_and_both_4_bit_ways_give_the_same_tokens(capsys):
    bench.main(["load", "--geometry", "mini", "--runs", "1", "--tokens", "4", "--only-4-bit", "--json"])

    *rows, sums = [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    ways = ["4-bit, quantizing", "4-bit, kept"]
    assert [row["name"] for row in rows] == [*ways, "cat FILES > /dev/null", "reading and copying the files"]
    assert [len(row["seconds"]) for row in rows] == [1, 1, 2, 2]
    assert rows[0]["weight_bytes"] == rows[1]["weight_bytes"] > 0
    assert (sums["same_tokens"], sums["tokens"]) == (4, 4)
