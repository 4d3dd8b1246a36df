"""Held-out questions about files that nobody trained on, for `eval_tiny.py`: what is asked, and every right answer."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image
from second_renderer import write_file
from tiny_world.asking import KINDS, Asked, draw_question
from tiny_world.negatives import draw_artificial, photo_clip
from tiny_world.questions import REFUSAL, describe, draw_questions
from tiny_world.rendering import render_clip
from tiny_world.scenes import Scene, draw_scene
from tiny_world.wording import Split

from videollava_cli.prompt import Turn

SIZES = ((180, 320), (320, 180), (240, 240), (270, 480), (360, 480), (112, 112), (144, 256))  # height, width
PHOTO_SIDE = 224
QUESTIONS_A_MEDIUM = 3  # of one kind at most
QUESTIONS_A_FILE = 4  # of a foreign picture, and follow-ups
AS_BEFORE, TRAINED, HELD_OUT = "as in 0.1.0", "trained wording", "held-out wording"
TOPICS = (
    *("background", "color", "count", "describe", "direction", "missing", "motion", "order", "place", "shape", "size"),
    *("start and end", "yes or no"),
)
PHOTOS, NOISE, FOLLOW_UPS, MIXED = "photographs", "noise, text, scribbles", "follow-up turns", "an image and a clip"
ALL_KINDS = tuple(dict.fromkeys((*KINDS, *TOPICS, PHOTOS, NOISE, FOLLOW_UPS, MIXED)))
ITEM_START = re.compile(r"(a|an|the|one|two|three|four) ")

Drawn = Callable[[Scene, str], Asked | None]


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """One question about some files, after earlier turns, and its right answers; column and kind are the table's."""

    paths: tuple[Path, ...]
    turns: tuple[Turn, ...]
    column: str
    kind: str
    answers: tuple[str, ...]

    def is_right(self, given: str) -> bool:
        """Whether an answer is one of the right ones; things listed in another order are the same answer."""
        is_ordered = self.kind == "order"
        return _reduced(given, is_ordered) in {_reduced(answer, is_ordered) for answer in self.answers}


def _reduced(answer: str, is_ordered: bool) -> tuple[str, ...]:
    words, on, background = answer.strip().removesuffix(".").lower().partition(" on a ")
    things = re.split(r", and |, | and ", words)
    if is_ordered or not all(ITEM_START.match(thing) for thing in things):
        return (words + on + background,)
    return (*sorted(things), on + background)


