"""Pictures of scenes by other code than the one `tiny` learns from: Pillow's polygons, reduced, for evaluation only.

Antialiasing, outlines, tones and patterns all differ a little from `tiny_world.rendering`, and so do the codecs.
"""

from fractions import Fraction
from math import cos, pi, sin
from pathlib import Path

import av
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from tiny_world.scenes import Actor, Scene

SCALE = 4  # pixels drawn for each pixel kept, along a side
RGB = {
    "red": (214, 34, 46),
    "orange": (250, 148, 36),
    "yellow": (240, 216, 40),
    "green": (46, 154, 60),
    "blue": (34, 84, 214),
    "purple": (126, 50, 176),
    "pink": (248, 148, 200),
    "brown": (120, 72, 34),
}
PLAIN = {"white": (255, 255, 255), "gray": (122, 122, 122), "black": (0, 0, 0)}
TONES = (((242, 242, 242), (190, 190, 190)), ((248, 240, 222), (210, 198, 166)), ((220, 228, 240), (162, 178, 196)))
SIZES = ((200, 356), (288, 352), (256, 256), (320, 240), (408, 720), (130, 174))  # height, width
CLIP_FORMS: tuple[tuple[str, str, str, dict[str, str]], ...] = (  # suffix, codec, pixel format, options
    (".mp4", "mpeg4", "yuv420p", {"qscale": "4", "b": "2000000"}),
    (".webm", "libvpx-vp9", "yuv420p", {"crf": "33", "b": "0", "deadline": "realtime", "cpu-used": "8"}),
    (".avi", "mjpeg", "yuvj420p", {"b": "4000000"}),
    (".mkv", "libx264", "yuv420p", {"crf": "31", "preset": "veryfast", "bf": "3"}),
)
STILL_SUFFIXES = (".jpg", ".webp", ".png")
RATES = (Fraction(10), Fraction(15), Fraction(25), Fraction(30000, 1001))

Frames = NDArray[np.uint8]
Points = list[tuple[float, float]]


def draw_clip(scene: Scene, times: NDArray[np.float64], size: tuple[int, int]) -> Frames:
    """Draw a scene at times, fractions of the clip, (T,): uint8 RGB, (T, H, W, 3) of a height and width."""
    height, width = size
    background = _background(scene, (width * SCALE, height * SCALE))
    frames = []
    for time in times:
        canvas, moment = background.copy(), scene.moment_of(float(time))
        draw = ImageDraw.Draw(canvas)
        for actor in scene.actors:
            if actor.is_visible(moment):
                _draw_actor(draw, canvas.size, actor, moment)
        frames.append(np.asarray(canvas.reduce(SCALE)))
    return np.stack(frames)


def write_file(stem: Path, scene: Scene, rng: np.random.Generator) -> Path:
    """Draw a scene into a file of a form, size and frame rate drawn by `rng`; return its path."""
    size = SIZES[rng.integers(len(SIZES))]
    if not scene.is_video:
        path = stem.with_suffix(str(rng.choice(STILL_SUFFIXES)))
        Image.fromarray(draw_clip(scene, np.zeros(1), size)[0]).save(path, quality=int(rng.integers(70, 96)))
        return path
    num_frames = int(rng.integers(10, 40))
    frames = draw_clip(scene, np.arange(num_frames) / num_frames, size)
    suffix, codec, pixel_format, options = CLIP_FORMS[rng.integers(len(CLIP_FORMS))]
    path = stem.with_suffix(suffix)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATES[rng.integers(len(RATES))], options=options)
        assert isinstance(stream, VideoStream)
        stream.height, stream.width, stream.pix_fmt = *size, pixel_format
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def _draw_actor(draw: ImageDraw.ImageDraw, size: tuple[int, int], actor: Actor, moment: float) -> None:
    side = min(size)
    x, y, radius = actor.place_at(moment)
    center_x, center_y = size[0] / 2 + (x - 0.5) * side, size[1] / 2 + (y - 0.5) * side
    r, color = radius * side, RGB[actor.color_at(moment)]
    if actor.shape in ("circle", "ring"):
        box = (center_x - r, center_y - r, center_x + r, center_y + r)
        if actor.shape == "circle":
            draw.ellipse(box, fill=color)
        else:
            draw.ellipse(box, outline=color, width=round(0.46 * r))
        return
    c, s = cos(actor.tilt_radians), sin(actor.tilt_radians)
    outline = [(center_x + r * (c * px - s * py), center_y + r * (s * px + c * py)) for px, py in _outline(actor.shape)]
    draw.polygon(outline, fill=color)


def _outline(shape: str) -> Points:
    """Return the corners of a shape of radius about 1, y downwards."""
    if shape == "square":
        a, b = 0.84, 0.78  # its corners are cut a little
        return [(-b, -a), (b, -a), (a, -b), (a, b), (b, a), (-b, a), (-a, b), (-a, -b)]
    if shape == "triangle":
        return [(0.0, -1.32), (1.22, 0.5), (-1.22, 0.5)]
    if shape == "cross":
        a, b = 0.98, 0.31
        return [
            (-b, -a),
            (b, -a),
            (b, -b),
            (a, -b),
            (a, b),
            (b, b),
            (b, a),
            (-b, a),
            (-b, b),
            (-a, b),
            (-a, -b),
            (-b, -b),
        ]
    corners = [(k * pi / 5, 0.52 if k % 2 else 1.14) for k in range(10)]
    return [(length * sin(angle), -length * cos(angle)) for angle, length in corners]


def _background(scene: Scene, size: tuple[int, int]) -> Image.Image:
    if scene.background in PLAIN:
        return Image.new("RGB", size, PLAIN[scene.background])
    rng = np.random.default_rng((scene.pattern_seed, 2))
    light, dark = TONES[rng.integers(len(TONES))]
    canvas = Image.new("RGB", size, light)
    draw = ImageDraw.Draw(canvas)
    period = float(rng.uniform(0.18, 0.25)) * min(size)
    shift = rng.uniform(0, period, 2)
    if scene.background == "striped":
        slope = (0.0, 1.0, -1.0, None)[rng.integers(4)]  # None: they lie
        _stripes(draw, size, period * (2**0.5 if slope else 1), slope, dark)
        return canvas
    num_columns, num_rows = (int(length / period) + 3 for length in size)
    for column in range(-1, num_columns):
        for row in range(-1, num_rows):
            x, y = column * period + shift[0] - period, row * period + shift[1] - period
            if scene.background == "dotted":
                r = 0.25 * period
                draw.ellipse((x - r, y - r, x + r, y + r), fill=dark)
            elif (column + row) % 2:
                draw.rectangle((x, y, x + period, y + period), fill=dark)
    return canvas


def _stripes(
    draw: ImageDraw.ImageDraw, size: tuple[int, int], period: float, slope: float | None, color: tuple[int, int, int]
) -> None:
    width, height = size
    lean = (slope or 0.0) * height
    at = -abs(lean) - period
    while at < width + height:
        if slope is None:
            draw.rectangle((0, at, width, at + period / 2), fill=color)
        else:
            draw.polygon(
                [(at, 0), (at + period / 2, 0), (at + period / 2 + lean, height), (at + lean, height)], fill=color
            )
        at += period
