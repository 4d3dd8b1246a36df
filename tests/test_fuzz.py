"""`scripts/fuzz_reader.py`: damage that can be made again, and a reader that survives it."""

import os
import random
import signal
import sys
import time

import fuzz_reader
import pytest
from fuzz_reader import Child, fuzz
from fuzzing.mutation import MUTATORS, mutated
from fuzzing.seeds import make_seeds

LIMITS = (1024, 60)  # MB and seconds: a test must not fail since the machine is busy


@pytest.fixture(scope="module")
def seeds():
    return make_seeds()


def test_seeds_are_files_that_the_reader_reads(seeds, tmp_path, read):
    for name, content in seeds.items():
        path = tmp_path / f"seed.{name}"
        path.write_bytes(content)

        assert not [each for each in read(path).notices if "has no timestamps" not in each], name


def test_seeds_are_the_same_bytes_at_every_run(seeds):
    assert make_seeds() == seeds


def test_damage_is_the_same_for_the_same_seed_and_number(seeds):
    inputs = [mutated(seeds, 3, number) for number in range(100)]

    assert inputs == [mutated(seeds, 3, number) for number in range(100)]
    assert inputs != [mutated(seeds, 4, number) for number in range(100)]
    assert sum(content != seeds[name] for name, content in inputs) > 90


@pytest.mark.parametrize("mutator", MUTATORS)
def test_every_mutator_bears_the_smallest_inputs(mutator):
    for seed in range(200):
        content = bytearray(b"\0\0\0\x08ftypmp4"[: 8 + seed % 3])
        mutator(content, random.Random(seed))  # noqa: S311 (no secret)


def test_forty_damaged_inputs_give_frames_or_one_line():
    results = list(fuzz(range(40), 0, num_workers=2, limits=LIMITS))

    assert [result.number for result in results] == list(range(40))
    assert [result for result in results if result.outcome.is_failure] == []


@pytest.fixture(scope="module")
def child(seeds):
    with Child(seeds["mp4"], max_mb=1024, seconds=1) as child:
        yield child


@pytest.mark.parametrize(
    ("sent", "kind"), [(signal.SIGSTOP, "hang beyond 1 s"), (signal.SIGSEGV, "killed by signal 11")]
)
def test_child_that_hangs_or_crashes_is_a_failure_and_replaced(seeds, child, sent, kind):
    assert child.read("mkv", seeds["mkv"]).kind == "clip"
    os.kill(child.pid, sent)
    time.sleep(0.1)

    assert child.read("mkv", seeds["mkv"]).kind == kind
    assert child.read("mkv", seeds["mkv"]).kind == "clip"


def test_command_makes_one_input_again(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["fuzz_reader.py", "--seed", "0", "--only", "3", "--workers", "1"])

    assert fuzz_reader.main() == 0

    printed = capsys.readouterr().out
    assert printed.startswith("mpeg4.mp4, --seed 0 --only 3: ")
    assert "failures: 0" in printed
