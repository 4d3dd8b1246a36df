"""`scripts/bench chat` and `scripts/bench questions`, each with one run on a small checkpoint."""

import json

import bench
import pytest


@pytest.mark.parametrize(("table", "names"), [("chat", ["1", "2", "10"]), ("questions", ["1", "4", "16"])])
def test_rows_tell_every_single_time_of_both_sides(capsys, table, names):
    bench.main([table, "--geometry", "mini", "--runs", "1", "--json"])

    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["name"] for row in rows] == names
    for row in rows:
        assert len(row["ours"]) == len(row["documented"]) == 1
        assert row["ratio"] == row["ours"][0] / row["documented"][0]


def test_table_names_machine_and_weights(capsys):
    bench.main(["questions", "--geometry", "mini", "--runs", "1"])

    printed = capsys.readouterr().out
    assert "mini: 0 M random weights, fp32, 40 tokens a clip" in printed
    assert printed.count("\n| ") == 4
