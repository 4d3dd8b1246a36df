"""The table `read`: from a path to eight frames at the model's side, ours against other readers, one method a process.

Clips are made once into build/bench/clips, each frame's number drawn in it for the judge; other files are judged by
decoding all of them. Files are in the page cache. Other readers are installed, without what they depend on, in folders
beside the environment.
"""

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import sysconfig
from itertools import chain
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks import table
from benchmarks.clips import CLIPS, WARM_UP, made
from benchmarks.judging import RIGHT, Judge, marker_judge, sequential_judge
from benchmarks.methods import METHODS
from benchmarks.table import BUILD, ROOT, Record, child_environment, spread
from videollava_cli.machine import num_processors

PEERS = BUILD / "peers"
PACKAGES = {"decord2": "decord2", "torchcodec": "torchcodec", "opencv": "opencv-python-headless"}
FAILS = "fails"
COLUMNS: tuple[table.Column, ...] = (
    ("clip", "<", lambda row: row["clip"]),
    ("threads", ">", lambda row: row["threads"]),
    ("method", "<", lambda row: row["method"]),
    ("s (min to max)", ">", lambda row: spread(row["seconds"], 3)),
    ("ratio to documented", ">", lambda row: f"{row['ratio']:.3f}" if row["ratio"] else ""),
    ("peak MB", ">", lambda row: f"{max(row['peak_mb']):.0f}" if row["peak_mb"] else ""),
    ("frames", "<", lambda row: row["verdict"].replace("|", "/")),
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this table."""
    names = [clip.name for clip in CLIPS]
    table.add_options(parser, runs=5, of="each method")
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="videos of your own")
    parser.add_argument("--clips", nargs="*", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS), metavar="METHOD")
    parser.add_argument("--threads", nargs="+", choices=["1", "all"], default=["1", "all"])
    parser.add_argument("--limit", type=float, default=900, metavar="SECONDS", help="for one run")
    parser.add_argument("--make-clips", action="store_true", help="make the clips and measure nothing")


def print_table(options: argparse.Namespace) -> None:
    """Measure and print, each clip as soon as it is measured."""
    clips = [clip for clip in CLIPS if clip.name in options.clips]
    if options.make_clips:
        print(*map(made, clips), sep="\n")
        return
    environments = {method: install_peer(method) for method in options.methods}
    thread_counts = sorted({1 if name == "1" else num_processors() for name in options.threads})
    printed = table.Table(options, COLUMNS)
    drawn = ((clip.name, made(clip), marker_judge(clip.recipe.num_frames)) for clip in clips)
    own = ((path.name, path, sequential_judge(path)) for path in options.files)
    for name, path, judge in chain(drawn, own):
        path.read_bytes()  # into the page cache
        for threads in thread_counts:
            rows = measure(path, judge, environments, threads, options)
            documented: list[float] = next((row["seconds"] for row in rows if row["method"] == "documented"), [])
            for row in rows:
                ratio = median(row["seconds"]) / median(documented) if documented and row["seconds"] else None
                printed.add({"clip": name, **row, "ratio": ratio})


def measure(
    path: Path, judge: Judge, environments: dict[str, dict[str, str]], threads: int, options: argparse.Namespace
) -> list[Record]:
    """Run the methods that have an environment in turn, A B C A B C, each in a process of its own."""
    rows: list[Record] = [
        {"threads": threads, "method": method, "seconds": [], "peak_mb": [], "verdict": ""} for method in environments
    ]
    for run in range(options.runs):
        for row in rows:
            if row["verdict"].startswith(FAILS):
                continue
            print(f"{path.name}, {row['method']}, threads {threads}, run {run + 1}", file=sys.stderr)
            verdict = _measure_once(row, path, judge, environments[row["method"]], options.limit)
            if row["verdict"] in ("", RIGHT) or verdict.startswith(FAILS):  # the first wrong frames stay
                row["verdict"] = verdict
    return rows


def _measure_once(row: Record, path: Path, judge: Judge, environment: dict[str, str], limit_seconds: float) -> str:
    """Run a row's method once, add what it took to the row, and return the verdict on its frames."""
    with TemporaryDirectory() as folder:
        saved = Path(folder, "frames.npy")
        threads = str(row["threads"])
        command = [sys.executable, "-m", "benchmarks.methods", row["method"], path, threads, made(WARM_UP), saved]
        environment = environment | {"OMP_NUM_THREADS": threads}  # torch's, for shrinking
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=limit_seconds, check=False
            )
        except subprocess.TimeoutExpired:
            return f"{FAILS}: nothing within {limit_seconds:g} s"
        if done.returncode:
            return f"{FAILS}: {_reason(done)[:120]}"
        measured = json.loads(done.stdout.splitlines()[-1])
        row["seconds"].append(measured["seconds"])
        row["peak_mb"].append(measured["peak_mb"])
        return judge(np.load(saved))


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode < 0:
        return f"killed by signal {-done.returncode}"
    lines = done.stdout.splitlines() if done.returncode == 1 else []
    if lines and lines[-1].startswith("{"):
        return str(json.loads(lines[-1])["failure"])
    errors = done.stderr.strip().splitlines()
    return errors[-1] if errors else f"exit status {done.returncode}"


def install_peer(method: str) -> dict[str, str]:
    """Install a method's package unless it is there; return the environment in which it can be imported.

    Without a wheel for this machine the import will fail, and its row says so.
    """
    environment = child_environment()
    if method not in PACKAGES:
        return environment
    folder = _installed(PACKAGES[method])
    environment["PYTHONPATH"] += f"{os.pathsep}{folder}"
    if method == "torchcodec":
        own = os.environ.get("LD_LIBRARY_PATH", "")
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, [*_ffmpeg_folders(), own]))
    return environment


def _installed(package: str) -> Path:
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    pin = next(line for line in pins if line.startswith(f"{package}=="))
    folder = PEERS / f"{pin}-{sys.implementation.cache_tag}"
    if not folder.exists():
        PEERS.mkdir(parents=True, exist_ok=True)
        print(f"installing {pin}", file=sys.stderr)
        options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:"]
        with TemporaryDirectory(dir=PEERS) as unfinished:
            command = [sys.executable, "-m", "pip", "install", *options, "--target", f"{unfinished}/{pin}", pin]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"{package} cannot be installed: {done.stderr.strip()}", file=sys.stderr)
            else:
                Path(unfinished, pin).rename(folder)
    return folder


def _ffmpeg_folders() -> list[str]:
    """Return the folders of PyAV's FFmpeg for torchcodec, which brings none, with links of the usual names.

    Off Linux PyAV's wheel has no such folder, and torchcodec looks for the system's.
    """
    libraries = Path(sysconfig.get_path("platlib"), "av.libs")
    if not libraries.is_dir():
        return []
    key = hashlib.sha256(" ".join(sorted(os.listdir(libraries))).encode()).hexdigest()[:12]
    links = PEERS / f"ffmpeg-{key}"
    links.mkdir(parents=True, exist_ok=True)
    for library in libraries.iterdir():
        match = re.fullmatch(r"(lib(?:av|sw)[a-z]+)-[0-9a-f]+(\.so\.\d+)[.\d]*", library.name)
        if match and not (link := links / "".join(match.groups())).exists():
            link.symlink_to(library)
    return [str(links), str(libraries)]
