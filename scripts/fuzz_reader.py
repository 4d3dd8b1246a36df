#!/usr/bin/env python3
"""Damage small files of every format at random, and check that the reader survives them (Linux only).

The outcome must be eight frames, a picture, or a `MediaError` of one line, within the limits of time and memory. An
input that fails is saved in build/fuzz, and can be made again from its seed and number:

    python scripts/fuzz_reader.py                            # 10,000 inputs; exit status 1 if one failed
    python scripts/fuzz_reader.py --seed 0 --only 1234       # that one input
"""

import argparse
import json
import select
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from typing import Self

from benchmarks.table import child_environment
from fuzzing.child import Outcome
from fuzzing.mutation import mutated
from fuzzing.seeds import make_seeds

from videollava_cli.machine import num_processors

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "build" / "fuzz"
START_SECONDS = 120.0  # for the imports of a child, on a busy machine
NUM_INPUTS_A_CHILD = 400  # then a fresh one takes over, so that leaks do not add up


@dataclass(frozen=True, slots=True)
class Result:
    """An input, by its number and the name of the damaged file, and its outcome; `kept` if it failed."""

    number: int
    name: str
    outcome: Outcome
    kept: Path | None = None


class Child:
    """A process that reads one file after the other, replaced when it dies, hangs or grows old.

    An input may take `max_mb` of address space beyond what the started process has, and `seconds`.
    """

    def __init__(self, whole: bytes, *, max_mb: int, seconds: float) -> None:
        self._whole, self._max_mb, self._seconds = whole, max_mb, seconds
        self._folder = TemporaryDirectory(prefix="fuzz-")
        self._errors = Path(self._folder.name, "stderr")
        self._process: subprocess.Popen[str] | None = None
        self._num_inputs = self._status = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        self._folder.cleanup()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def read(self, name: str, content: bytes) -> Outcome:
        if self._process is None or self._num_inputs >= NUM_INPUTS_A_CHILD:
            self._start()
        self._num_inputs += 1
        return self._reply(name, content, self._seconds)

    def _start(self) -> None:
        self._end()
        command = [sys.executable, "-m", "fuzzing.child", str(self._max_mb), str(self._seconds)]
        environment = child_environment() | {"MALLOC_ARENA_MAX": "2", "OMP_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        with self._errors.open("w") as errors:
            self._process = subprocess.Popen(
                command, env=environment, stdin=pipe, stdout=pipe, stderr=errors, text=True
            )
        self._num_inputs = 0
        warm_up = self._reply("mp4", self._whole, START_SECONDS)
        if warm_up.kind != "clip":
            raise RuntimeError(f"a whole clip cannot be read: {warm_up}")

    def _reply(self, name: str, content: bytes, seconds: float) -> Outcome:
        assert self._process
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin
        assert stdout
        path = Path(self._folder.name, f"input.{name.rpartition('.')[2]}")
        path.write_bytes(content)
        with suppress(BrokenPipeError):  # it died since the last input: see below
            stdin.write(f"{path}\n")
            stdin.flush()
        is_ready = select.select([stdout], [], [], seconds + 1)[0]
        line = stdout.readline() if is_ready else ""
        if line:
            outcome = Outcome(**json.loads(line))
            return outcome if outcome.seconds <= seconds else replace(outcome, kind=f"hang beyond {seconds:g} s")
        self._end()
        errors = self._errors.read_text(errors="replace").strip()[-1500:]
        is_late = not is_ready or "Timeout (" in errors  # faulthandler's word; its dump may crash a busy process
        kind = f"hang beyond {seconds:g} s" if is_late else f"killed by signal {-self._status}"
        return Outcome(kind, errors, seconds, 0.0)

    def _end(self) -> None:
        if self._process:
            self._process.kill()
            self._status = self._process.wait()
            for pipe in filter(None, (self._process.stdin, self._process.stdout)):
                with suppress(BrokenPipeError):
                    pipe.close()
        self._process = None


def main() -> int:
    """Print the outcomes; return 1 if an input failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, nargs="+", metavar="NUMBER", help="make and read these inputs, keep them")
    parser.add_argument("--workers", type=int, default=num_processors())
    parser.add_argument("--max-mb", type=int, default=1024, help="of address space that an input may take")
    parser.add_argument("--seconds", type=float, default=20, help="that an input may take")
    options = parser.parse_args()
    numbers, limits = options.only or range(options.num_inputs), (options.max_mb, options.seconds)
    results = []
    for result in fuzz(numbers, options.seed, num_workers=options.workers, limits=limits):
        results.append(result)
        outcome = result.outcome
        if outcome.is_failure or options.only:
            print(f"{_named(result, options.seed)}: {outcome.kind}: {outcome.message}", flush=True)
        if len(results) % 500 == 0:
            print(f"{len(results)} inputs read", file=sys.stderr)
    _print_summary(results, options.seed)
    return 1 if any(result.outcome.is_failure for result in results) else 0


def fuzz(numbers: Iterable[int], seed: int, *, num_workers: int, limits: tuple[int, float]) -> Iterator[Result]:
    """Make the inputs of some numbers, read each in a child, and yield the results in order."""
    seeds = make_seeds()
    free: SimpleQueue[Child] = SimpleQueue()

    def run(number: int) -> Result:
        name, content = mutated(seeds, seed, number)
        child = free.get()
        try:
            outcome = child.read(name, content)
        finally:
            free.put(child)
        if not outcome.is_failure:
            return Result(number, name, outcome)
        KEPT.mkdir(parents=True, exist_ok=True)
        path = KEPT / f"{seed}-{number}.{name}"
        path.write_bytes(content)
        return Result(number, name, outcome, path)

    with ExitStack() as stack:
        for _ in range(num_workers):
            free.put(stack.enter_context(Child(seeds["mp4"], max_mb=limits[0], seconds=limits[1])))
        yield from stack.enter_context(ThreadPoolExecutor(num_workers)).map(run, numbers)


def _named(result: Result, seed: int) -> str:
    kept = f", kept as {result.kept.relative_to(ROOT)}" if result.kept else ""
    return f"{result.name}, --seed {seed} --only {result.number}{kept}"


def _print_summary(results: list[Result], seed: int) -> None:
    counts = Counter(result.outcome.kind for result in results)
    print(f"{len(results)} inputs: " + ", ".join(f"{number} {kind}" for kind, number in counts.most_common()))
    slowest = max(results, key=lambda result: result.outcome.seconds)
    largest = max(results, key=lambda result: result.outcome.grown_mb)
    print(f"worst time: {slowest.outcome.seconds:.2f} s ({_named(slowest, seed)})")
    print(f"worst memory growth: {largest.outcome.grown_mb:.0f} MB ({_named(largest, seed)})")
    print(f"failures: {sum(result.outcome.is_failure for result in results)}")


if __name__ == "__main__":
    sys.exit(main())
