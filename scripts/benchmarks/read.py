"""The table `read`: from a path to eight frames at the model's side, ours against other readers, one method a process.

Clips are made when they are first wanted and kept in build/bench/clips; in each frame its number is drawn, so that a
method's frames can be judged. Other files are judged by decoding all of them. Files are in the page cache.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.clips import CLIPS, WARM_UP, BenchClip, made
from benchmarks.judging import RIGHT, Judge, marker_judge, sequential_judge
from benchmarks.machine import machine_line
from benchmarks.methods import METHODS
from benchmarks.peers import install_peer
from videollava_cli.machine import num_processors

COPY_BYTES = 1 << 20
DOCUMENTED = "documented"
FAILS = "fails"
MAX_REASON = 120  # letters
COLUMNS = ("clip", "threads", "method", "s (min to max)", "ratio to documented", "peak MB", "frames")


@dataclass(slots=True)
class Row:
    """One method on one clip: seconds and MB of each run, and what became of its frames."""

    clip: str
    threads: int
    method: str
    seconds: list[float] = field(default_factory=list)
    peak_mb: list[float] = field(default_factory=list)
    verdict: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """What all measurements of one table share: runs of each, seconds a run may take, each method's environment."""

    num_runs: int
    limit_seconds: float
    environments: dict[str, dict[str, str]]
    warm_up: Path


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this table."""
    names = [clip.name for clip in CLIPS]
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="videos of your own")
    parser.add_argument("--clips", nargs="*", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS), metavar="METHOD")
    parser.add_argument("--threads", nargs="+", choices=["1", "all"], default=["1", "all"])
    parser.add_argument("--runs", type=int, default=5, help="of each method")
    parser.add_argument("--limit", type=float, default=900, metavar="SECONDS", help="for one run")
    parser.add_argument("--json", action="store_true", help="one object a row, with every single run")
    parser.add_argument("--make-clips", action="store_true", help="make the clips and measure nothing")


def print_table(options: argparse.Namespace) -> None:
    """Measure and print, each clip as soon as it is measured."""
    clips = [clip for clip in CLIPS if clip.name in options.clips]
    if options.make_clips:
        for clip in clips:
            print(made(clip))
        return
    plan = Plan(options.runs, options.limit, {m: install_peer(m) for m in options.methods}, made(WARM_UP))
    thread_counts = sorted({1 if name == "1" else num_processors() for name in options.threads})
    if not options.json:
        print(f"{machine_line(options.runs)}\n\n| {' | '.join(COLUMNS)} |\n|---|--:|---|--:|--:|--:|---|", flush=True)
    for name, path, judge in _work(clips, options.files):
        for threads in thread_counts:
            rows = [Row(name, threads, method) for method in options.methods]
            measure(rows, path, judge, plan)
            _print_rows(rows, as_json=options.json)


def measure(rows: list[Row], path: Path, judge: Judge, plan: Plan) -> None:
    """Run the methods in turn, A B C A B C, each in a process of its own, and fill in their rows."""
    _into_page_cache(path)
    for run in range(plan.num_runs):
        for row in rows:
            if row.verdict.startswith(FAILS):
                continue
            print(f"{row.clip}, {row.method}, threads {row.threads}, run {run + 1}", file=sys.stderr)
            _measure_once(row, path, judge, plan)


def _work(clips: list[BenchClip], files: list[Path]) -> Iterator[tuple[str, Path, Judge]]:
    """Yield each clip's name, its file, and what judges it."""
    for clip in clips:
        yield clip.name, made(clip), marker_judge(clip.recipe.num_frames)
    for path in files:
        yield path.name, path, sequential_judge(path)


def _measure_once(row: Row, path: Path, judge: Judge, plan: Plan) -> None:
    num_processors_used = {"OMP_NUM_THREADS": str(row.threads)}  # torch's, for shrinking
    with TemporaryDirectory() as folder:
        saved = Path(folder, "frames.npy")
        command = [sys.executable, "-m", "benchmarks.methods", row.method, str(path), "--threads", str(row.threads)]
        command += ["--warm-up", str(plan.warm_up), "--frames", str(saved)]
        environment = plan.environments[row.method] | num_processors_used
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=plan.limit_seconds, check=False
            )
        except subprocess.TimeoutExpired:
            row.verdict = f"{FAILS}: nothing within {plan.limit_seconds:g} s"
            return
        if done.returncode:
            row.verdict = f"{FAILS}: {_reason(done)[:MAX_REASON]}"
            return
        measured = json.loads(done.stdout.splitlines()[-1])
        row.seconds.append(measured["seconds"])
        row.peak_mb.append(measured["peak_mb"])
        verdict = judge(np.load(saved))
        row.verdict = verdict if row.verdict in ("", RIGHT) else row.verdict


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    """Return why a method's process failed, in one line."""
    if done.returncode < 0:
        return f"killed by signal {-done.returncode}"
    lines = done.stdout.splitlines() if done.returncode == 1 else []
    if lines and lines[-1].startswith("{"):
        return str(json.loads(lines[-1])["failure"])
    said = done.stderr.strip().splitlines()
    return said[-1] if said else f"exit status {done.returncode}"


def _print_rows(rows: list[Row], *, as_json: bool) -> None:
    documented = next((median(row.seconds) for row in rows if row.method == DOCUMENTED and row.seconds), None)
    for row in rows:
        ratio = median(row.seconds) / documented if documented and row.seconds else None
        if as_json:
            print(json.dumps(asdict(row) | {"ratio": ratio}), flush=True)
            continue
        cells = [row.clip, str(row.threads), row.method, _spread(row.seconds), f"{ratio:.3f}" if ratio else ""]
        cells += [f"{max(row.peak_mb):.0f}" if row.peak_mb else "", row.verdict.replace("|", "/")]
        print(f"| {' | '.join(cells)} |", flush=True)


def _spread(seconds: list[float]) -> str:
    return f"{median(seconds):.3f} ({min(seconds):.3f} to {max(seconds):.3f})" if seconds else ""


def _into_page_cache(path: Path) -> None:
    with path.open("rb") as file:
        while file.read(COPY_BYTES):
            pass
