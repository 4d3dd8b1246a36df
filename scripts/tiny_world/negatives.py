"""Pictures that are no drawn shapes: photographs, noise, gradients, text pages, scribbles, empty ones."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Picture = NDArray[np.uint8]


def load_photos(folder: Path) -> list[Image.Image]:
    """Return the photographs of a folder, sorted by name."""
    paths = sorted(folder.glob("*.jpg"))
    if not paths:
        raise FileNotFoundError(f"no photographs in {folder}: run scripts/collect_photos.py first")
    return [Image.open(path).convert("RGB") for path in paths]


def photo_clip(photo: Image.Image, rng: np.random.Generator, num_frames: int, side: int) -> Picture:
    """Pan and zoom over a photograph: uint8 RGB, (num_frames, side, side, 3)."""
    boxes = [_random_box(photo, rng) for _ in range(2)]
    if rng.random() < 0.5:
        boxes[1] = boxes[0]
    frames = []
    for t in np.linspace(0.0, 1.0, num_frames):
        left, top, right, bottom = (float(a + (b - a) * t) for a, b in zip(*boxes, strict=True))
        frames.append(np.asarray(photo.resize((side, side), Image.Resampling.BICUBIC, box=(left, top, right, bottom))))
    clip = np.stack(frames)
    if rng.random() < 0.2:
        gray = clip.mean(-1, keepdims=True)
        clip = np.repeat(gray, 3, axis=-1).astype(np.uint8)
    return clip[:, :, ::-1] if rng.random() < 0.5 else clip


def draw_artificial(rng: np.random.Generator, num_frames: int, side: int) -> Picture:
    """Draw noise, gradients, text, scribbles or an empty picture: uint8 RGB, (num_frames, side, side, 3)."""
    makers: tuple[Callable[[np.random.Generator, int], Picture], ...]
    makers = (_white_noise, _smooth_noise, _gradient, _text_page, _scribble, _empty, _smooth_noise)
    maker = makers[rng.integers(len(makers))]
    if rng.random() < 0.5:
        return np.repeat(maker(rng, side)[None], num_frames, axis=0)
    return np.stack([maker(rng, side) for _ in range(num_frames)])


def _random_box(photo: Image.Image, rng: np.random.Generator) -> tuple[float, float, float, float]:
    width, height = photo.size
    side = float(rng.uniform(0.35, 1.0)) * min(width, height)
    left, top = float(rng.uniform(0, width - side)), float(rng.uniform(0, height - side))
    return left, top, left + side, top + side


def _white_noise(rng: np.random.Generator, side: int) -> Picture:
    block = int(rng.choice([1, 1, 2, 4]))
    cells = -(-side // block)
    channels = 3 if rng.random() < 0.7 else 1
    noise = rng.normal(rng.uniform(60, 190), rng.uniform(25, 90), (cells, cells, channels))
    noise = np.repeat(noise, 3 // channels, axis=2).repeat(block, 0).repeat(block, 1)[:side, :side]
    return np.clip(noise, 0, 255).astype(np.uint8)


def _smooth_noise(rng: np.random.Generator, side: int) -> Picture:
    total = np.zeros((side, side, 3))
    for octave, cells in enumerate((2, 4, 8, 16)):
        grid = rng.uniform(0, 255, (cells, cells, 3)).astype(np.uint8)
        layer = Image.fromarray(grid).resize((side, side), Image.Resampling.BICUBIC)
        total += np.asarray(layer) * rng.uniform(0, 1) / (1 + octave)
    scaled: Picture = (255 * (total - total.min()) / max(float(np.ptp(total)), 1.0)).astype(np.uint8)
    return scaled


def _gradient(rng: np.random.Generator, side: int) -> Picture:
    first, last = rng.uniform(0, 255, (2, 3))
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[0:side, 0:side] / side - 0.5
    t = np.clip(0.5 + x * np.cos(angle) + y * np.sin(angle), 0, 1)[..., None]
    picture: Picture = (first + t * (last - first)).astype(np.uint8)
    return picture


def _text_page(rng: np.random.Generator, side: int) -> Picture:
    scale = 4
    is_dark = rng.random() < 0.3
    page = Image.new("RGB", (side * scale, side * scale), (20, 20, 20) if is_dark else (250, 250, 248))
    draw = ImageDraw.Draw(page)
    size = int(rng.integers(8, 34))
    font = ImageFont.load_default(size=size)
    ink = (230, 230, 230) if is_dark else tuple(int(c) for c in rng.integers(0, 90, 3))
    letters = list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJ0123456789   ")
    line_height = int(size * rng.uniform(1.1, 1.7))
    for top in range(int(rng.integers(0, 30)), side * scale, line_height):
        draw.text((int(rng.integers(0, 20)), top), "".join(rng.choice(letters, 48)), fill=ink, font=font)
    return np.asarray(page.resize((side, side), Image.Resampling.BICUBIC))


def _scribble(rng: np.random.Generator, side: int) -> Picture:
    scale = 4
    paper = tuple(int(c) for c in rng.integers(0, 256, 3))
    page = Image.new("RGB", (side * scale, side * scale), paper)
    draw = ImageDraw.Draw(page)
    for _ in range(int(rng.integers(3, 14))):
        points = [tuple(p) for p in rng.uniform(0, side * scale, (int(rng.integers(3, 9)), 2))]
        ink = tuple(int(c) for c in rng.integers(0, 256, 3))
        draw.line(points, fill=ink, width=int(rng.integers(2, 10)))
    return np.asarray(page.resize((side, side), Image.Resampling.BICUBIC))


def _empty(rng: np.random.Generator, side: int) -> Picture:
    color = rng.integers(0, 256, 3) if rng.random() < 0.6 else np.repeat(rng.integers(0, 256), 3)
    return np.broadcast_to(color.astype(np.uint8), (side, side, 3)).copy()
