"""The table `batch`: 64 clips asked one question, against the documented loop and against `vllava ask` in a shell loop.

Clips (240p to 1080p, 5 to 60 s, H.264 and VP9) are drawn once into build/bench/batch. Seconds are those of whole
processes, loading included. `--many` links all clips under many names, `--large` one of 8K.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from make_checkpoint import make_checkpoint

from benchmarks import table
from benchmarks.batch_clips import CLIPS, LARGE_CLIP, made
from benchmarks.table import Record, spread
from videollava_cli.engine.checkpoint import BUNDLED_FOLDER

QUESTION = "What happens?"
BATCH, DOCUMENTED, SHELL = "vllava batch", "documented loop", "vllava ask in a loop"
WIDE = "wide"  # random weights of scripts/make_checkpoint.py, whose answers end with the budget
MAX_NEW_TOKENS = {"tiny": 512, WIDE: 16}
# CPU seconds are those of all processors, MB 2^20 bytes; the share of waiting is of the time after loading.
COLUMNS: tuple[table.Column, ...] = (
    ("model", "<", lambda row: row["model"]),
    ("side", "<", lambda row: row["side"]),
    ("clips", ">", lambda row: f"{row['num_clips']:,}"),
    ("s (min to max)", ">", lambda row: spread(row["seconds"], 1)),
    ("clips/s", ">", lambda row: f"{row['clips_per_second']:.2f}"),
    ("ours is", ">", lambda row: f"{row['ratio']:.1f} times" if row["side"] in (DOCUMENTED, SHELL) else ""),
    ("CPU s", ">", lambda row: f"{median(row['cpu_seconds']):.1f}"),
    ("peak MB", ">", lambda row: f"{max(row['peak_mb']):.0f}"),
    ("waits for frames", ">", lambda row: f"{median(row['waited']):.0%}" if row["waited"] else ""),
)


@dataclass(frozen=True, slots=True)
class Bench:
    """A model that is asked, by the name or folder that `-m` takes; a folder to work in, and the options."""

    name: str
    folder: Path
    model: str
    options: argparse.Namespace

    def row(self, side: str, num_clips: int) -> Record:
        row: Record = {"model": self.name, "side": side, "num_clips": num_clips, "num_equal": None}
        return row | {"seconds": [], "cpu_seconds": [], "peak_mb": [], "waited": []}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this table."""
    table.add_options(parser, runs=3, of="each side")
    parser.add_argument("--models", nargs="+", choices=list(MAX_NEW_TOKENS), default=list(MAX_NEW_TOKENS))
    parser.add_argument("--clips", type=int, default=len(CLIPS), metavar="N", help="the first N of the 64")
    parser.add_argument("--shell-clips", type=int, default=4, metavar="N", help="asked in the shell loop; 0: none")
    parser.add_argument("--many", type=int, default=1024, metavar="N", help="clips of one long run with tiny; 0: none")
    parser.add_argument("--large", type=int, default=12, metavar="N", help="8K clips of one more run; 0: none")
    parser.add_argument("--batch-size", default="auto", metavar="N|auto")
    parser.add_argument("--make-clips", action="store_true", help="make the clips and measure nothing")


def print_table(options: argparse.Namespace) -> None:
    """Measure and print, each model as soon as it is measured."""
    clips = [made(clip) for clip in CLIPS[: options.clips]]
    if options.make_clips:
        return
    printed = table.Table(options, COLUMNS)
    with TemporaryDirectory() as folder:
        for name in options.models:
            model = name
            if name == WIDE:
                model = str(Path(folder, WIDE))
                make_checkpoint(Path(model), geometry=WIDE)
            rows = measure(Bench(name, Path(folder), model, options), clips)
            for row in rows:
                row["clips_per_second"] = row["num_clips"] / median(row["seconds"])
                printed.add(row | {"ratio": rows[0]["clips_per_second"] / row["clips_per_second"]})
            num_equal, num_clips = rows[0]["num_equal"], rows[0]["num_clips"]
            printed.say(f"\n{name}: {num_equal} of {num_clips} answers equal the documented loop's\n")


