"""`scripts/bench cpu`, with one run on a small checkpoint."""

import re
import sys

import bench
import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="peaks of memory are read from /proc")
def test_rows_have_what_was_measured_beside_the_limits_and_a_missing_peer_is_said(capsys):
    bench.main(["cpu", "--geometry", "mini", "--tokens", "4", "--peer-python", "/bin/false"])

    title, _, _, _, *rows, _, said = capsys.readouterr().out.splitlines()

    assert re.search(r"; mini: random weights; \d+ prompt tokens, 4 new ones; limits: \d+ GFLOP/s in bfloat16, ", title)
    assert said.endswith("not measured, since /bin/false lacks llama-cpp-python or gguf")
    cells = [row.strip("| ").split(" | ") for row in rows]
    assert [name for name, *_ in cells] == ["bfloat16", "4-bit"]
    for _, *numbers in cells:
        load, first, first_limit, rate, rate_limit, peak = (float(number.split()[0]) for number in numbers)
        assert min(load, first, peak) > 0
        assert first >= first_limit
        assert 0 < rate < rate_limit
