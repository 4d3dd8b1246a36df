#!/usr/bin/env python3
"""Write `examples/`: small clips and stills of the drawn world in the usual formats, and the table that lists them.

The same libraries give the same bytes. Radii, places and speeds are those of `tiny_world.scenes`, which `tiny` knows.

    python scripts/make_examples.py
"""

import argparse
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import av
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image
from tiny_world.questions import describe, draw_questions
from tiny_world.rendering import render_clip
from tiny_world.scenes import Actor, Motion, Point, Scene

ROOT = Path(__file__).resolve().parents[1]
SMALL, LARGE = 0.11, 0.20  # radii in the middle of SMALL_RADIUS and LARGE_RADIUS
NUM_DRAWS = 3000  # enough to see every question about a scene

H264, TURNED_H264, VP9 = "H.264 in MP4", "H.264 in MP4, turned by its metadata", "VP9 in WebM"
H264_OPTIONS = {"crf": "20", "preset": "slow", "g": "48"}
VP9_OPTIONS = {"crf": "24", "b": "0", "row-mt": "0", "deadline": "good", "cpu-used": "1"}

Frames = NDArray[np.uint8]

TABLE = """# Examples

Clips and stills that `scripts/make_examples.py` draws, with a question to try on each and its true answer:

    vllava ask -m tiny examples/circle-moves-right.mp4 "What happens in this video?"

| file | what it shows | format | size | a question to try | answer |
|---|---|---|---|---|---|
{rows}

`film.mp4` ({film_kilobytes:.1f} kB) joins six scenes of three seconds; `film.srt` says what happens in each.

    vllava ask -m tiny examples/film.mp4 "What happens?" --start 6 --end 9
"""


@dataclass(frozen=True, slots=True)
class Example:
    """A file, what it shows, and a question to try."""

    name: str
    form: str
    scene: Scene
    size: tuple[int, int]  # height and width in pixels, as a player shows them
    question: str
    answer: str
    num_frames: int = 1
    frames_per_second: int = 24

    def render(self) -> Frames:
        """Render the frames: uint8 RGB, (T, H, W, 3)."""
        return _rendered(self.scene, self.num_frames, self.size)


def main() -> None:
    """Write every example and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "examples")
    folder: Path = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for example in EXAMPLES:
        assert _is_true(example), f"{example.name}: {example.question} {example.answer}"
        path = folder / example.name
        _write(path, example)
        height, width = example.size
        seconds = f", {example.num_frames / example.frames_per_second:g} s" if example.scene.is_video else ""
        cells = [f"`{example.name}`", describe(example.scene), f"{example.form}, {width} x {height}{seconds}"]
        cells += [f"{path.stat().st_size / 1000:.1f} kB", example.question, example.answer]
        rows.append(f"| {' | '.join(cells)} |")
        print(rows[-1])
    kilobytes = _write_film(folder) / 1000
    readme = TABLE.format(rows="\n".join(rows), film_kilobytes=kilobytes)
    (folder / "README.md").write_text(readme, encoding="utf-8")


def _write_film(folder: Path) -> int:
    """Write the film and its subtitles; return the film's size in bytes."""
    num_frames = SCENE_SECONDS * FILM_RATE
    frames = np.concatenate([_rendered(scene, num_frames, FILM_SIZE) for scene in FILM])
    _encode(folder / "film.mp4", frames, FILM_RATE)
    blocks = [
        f"{k + 1}\n00:00:{k * SCENE_SECONDS:02},000 --> 00:00:{(k + 1) * SCENE_SECONDS:02},000\n{describe(scene)}\n"
        for k, scene in enumerate(FILM)
    ]
    (folder / "film.srt").write_text("\n".join(blocks), encoding="utf-8")
    return (folder / "film.mp4").stat().st_size


def _rendered(scene: Scene, num_frames: int, size: tuple[int, int]) -> Frames:
    return render_clip(scene, np.arange(num_frames) / num_frames, size)


def _write(path: Path, example: Example) -> None:
    if example.form == "GIF":
        _write_gif(path, example)
    elif example.num_frames > 1:
        _encode(path, example.render(), example.frames_per_second, example.form)
    else:
        options = {"optimize": True} if example.form == "PNG" else {"quality": 90}
        Image.fromarray(example.render()[0]).save(path, **options)


def _is_true(example: Example) -> bool:
    word = "video" if example.scene.is_video else "image"
    drawn = draw_questions(example.scene, np.random.default_rng(0), NUM_DRAWS, media_word=word)
    return (example.question, example.answer) in {(question, answer) for _, question, answer in drawn}


def _encode(path: Path, frames: Frames, frames_per_second: int, form: str = H264) -> None:
    """Write a clip; as phones do, a turned one lies on its side, and the file says to turn it clockwise."""
    codec, options = ("libvpx-vp9", VP9_OPTIONS) if form == VP9 else ("libx264", H264_OPTIONS)
    clockwise_degrees = 90 if form == TURNED_H264 else 0
    frames = np.rot90(frames, clockwise_degrees // 90, axes=(1, 2))
    with av.open(path, "w", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream(codec, rate=frames_per_second, options=options)
        assert isinstance(stream, VideoStream)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        stream.codec_context.thread_count = 1  # more threads, other bytes
        stream.codec_context.flags |= av.codec.context.Flags.bitexact
        if clockwise_degrees:
            stream.set_display_rotation(-clockwise_degrees)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode(None))


def _write_gif(path: Path, example: Example) -> None:
    frames = example.render()
    frames[1::2, 0, 0] += 1  # one pixel by one level: Pillow would make one long frame of equal ones
    pictures = [Image.fromarray(frame).quantize(64, dither=Image.Dither.NONE) for frame in frames]
    duration_ms = 1000 // example.frames_per_second
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=duration_ms, loop=0)


