#!/usr/bin/env python3
"""Kill, starve and damage runs of `vllava batch`, resume them, and check their output.

    kill     the process is killed with SIGKILL at random moments and started again
    disk     the file may not grow beyond a limit (RLIMIT_FSIZE), which is raised each time the run stops over it
    broken   one clip in five is broken, and the process is killed as well

At the end every item must have exactly one line, of JSON, with the right answer; else the exit status is 1.

    python scripts/faults.py batch         # 50 kills over 200 clips, the same with broken ones, 10 full disks
    python scripts/faults.py batch --kills 5 --clips 20 --kinds kill
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = {
    "circle-moves-right.mp4": "A red circle moves from left to right.",
    "ring-moves-up.mp4": "A green ring moves from bottom to top.",
    "triangle-disappears.mp4": "A pink triangle disappears.",
    "star-grows.webm": "A yellow star grows.",
}
QUESTION = "What happens?"
KILLS_PER_FILE = 5  # few, so that kills fall on every part of a file
BYTES_PER_LINE = 1100  # about
LIMIT_SECONDS = 300.0  # for one process
LIMITED = """
import resource, runpy, sys
limit = int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
runpy.run_module("videollava_cli", run_name="__main__")
"""
KINDS = ("kill", "broken", "disk")


@dataclass(slots=True, eq=False)
class Round:
    """One file to be written under faults, what was done to it, and what is wrong with it."""

    kind: str
    number: int
    num_clips: int
    num_faults: int
    num_kills: int = 0
    num_full: int = 0
    num_processes: int = 0
    num_lines: int = 0
    wrong: list[str] = field(default_factory=list)

    def is_broken(self, clip: int) -> bool:
        return self.kind == "broken" and clip % 5 == 0


def main() -> int:
    """Run all rounds, print the counts, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["batch"])
    parser.add_argument("--clips", type=int, default=200, metavar="N", help="in each work list")
    parser.add_argument("--kills", type=int, default=50, metavar="N", help="for each of kill and broken")
    parser.add_argument("--full", type=int, default=10, metavar="N", help="times that the disk is full")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--parallel", type=int, default=2, metavar="N", help="processes at once")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    num_faults = {"kill": options.kills, "broken": options.kills, "disk": options.full}
    rounds = []
    for kind in options.kinds:
        for number, first in enumerate(range(0, num_faults[kind], KILLS_PER_FILE)):
            rounds.append(Round(kind, number, options.clips, min(KILLS_PER_FILE, num_faults[kind] - first)))
    with TemporaryDirectory() as folder, ThreadPoolExecutor(options.parallel) as pool:
        list(pool.map(lambda each: run_round(each, Path(folder), options.seed), rounds))
    for kind in options.kinds:
        files = [each for each in rounds if each.kind == kind]
        print(
            f"{kind}: {len(files)} files, {sum(each.num_lines for each in files):,} lines, "
            f"{sum(each.num_processes for each in files)} processes, {sum(each.num_kills for each in files)} killed, "
            f"{sum(each.num_full for each in files)} stopped by a full disk, "
            f"{sum(len(each.wrong) for each in files)} wrong"
        )
    wrong = [text for each in rounds for text in each.wrong]
    print("\n".join(wrong[:20]) or "every item exactly once, every line JSON, every answer right")
    return 1 if wrong else 0


def run_round(each: Round, folder: Path, seed: int) -> None:
    """Write one file to its end, with faults on the way, and check it."""
    place = folder / f"{each.kind}-{each.number}"
    place.mkdir()
    make_clips(each, place / "clips")
    out = place / "out.jsonl"
    chance = random.Random(f"{seed} {each.kind} {each.number}")  # noqa: S311 (moments, no secrets)
    for fault in range(each.num_faults):
        num_lines = each.num_clips * (fault + 1) // (each.num_faults + 1)
        if each.kind == "disk":
            _run_on_small_disk(each, place, num_lines * BYTES_PER_LINE)
        else:
            _run_and_kill(each, place, chance, num_lines)
    status, expected = _start(each, place).wait(LIMIT_SECONDS), 4 if each.kind == "broken" else 0
    if status != expected:
        each.wrong.append(f"{place.name}: the last run ended with {status}, not {expected}")
    each.wrong += [f"{place.name}: {text}" for text in check(each, out)]
    each.num_lines = len(out.read_bytes().splitlines())


