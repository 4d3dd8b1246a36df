#!/usr/bin/env python3
"""Measure the bundled model on held-out scenes and photographs, through real files and the reader of `vllava`.

Answers count when they equal the true one, letter for letter. Exit status 1 if a bound is missed.

    python scripts/eval_tiny.py
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import numpy as np
from av.video.stream import VideoStream
from collect_photos import DEFAULT_FOLDER, collect
from numpy.typing import NDArray
from PIL import Image
from tiny_world.batches import Medium, ask_about
from tiny_world.negatives import draw_artificial, load_photos, photo_clip
from tiny_world.questions import REFUSAL, draw_questions
from tiny_world.rendering import render_clip
from tiny_world.scenes import draw_scene

from videollava_cli import media as nouns
from videollava_cli.engine import Engine
from videollava_cli.engine.startup import load
from videollava_cli.prompt import Conversation, Turn
from videollava_cli.sampling import Window

SIZES = ((180, 320), (320, 180), (240, 240), (270, 480), (360, 480), (112, 112), (144, 256))  # height, width
QUESTIONS_A_MEDIUM = 4
PHOTO_SIDE = 224
MIN_PHOTOS = 20  # different ones, or the share of refusals says little


@dataclass(frozen=True, slots=True)
class Item:
    """One question about some files, after earlier turns, and its true answer."""

    paths: tuple[Path, ...]
    turns: tuple[Turn, ...]
    topic: str
    answer: str


@dataclass(frozen=True, slots=True)
class Mark:
    """Whether one item was answered exactly."""

    topic: str
    is_right: bool


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table, with the least share that must be right."""

    name: str
    num_right: int
    num_asked: int
    bound: float | None = None

    @property
    def is_met(self) -> bool:
        return self.bound is None or self.num_right >= self.bound * self.num_asked