def _large(shape: str, color: str, motion: Motion, start: Point, end: Point | None = None) -> Actor:
    radius = (LARGE, LARGE)
    return Actor(shape, color, "large", motion, radius, start=start, end=end or start, color_at_end=color)


def _small(shape: str, color: str, center: Point) -> Actor:
    return replace(_large(shape, color, Motion.STILL, center), size="small", radius=(SMALL, SMALL))


def _clip(background: str, *actors: Actor, is_video: bool = True) -> Scene:
    return Scene(actors, background, is_video, pattern_seed=2, motion_span=(0.05, 0.95))


_still = partial(_clip, is_video=False)


RED_CIRCLE = _large("circle", "red", Motion.RIGHT, (0.2, 0.5), (0.8, 0.5))
YELLOW_STAR = replace(_large("star", "yellow", Motion.GROW, (0.5, 0.5)), radius=(0.09, 0.23))
PURPLE_CROSS = _large("cross", "purple", Motion.DOWN, (0.5, 0.2), (0.5, 0.8))
GREEN_SQUARE = replace(_large("square", "green", Motion.TURN, (0.5, 0.5)), color_at_end="blue")
BLUE_CIRCLE = replace(_large("circle", "blue", Motion.LEFT, (0.8, 0.27), (0.2, 0.27)), radius=(0.18, 0.18))
ORANGE_TRIANGLE = replace(_large("triangle", "orange", Motion.GROW, (0.5, 0.73)), radius=(0.09, 0.21))
GREEN_RING = _large("ring", "green", Motion.UP, (0.5, 0.8), (0.5, 0.2))
PINK_TRIANGLE = _large("triangle", "pink", Motion.DISAPPEAR, (0.5, 0.5))
RED_SQUARES = tuple(_small("square", "red", center) for center in ((0.27, 0.27), (0.73, 0.27), (0.27, 0.73)))
BROWN_TRIANGLE = _small("triangle", "brown", (0.78, 0.22))
MIXTURE = (
    _small("circle", "red", (0.27, 0.27)),
    _large("star", "blue", Motion.STILL, (0.73, 0.27)),
    _small("cross", "green", (0.73, 0.73)),
)
RED_APPEARS = replace(_large("circle", "red", Motion.APPEAR, (0.27, 0.5)), switch_time=0.3)
BLUE_APPEARS = replace(_large("square", "blue", Motion.APPEAR, (0.73, 0.5)), switch_time=0.7)
RED_APPEARS_LATE, BLUE_APPEARS_EARLY = replace(RED_APPEARS, switch_time=0.7), replace(BLUE_APPEARS, switch_time=0.3)

FILM_RATE, FILM_SIZE, SCENE_SECONDS = 24, (240, 320), 3
FILM = (
    _clip("white", RED_CIRCLE),
    _clip("black", YELLOW_STAR),
    _clip("gray", PURPLE_CROSS),
    _clip("white", GREEN_SQUARE),
    _clip("black", GREEN_RING),
    _clip("white", PINK_TRIANGLE),
)
EXAMPLES = (
    Example("circle-moves-right.mp4", H264, _clip("white", RED_CIRCLE), (180, 320),
            "What happens in this video?", "A red circle moves from left to right.", 72),
    Example("star-grows.webm", VP9, _clip("black", YELLOW_STAR), (240, 320),
            "What happens?", "A yellow star grows.", 60),
    Example("cross-moves-down.webm", VP9, _clip("dotted", PURPLE_CROSS), (240, 426),
            "Which way does it move?", "It moves from top to bottom.", 50, 25),
    Example("square-turns-blue.gif", "GIF", _clip("gray", GREEN_SQUARE), (180, 240),
            "What color is it at the end?", "It is blue.", 20, 10),
    Example("circle-and-triangle.mp4", H264, _clip("checkered", BLUE_CIRCLE, ORANGE_TRIANGLE), (360, 640),
            "What does the triangle do?", "It grows.", 75, 25),
    Example("ring-moves-up.mp4", TURNED_H264, _clip("striped", GREEN_RING), (320, 180),
            "In which direction does it move?", "It moves from bottom to top.", 60, 30),
    Example("triangle-disappears.mp4", H264, _clip("white", PINK_TRIANGLE), (240, 240),
            "What do you see at the end?", "Nothing.", 48),
    Example("circle-then-square.mp4", H264, _clip("white", RED_APPEARS, BLUE_APPEARS), (240, 320),
            "What appears first?", "The red circle.", 72),
    Example("square-then-circle.mp4", H264, _clip("white", RED_APPEARS_LATE, BLUE_APPEARS_EARLY), (240, 320),
            "What appears first?", "The blue square.", 72),
    Example("three-squares.png", "PNG", _still("gray", *RED_SQUARES), (320, 320),
            "How many shapes are there?", "There are three objects."),
    Example("triangle.jpg", "JPEG", _still("white", BROWN_TRIANGLE), (300, 400),
            "Where is the triangle?", "It is at the top right."),
    Example("mixed-shapes.png", "PNG", _still("striped", *MIXTURE), (360, 480),
            "What color is the star?", "It is blue."),
)  # fmt: skip

if __name__ == "__main__":
    main()