def draw_items(
    rng: np.random.Generator, photos: list[Image.Image], scratch: Path, kinds: tuple[str, ...], num: int
) -> Iterator[Item]:
    """Write files and draw questions: `num` of each kind as in 0.1.0, a fifth of it worded anew (foreign: half)."""
    topics = {kind: num for kind in kinds if kind in TOPICS}
    yield from _about_scenes(rng, scratch, AS_BEFORE, topics, partial(_asked_before, rng))
    wanted = {kind: num // 2 if kind == "foreign" else num // 5 for kind in kinds if kind in KINDS}
    yield from _about_scenes(rng, scratch, TRAINED, wanted, partial(_asked_anew, rng, "trained"))
    yield from _about_scenes(rng, scratch, HELD_OUT, wanted, partial(_asked_anew, rng, "held_out"))
    for kind in (PHOTOS, NOISE):
        if kind in kinds:
            yield from _foreign_pictures(rng, photos if kind == PHOTOS else [], scratch, kind, num)
    if FOLLOW_UPS in kinds:
        yield from _follow_ups(rng, scratch, num)
    if MIXED in kinds:
        yield from _mixed(rng, scratch, num)


def _about_scenes(
    rng: np.random.Generator, scratch: Path, column: str, wanted: dict[str, int], draw: Drawn
) -> Iterator[Item]:
    lacking = Counter(wanted)
    while lacking := +lacking:
        scene = draw_scene(rng, is_video=bool(rng.random() < 0.5))
        drawn = [(kind, draw(scene, kind)) for kind in lacking for _ in range(min(QUESTIONS_A_MEDIUM, lacking[kind]))]
        asked = {(kind, each.question): each for kind, each in drawn if each is not None}
        if not asked:
            continue
        path = _scene_file(scene, rng, scratch) if column == AS_BEFORE else write_file(_stem(scratch), scene, rng)
        for (kind, _), each in asked.items():
            lacking[kind] -= 1
            yield Item((path,), (Turn(each.question),), column, kind, each.answers)


def _asked_before(rng: np.random.Generator, scene: Scene, topic: str) -> Asked | None:
    weights = dict.fromkeys(TOPICS, 1e-9) | {topic: 1.0}
    [(drawn, question, answer)] = draw_questions(scene, rng, 1, topic_weights=weights)
    return Asked(topic, question, (answer,)) if drawn == topic else None  # the scene has no question of another


def _asked_anew(rng: np.random.Generator, split: Split, scene: Scene, kind: str) -> Asked | None:
    try:
        return draw_question(scene, kind, rng, split=split)
    except KeyError:
        return None


def _foreign_pictures(
    rng: np.random.Generator, photos: list[Image.Image], scratch: Path, kind: str, num: int
) -> Iterator[Item]:
    for index in range(-(-num // QUESTIONS_A_FILE)):
        is_video = index % 2 == 0
        num_frames = 24 if is_video else 1
        if photos:
            frames = photo_clip(photos[rng.integers(len(photos))], rng, num_frames, PHOTO_SIDE)
        else:
            frames = draw_artificial(rng, num_frames, PHOTO_SIDE)
        path = _file(frames, rng, scratch)
        for _, question, _ in draw_questions(draw_scene(rng, is_video=is_video), rng, QUESTIONS_A_FILE):
            yield Item((path,), (Turn(question),), AS_BEFORE, kind, (REFUSAL,))


def _follow_ups(rng: np.random.Generator, scratch: Path, num: int) -> Iterator[Item]:
    for index in range(-(-num // QUESTIONS_A_FILE)):
        scene = draw_scene(rng, is_video=index % 2 == 0)
        path = _scene_file(scene, rng, scratch)
        for _ in range(QUESTIONS_A_FILE):
            (_, first, said), (_, then, answer) = draw_questions(scene, rng, 2)
            yield Item((path,), (Turn(first, said), Turn(then)), AS_BEFORE, FOLLOW_UPS, (answer,))


def _mixed(rng: np.random.Generator, scratch: Path, num: int) -> Iterator[Item]:
    for index in range(num):
        scenes = [draw_scene(rng, is_video=is_video) for is_video in ((False, True), (True, False))[index % 2]]
        scene = scenes[rng.integers(2)]
        word = str(rng.choice(["video", "clip"] if scene.is_video else ["image", "picture"]))
        what = "What happens" if scene.is_video else "What is"
        question = str(rng.choice([f"{what} in the {word}?", f"Describe the {word}.", f"What does the {word} show?"]))
        paths = tuple(_scene_file(each, rng, scratch) for each in scenes)
        yield Item(paths, (Turn(question),), AS_BEFORE, MIXED, (describe(scene),))


def _scene_file(scene: Scene, rng: np.random.Generator, scratch: Path) -> Path:
    num_frames = int(rng.integers(16, 40)) if scene.is_video else 1
    times = np.arange(num_frames) / num_frames
    return _file(render_clip(scene, times, SIZES[rng.integers(len(SIZES))], color_jitter=5.0), rng, scratch)


def _stem(scratch: Path) -> Path:
    return scratch / f"{len(list(scratch.iterdir())):05d}"


def _file(frames: NDArray[np.uint8], rng: np.random.Generator, scratch: Path) -> Path:
    if len(frames) == 1:
        path = _stem(scratch).with_suffix(str(rng.choice([".png", ".jpg"])))
        Image.fromarray(frames[0]).save(path, quality=int(rng.integers(75, 96)))
        return path
    path = _stem(scratch).with_suffix(".mp4")
    options = {"crf": str(rng.integers(18, 30)), "b": "0", "preset": "veryfast"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(int(rng.choice([12, 24, 30]))), options=options)
        assert isinstance(stream, VideoStream)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path
