"""The table `batch`: 64 clips asked one question, against the documented loop and against `vllava ask` in a shell loop.

Clips are drawn when they are first wanted and kept in build/bench/batch: 240p to 1080p, 5 to 60 s, H.264 and VP9.
Seconds are those of whole processes, loading included; the sides take turns. For the shell loop some of the clips are
asked, for `--many` all of them over and over under other names, and for `--large` a clip of 8K.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from make_checkpoint import make_checkpoint

from benchmarks.batch_clips import CLIPS, LARGE_CLIP, made
from benchmarks.machine import ROOT, machine_line

QUESTION = "What happens?"
BATCH, DOCUMENTED, SHELL = "vllava batch", "documented loop", "vllava ask in a loop"
WIDE = "wide"  # random weights of scripts/make_checkpoint.py, whose answers end with the budget
MAX_NEW_TOKENS = {"tiny": 512, WIDE: 16}
COLUMNS = ("model", "side", "clips", "s (min to max)", "clips/s", "ours is", "CPU s", "peak MB", "waits for frames")


@dataclass(slots=True)
class Row:
    """One side with one model: seconds, seconds of all processors, and peak memory in MB of 2^20 bytes, of each run.

    `waited` is the share of the time, loading aside, in which the model waited for frames; `num_equal` how many answers
    equal the documented loop's.
    """

    model: str
    side: str
    num_clips: int
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    peak_mb: list[float] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)
    answers: dict[str, str] = field(default_factory=dict)
    num_equal: int | None = None

    @property
    def clips_per_second(self) -> float:
        """The median."""
        return self.num_clips / median(self.seconds)


@dataclass(frozen=True, slots=True)
class Place:
    """A folder to work in, and the model that is asked there: a preset, or a folder of weights."""

    folder: Path
    model: str
    name: str


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this table."""
    parser.add_argument("--models", nargs="+", choices=list(MAX_NEW_TOKENS), default=list(MAX_NEW_TOKENS))
    parser.add_argument("--runs", type=int, default=3, help="of each side")
    parser.add_argument("--clips", type=int, default=len(CLIPS), metavar="N", help="the first N of the 64")
    parser.add_argument("--shell-clips", type=int, default=4, metavar="N", help="asked in the shell loop; 0: none")
    parser.add_argument("--many", type=int, default=1024, metavar="N", help="clips of one long run with tiny; 0: none")
    parser.add_argument(
        "--large", type=int, default=12, metavar="N", help="8K clips of one more run with tiny; 0: none"
    )
    parser.add_argument("--batch-size", default="auto", metavar="N|auto")
    parser.add_argument("--json", action="store_true", help="one object a row, with every single run")
    parser.add_argument("--make-clips", action="store_true", help="make the clips and measure nothing")


def print_table(options: argparse.Namespace) -> None:
    """Measure and print, each model as soon as it is measured."""
    clips = [made(clip) for clip in CLIPS[: options.clips]]
    if options.make_clips:
        return
    if not options.json:
        print(
            f"{machine_line(options.runs)}\n\n| {' | '.join(COLUMNS)} |\n|---|---|--:|--:|--:|--:|--:|--:|--:|",
            flush=True,
        )
    with TemporaryDirectory() as folder:
        for name in options.models:
            model = name
            if name == WIDE:
                model = str(Path(folder, WIDE))
                make_checkpoint(Path(model), geometry=WIDE)
            rows = measure(Place(Path(folder), model, name), clips, options)
            _print_rows(rows, as_json=options.json)


