"""The table `startup`: whole processes, from their start to their end, against the imports they cannot do without."""

import argparse
import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.machine import ROOT, machine_line

CLIP = "examples/circle-moves-right.mp4"
EMPTY_TYPER_APP = """
import typer

app = typer.Typer()

@app.callback()
def common() -> None: ...

@app.command()
def ask(question: str) -> None: ...

app()
"""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two sides of one measurement: wall seconds of whole processes, run in turn."""

    name: str
    ours: list[float]
    other_name: str
    other: list[float]

    @property
    def ratio(self) -> float:
        """Our median over the other side's."""
        return median(self.ours) / median(self.other)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this table."""
    parser.add_argument("--runs", type=int, default=9, help="of each side, after one that does not count")
    parser.add_argument("--json", action="store_true", help="one object a row, with every single time")


def print_table(options: argparse.Namespace) -> None:
    """Measure and print."""
    comparisons = measure_startup(options.runs)
    if options.json:
        for comparison in comparisons:
            print(json.dumps(asdict(comparison) | {"ratio": comparison.ratio}))
        return
    print(f"{machine_line(options.runs)}\n")
    print("| ours | s (min to max) | against | s (min to max) | ratio |\n|---|--:|---|--:|--:|")
    for row in comparisons:
        print(f"| {row.name} | {_spread(row.ours)} | {row.other_name} | {_spread(row.other)} | {row.ratio:.2f} |")


def measure_startup(runs: int) -> list[Comparison]:
    """Compare start-up, mistakes and a whole answer with the imports that they cannot do without."""
    python, vllava = sys.executable, str(Path(sys.executable).with_name("vllava"))
    help_and_pyav = ["sh", "-c", f"{vllava} --help >/dev/null && {python} -c 'import av'"]
    bare_import = [python, "-c", "from transformers import VideoLlavaForConditionalGeneration"]
    with TemporaryDirectory() as folder:
        text, app = Path(folder, "text.mp4"), Path(folder, "empty_app.py")
        text.write_text("no video\n" * 100)
        app.write_text(EMPTY_TYPER_APP)
        return [
            compare("vllava --help", [vllava, "--help"], "empty Typer app --help", [python, str(app), "--help"], runs),
            *(
                compare(f"ask {name}", [vllava, "ask", path, "Why?"], "--help, then import av", help_and_pyav, runs)
                for name, path in (("a missing file", "none.mp4"), ("a text file", str(text)), ("a folder", folder))
            ),
            compare(
                "ask -m tiny, whole answer",
                [vllava, "ask", "-m", "tiny", CLIP, "What happens?"],
                "import VideoLlavaForConditionalGeneration",
                bare_import,
                runs,
            ),
        ]


def compare(name: str, ours: list[str], other_name: str, other: list[str], runs: int) -> Comparison:
    """Time two commands in turn, A B A B, after one run of each that does not count."""
    times: tuple[list[float], list[float]] = ([], [])
    for run in range(runs + 1):
        for command, seconds in zip((ours, other), times, strict=True):
            began = time.perf_counter()
            subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
            if run:
                seconds.append(time.perf_counter() - began)
    return Comparison(name, times[0], other_name, times[1])


def _spread(seconds: list[float]) -> str:
    return f"{median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})"