def main() -> int:
    """Print the table and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="preset or folder of the checkpoint")
    parser.add_argument("--num-questions", type=int, default=1000, help="about clips, and as many about images")
    parser.add_argument("--seed", type=int, default=1_000_003, help="of the held-out scenes")
    parser.add_argument("--show-wrong", action="store_true", help="print wrong answers")
    options = parser.parse_args()
    collect("held-out", DEFAULT_FOLDER / "held-out")
    photos = load_photos(DEFAULT_FOLDER / "held-out")
    if len(photos) < MIN_PHOTOS:
        sys.exit(f"only {len(photos)} held-out photographs could be fetched, {MIN_PHOTOS} are needed")
    rng = np.random.default_rng(options.seed)
    with TemporaryDirectory() as scratch:
        rows = list(measure(options, photos, rng, Path(scratch)))
    print(table(rows))
    return 0 if all(row.is_met for row in rows) else 1


def measure(
    options: argparse.Namespace, photos: list[Image.Image], rng: np.random.Generator, scratch: Path
) -> Iterator[Row]:
    """Make the held-out files, ask about them, and yield the table's rows."""
    number = options.num_questions
    clips = list(_scene_items(rng, scratch, number, is_video=True))
    images = list(_scene_items(rng, scratch, number, is_video=False))
    negatives = list(_negative_items(rng, photos, scratch, number // 5))
    plain = Examiner(load(options.model, device="cpu"), options.show_wrong)
    refusals = plain.ask(negatives)
    results = {
        "clips (H.264 mp4)": (plain.ask(clips), 0.97),
        "images (PNG, JPEG)": (plain.ask(images), 0.95),
        "photographs and noise, refused": (refusals, 0.95),
        f"crops of {len(photos)} photographs, refused": ([mark for mark in refusals if mark.topic == "photo"], None),
        "noise, gradients, text, scribbles, refused": ([mark for mark in refusals if mark.topic == "noise"], None),
        "follow-up turns": (plain.ask(list(_follow_ups(rng, scratch, number // 5))), None),
        "an image and a clip in one prompt": (plain.ask(list(_mixed_items(rng, scratch, number // 5))), None),
    }
    quantized = Examiner(load(options.model, device="cpu", load_4bit=True), options.show_wrong)
    results["clips and images, --load-4bit"] = (quantized.ask(clips[: number // 2] + images[: number // 2]), 0.95)
    for name, (marks, bound) in results.items():
        yield Row(name, sum(mark.is_right for mark in marks), len(marks), bound)
    seen = results["clips (H.264 mp4)"][0] + results["images (PNG, JPEG)"][0]
    for topic in sorted({mark.topic for mark in seen}):
        of_topic = [mark.is_right for mark in seen if mark.topic == topic]
        yield Row(f"clips and images: {topic}", sum(of_topic), len(of_topic))


def table(rows: list[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = ["| what is asked about | right | of | share | bound |", "|---|--:|--:|--:|--:|"]
    for row in rows:
        bound = "" if row.bound is None else f"{row.bound:.0%}{'' if row.is_met else ' MISSED'}"
        share = row.num_right / max(row.num_asked, 1)
        lines.append(f"| {row.name} | {row.num_right} | {row.num_asked} | {share:.1%} | {bound} |")
    return "\n".join(lines)


class Examiner:
    """An engine being asked, and the media it has read."""

    def __init__(self, engine: Engine, show_wrong: bool) -> None:
        self.engine, self.show_wrong = engine, show_wrong
        self.media: dict[Path, nouns.Medium] = {}

    def ask(self, items: list[Item]) -> list[Mark]:
        assert self.engine.read is not None
        marks = []
        for item in items:
            for path in item.paths:
                if path not in self.media:
                    self.media[path] = self.engine.read(str(path), Window())
            shown = [self.media[path] for path in item.paths]
            conversation = Conversation.about([m.kind for m in shown], item.turns)
            given = "".join(chunk.text for chunk in self.engine.stream(conversation, shown))
            if self.show_wrong and given != item.answer:
                print(f"{item.turns[-1].question} | {given} | instead of {item.answer}", file=sys.stderr)
            marks.append(Mark(item.topic, given == item.answer))
        return marks


def _scene_items(rng: np.random.Generator, scratch: Path, number: int, *, is_video: bool) -> Iterator[Item]:
    for _ in range(number // QUESTIONS_A_MEDIUM):
        medium, path = _scene_file(rng, scratch, is_video=is_video)
        assert medium.scene is not None
        for topic, question, answer in draw_questions(medium.scene, rng, QUESTIONS_A_MEDIUM):
            yield Item((path,), (Turn(question),), topic, answer)


def _follow_ups(rng: np.random.Generator, scratch: Path, number: int) -> Iterator[Item]:
    for index in range(number):
        medium, path = _scene_file(rng, scratch, is_video=index % 2 == 0)
        (first, said), (then, answer) = ask_about([medium], rng, 2)
        yield Item((path,), (Turn(first, said), Turn(then)), "follow-up", answer)


def _mixed_items(rng: np.random.Generator, scratch: Path, number: int) -> Iterator[Item]:
    for index in range(number):
        shown = [_scene_file(rng, scratch, is_video=v) for v in ((False, True) if index % 2 else (True, False))]
        [(question, answer)] = ask_about([medium for medium, _ in shown], rng, 1)
        yield Item(tuple(path for _, path in shown), (Turn(question),), "mixed", answer)


def _negative_items(rng: np.random.Generator, photos: list[Image.Image], scratch: Path, number: int) -> Iterator[Item]:
    for index in range(number):
        is_video, is_photo = index % 2 == 0, index % 5 < 3
        num_frames = 24 if is_video else 1
        if is_photo:
            frames = photo_clip(photos[rng.integers(len(photos))], rng, num_frames, PHOTO_SIDE)
        else:
            frames = draw_artificial(rng, num_frames, PHOTO_SIDE)
        path = _file(frames, rng, scratch, is_video=is_video)
        [(question, _)] = ask_about([Medium(frames, None, is_video, np.zeros(len(frames)))], rng, 1)
        yield Item((path,), (Turn(question),), "photo" if is_photo else "noise", REFUSAL)


def _scene_file(rng: np.random.Generator, scratch: Path, *, is_video: bool) -> tuple[Medium, Path]:
    scene = draw_scene(rng, is_video=is_video)
    num_frames = int(rng.integers(16, 90)) if is_video else 1
    times = np.arange(num_frames) / num_frames
    frames = render_clip(scene, times, SIZES[rng.integers(len(SIZES))], color_jitter=5.0)
    return Medium(frames, scene, is_video, times), _file(frames, rng, scratch, is_video=is_video)


def _file(frames: NDArray[np.uint8], rng: np.random.Generator, scratch: Path, *, is_video: bool) -> Path:
    suffix = ".mp4" if is_video else str(rng.choice([".png", ".jpg"]))
    path = scratch / f"{len(list(scratch.iterdir())):05d}{suffix}"
    if is_video:
        _write_clip(path, frames, int(rng.choice([12, 24, 30])), crf=int(rng.integers(18, 30)))
    else:
        Image.fromarray(frames[0]).save(path, quality=int(rng.integers(75, 96)))
    return path


def _write_clip(path: Path, frames: NDArray[np.uint8], rate: int, *, crf: int) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(rate), options={"crf": str(crf), "b": "0"})
        assert isinstance(stream, VideoStream)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


if __name__ == "__main__":
    sys.exit(main())