def measure(bench: Bench, clips: Sequence[Path]) -> list[Record]:
    """Run the sides in turn, and at the end the long run."""
    num_shell = bench.options.shell_clips
    spread_out = clips[:: max(1, len(clips) // max(1, num_shell))][:num_shell]
    asked = {BATCH: clips, DOCUMENTED: clips, SHELL: spread_out}
    rows = [bench.row(side, len(of_side)) for side, of_side in asked.items() if of_side]
    answers = {}
    for run in range(bench.options.runs):
        for row in rows:
            print(f"{row['model']}, {row['side']}, run {run + 1}", file=sys.stderr)
            answers[row["side"]] = _measure_once(row, bench, asked[row["side"]])
    rows[0]["num_equal"] = sum(answers[DOCUMENTED].get(clip) == answer for clip, answer in answers[BATCH].items())
    if bench.name == "tiny" and bench.options.many:
        rows.append(_measure_links(bench.row(BATCH, bench.options.many), bench, clips))
    if bench.name == "tiny" and bench.options.large:
        rows.append(_measure_links(bench.row(f"{BATCH}, 8K", bench.options.large), bench, [made(LARGE_CLIP)]))
    return rows


def _measure_links(row: Record, bench: Bench, clips: Sequence[Path]) -> Record:
    print(f"{row['model']}, {row['side']}, {row['num_clips']} clips", file=sys.stderr)
    with TemporaryDirectory(dir=bench.folder) as folder:
        for number in range(row["num_clips"]):
            clip = clips[number % len(clips)]
            Path(folder, f"{number:05}{clip.suffix}").hardlink_to(clip)  # symbolic links would be one item
        _measure_once(row, bench, sorted(Path(folder).iterdir()))
    return row


def _measure_once(row: Record, bench: Bench, clips: Sequence[Path]) -> dict[str, str]:
    """Run a row's side once, add what it took to the row, and return the answers by clip; of the shell loop none."""
    new_tokens = str(MAX_NEW_TOKENS[bench.name])
    vllava = [sys.executable, "-m", "videollava_cli"]
    common = ["-m", bench.model, "--device", "cpu", "--dtype", "float32", "--max-new-tokens", new_tokens]
    out, summary, listed = (bench.folder / name for name in ("out.jsonl", "summary.json", "list"))
    if row["side"] == SHELL:
        commands = [[*vllava, "ask", str(clip), QUESTION, *common] for clip in clips]
    elif row["side"] == DOCUMENTED:
        folder = str(BUNDLED_FOLDER / "tiny") if bench.name == "tiny" else bench.model
        script = [sys.executable, "-m", "benchmarks.documented", "loop", folder, QUESTION, new_tokens]
        commands = [[*script, *map(str, clips)]]
    else:
        listed.write_bytes(b"".join(os.fsencode(clip) + b"\0" for clip in clips))
        options = ["--from-file", str(listed), "-0", "-q", QUESTION, "--batch-size", bench.options.batch_size]
        commands = [[*vllava, "batch", *options, *common, "--json-summary", str(summary)]]
    began = time.perf_counter()
    used = [_run(command, out) for command in commands]
    row["seconds"].append(time.perf_counter() - began)
    row["cpu_seconds"].append(sum(cpu_seconds for cpu_seconds, _ in used))
    row["peak_mb"].append(max(peak_mb for _, peak_mb in used))
    if row["side"] == SHELL:
        return {}
    if row["side"] != DOCUMENTED:
        sums = json.loads(summary.read_text())
        row["waited"].append(sums["wait_s"] / (sums["seconds"] - sums["load_s"]))
    answers = {line["id"]: line["answer"] for line in map(json.loads, out.read_text().splitlines())}
    if len(answers) != len(clips):
        raise SystemExit(f"{row['side']} answered {len(answers)} of {len(clips)}")
    return answers


def _run(command: list[str], out: Path) -> tuple[float, float]:
    """Run a command whose output goes to a file; return its seconds of all processors and its peak memory in MB."""
    with out.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.DEVNULL, env=table.child_environment())
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command[:5])} ... ended with {process.returncode}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)
