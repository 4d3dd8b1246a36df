"""`scripts/fuzz_reader.py`: damage that can be made again, and a reader that survives it."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fuzz_reader import Child, Limits, fuzz
from fuzzing.mutation import MUTATORS, mutated
from fuzzing.seeds import make_seeds

ROOT = Path(__file__).resolve().parents[1]
LIMITS = Limits(max_mb=1024, seconds=60)  # a test must not fail since the machine is busy


@pytest.fixture(scope="module")
def seeds():
    return make_seeds()


def test_seeds_are_files_that_the_reader_reads(seeds, tmp_path, read):
    for name, content in seeds.items():
        path = tmp_path / f"seed.{name}"
        path.write_bytes(content)

        assert not read(path).notices, name


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
    results = list(fuzz(range(40), 0, 2, LIMITS))

    assert [result.number for result in results] == list(range(40))
    assert [result for result in results if result.outcome.is_failure] == []


@pytest.mark.parametrize(
    ("sent", "kind"), [(signal.SIGSTOP, "hang beyond 5 s"), (signal.SIGSEGV, "killed by signal 11")]
)
def test_child_that_hangs_or_crashes_is_a_failure_and_replaced(seeds, sent, kind):
    with Child(Limits(1024, 5), seeds["mp4"]) as child:
        assert child.read("mkv", seeds["mkv"]).kind == "clip"
        os.kill(child.pid, sent)
        time.sleep(0.1)

        assert child.read("mkv", seeds["mkv"]).kind == kind
        assert child.read("mkv", seeds["mkv"]).kind == "clip"


def test_command_makes_one_input_again():
    command = [sys.executable, str(ROOT / "scripts/fuzz_reader.py"), "--seed", "0", "--only", "3"]

    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert done.stdout.startswith("mpeg4.mp4, --seed 0 --only 3: ")
    assert "failures: 0" in done.stdout