def measure(place: Place, clips: Sequence[Path], options: argparse.Namespace) -> list[Row]:
    """Run the sides in turn, and at the end the long run."""
    ours, documented = Row(place.name, BATCH, len(clips)), Row(place.name, DOCUMENTED, len(clips))
    shell = Row(place.name, SHELL, options.shell_clips)
    for run in range(options.runs):
        for row in (ours, documented, shell):
            if row.num_clips:
                print(f"{row.model}, {row.side}, run {run + 1}", file=sys.stderr)
                # What one shell loop takes of the clips is spread over them.
                asked = clips if row is not shell else clips[:: max(1, len(clips) // row.num_clips)][: row.num_clips]
                _measure_once(row, place, asked, options.batch_size)
    ours.num_equal = sum(documented.answers.get(clip) == answer for clip, answer in ours.answers.items())
    rows = [row for row in (ours, documented, shell) if row.seconds]
    if place.name != "tiny":
        return rows
    if options.many:
        rows.append(_measure_links(Row(place.name, BATCH, options.many), place, clips, options.batch_size))
    if options.large:
        row = Row(place.name, f"{BATCH}, 8K", options.large)
        rows.append(_measure_links(row, place, [made(LARGE_CLIP)], options.batch_size))
    return rows


def _measure_links(row: Row, place: Place, clips: Sequence[Path], batch_size: str) -> Row:
    """Ask once about so many links to the clips."""
    print(f"{row.model}, {row.side}, {row.num_clips} clips", file=sys.stderr)
    with TemporaryDirectory(dir=place.folder) as folder:
        for number in range(row.num_clips):
            clip = clips[number % len(clips)]
            Path(folder, f"{number:05}{clip.suffix}").symlink_to(clip)
        _measure_once(row, place, sorted(Path(folder).iterdir()), batch_size)
    return row


def _measure_once(row: Row, place: Place, clips: Sequence[Path], batch_size: str) -> None:
    new_tokens = str(MAX_NEW_TOKENS[place.name])
    vllava = [sys.executable, "-m", "videollava_cli"]
    common = ["-m", place.model, "--device", "cpu", "--max-new-tokens", new_tokens]
    out, summary, listed = (place.folder / name for name in ("out.jsonl", "summary.json", "list"))
    began = time.perf_counter()
    if row.side == SHELL:
        used = [_run([*vllava, "ask", str(clip), QUESTION, *common], out) for clip in clips]
    elif row.side.startswith(BATCH):
        listed.write_bytes(b"".join(os.fsencode(clip) + b"\0" for clip in clips))
        options = ["--from-file", str(listed), "-0", "-q", QUESTION, "--batch-size", batch_size, *common]
        used = [_run([*vllava, "batch", *options, "--json-summary", str(summary)], out)]
    else:
        documented = [sys.executable, "-m", "benchmarks.documented_loop", place.model, QUESTION, new_tokens]
        used = [_run([*documented, *map(str, clips)], out)]
    row.seconds.append(time.perf_counter() - began)
    row.cpu_seconds.append(sum(cpu_seconds for cpu_seconds, _ in used))
    row.peak_mb.append(max(peak_mb for _, peak_mb in used))
    if row.side == SHELL:
        return
    row.answers = {line["id"]: line["answer"] for line in map(json.loads, out.read_text().splitlines())}
    if len(row.answers) != len(clips):
        raise SystemExit(f"{row.side} answered {len(row.answers)} of {len(clips)}")
    if row.side.startswith(BATCH):
        sums = json.loads(summary.read_text())
        row.waited.append(sums["wait_s"] / (sums["seconds"] - sums["load_s"]))


def _run(command: list[str], out: Path) -> tuple[float, float]:
    """Run a command whose output goes to a file; return its seconds of all processors and its peak memory in MB.

    Raises:
        SystemExit: If it fails.
    """
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'scripts'}"}
    with out.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.DEVNULL, env=environment)
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command[:5])} ... ended with {process.returncode}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def _print_rows(rows: list[Row], *, as_json: bool) -> None:
    ours = rows[0]
    for row in rows:
        ratio = ours.clips_per_second / row.clips_per_second
        if as_json:
            record = {key: value for key, value in asdict(row).items() if key != "answers"}
            print(json.dumps(record | {"clips_per_second": row.clips_per_second, "ratio": ratio}), flush=True)
            continue
        spread = f"{median(row.seconds):.1f} ({min(row.seconds):.1f} to {max(row.seconds):.1f})"
        cells = [row.model, row.side, f"{row.num_clips:,}", spread, f"{row.clips_per_second:.2f}"]
        cells += [
            f"{ratio:.1f} times" if row.side in (DOCUMENTED, SHELL) else "",
            f"{median(row.cpu_seconds):.1f}",
            f"{max(row.peak_mb):.0f}",
        ]
        cells.append(f"{median(row.waited):.0%}" if row.waited else "")
        print(f"| {' | '.join(cells)} |", flush=True)
    if not as_json and ours.num_equal is not None:
        print(f"\n{ours.model}: {ours.num_equal} of {ours.num_clips} answers equal the documented loop's\n", flush=True)