def make_clips(each: Round, folder: Path) -> None:
    """Link the examples under as many names as there are clips, or write broken copies."""
    folder.mkdir()
    names = list(EXAMPLES)
    for clip in range(each.num_clips):
        name = names[clip % len(names)]
        target = folder / f"{clip:04}-{name}"
        if each.is_broken(clip):
            target.write_bytes((ROOT / "examples" / name).read_bytes()[:300] + bytes(100))
        else:
            shutil.copyfile(ROOT / "examples" / name, target)  # links to one file would be one item


def check(each: Round, out: Path) -> Iterator[str]:
    """Yield what is wrong with a finished file."""
    content = out.read_bytes()
    if not content.endswith(b"\n"):
        yield "the last line has no end"
    lines = []
    for number, text in enumerate(content.splitlines(), 1):
        try:
            lines.append(json.loads(text))
        except ValueError as error:
            yield f"line {number} is no JSON: {error}"
    seen = Counter(Path(line["id"]).name for line in lines)
    names = list(EXAMPLES)
    expected = {f"{clip:04}-{names[clip % len(names)]}": clip for clip in range(each.num_clips)}
    for name in sorted(expected.keys() | seen.keys()):
        if seen[name] != (name in expected):
            yield f"{name} is there {seen[name]} times"
    for line in lines:
        name = Path(line["id"]).name
        if each.is_broken(expected.get(name, 1)) != ("error" in line):
            yield f"{name} should{'' if 'answer' in line else ' not'} have failed"
        elif "answer" in line and line["answer"] != EXAMPLES[name[5:]]:
            yield f"{name}: {line['answer']!r}"


def _run_and_kill(each: Round, place: Path, chance: random.Random, num_lines: int) -> None:
    """Start a run and kill it a random while after it has written `num_lines` in all, or before it writes one."""
    process, out = _start(each, place), place / "out.jsonl"
    if chance.random() < 0.2:  # while it loads, opens or repairs the file
        time.sleep(chance.uniform(0, 4))
    else:
        began = time.monotonic()
        while process.poll() is None and time.monotonic() - began < LIMIT_SECONDS:
            if out.exists() and out.read_bytes().count(b"\n") >= num_lines:
                break
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.3))
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
        each.num_kills += 1
    process.wait()
    if chance.random() < 0.5 and out.exists():  # as if the last write had been cut in two
        os.truncate(out, max(0, out.stat().st_size - chance.randrange(1, 400)))


def _run_on_small_disk(each: Round, place: Path, num_bytes: int) -> None:
    process = _start(each, place, num_bytes)
    _, errors = process.communicate(timeout=LIMIT_SECONDS)
    if process.returncode != 1 or b"what it holds is kept" not in errors:
        each.wrong.append(f"{place.name}: a full disk gave {process.returncode} and {errors[-200:]!r}")
    each.num_full += 1


def _start(each: Round, place: Path, max_bytes: int | None = None) -> subprocess.Popen[bytes]:
    each.num_processes += 1
    start = ["-m", "videollava_cli"] if max_bytes is None else ["-c", LIMITED, str(max_bytes)]
    asked = ["batch", "clips", "-q", QUESTION, "-m", "tiny", "--device", "cpu", "-o", "out.jsonl"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    stderr = subprocess.DEVNULL if max_bytes is None else subprocess.PIPE
    return subprocess.Popen([sys.executable, *start, *asked], cwd=place, env=environment, stderr=stderr)


if __name__ == "__main__":
    sys.exit(main())
