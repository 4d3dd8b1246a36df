"""Pictures of scenes: signed distances to antialiased uint8 RGB frames."""

import numpy as np
from numpy.typing import NDArray

from tiny_world.scenes import Actor, Scene

RGB = {
    "red": (222, 40, 40),
    "orange": (246, 142, 28),
    "yellow": (244, 222, 48),
    "green": (40, 160, 68),
    "blue": (40, 92, 222),
    "purple": (132, 56, 184),
    "pink": (246, 140, 194),
    "brown": (126, 76, 38),
}
PLAIN_BACKGROUNDS = {"white": (252, 252, 252), "gray": (128, 128, 128), "black": (6, 6, 6)}
PATTERN_TONES = (
    ((238, 238, 238), (196, 196, 196)),
    ((250, 241, 218), (216, 202, 168)),
    ((216, 226, 236), (168, 182, 198)),
)

Field = NDArray[np.floating]


def render_clip(
    scene: Scene, times: NDArray[np.float64], size: tuple[int, int], *, color_jitter: float = 0.0
) -> NDArray[np.uint8]:
    """Render a scene at times, fractions of the clip, (T,): uint8 RGB, (T, H, W, 3) of a height and width.

    The scene lies in the centre square. `color_jitter` is the standard deviation of a colour shift in uint8 levels.
    """
    height, width = size
    side = min(height, width)
    x = ((np.arange(width, dtype=np.float32) + 0.5) - width / 2) / side + 0.5
    y = ((np.arange(height, dtype=np.float32) + 0.5) - height / 2) / side + 0.5
    rng = np.random.default_rng(scene.pattern_seed)
    jitter = rng.normal(0.0, 1.0, (5, 3)) * color_jitter
    background = _background(scene, x[None, :], y[:, None], rng) + jitter[4]
    frames = np.repeat(background[None].astype(np.float32), len(times), axis=0)
    for number, actor in enumerate(scene.actors):
        for frame, time in zip(frames, times, strict=True):
            moment = scene.moment_of(float(time))
            if actor.is_visible(moment):
                _paint(frame, actor, moment, (x, y, side), jitter[number if not scene.is_group else 0])
    return np.clip(frames + 0.5, 0, 255).astype(np.uint8)


def _paint(
    frame: Field, actor: Actor, moment: float, grid: tuple[Field, Field, int], jitter: NDArray[np.float64]
) -> None:
    x, y, side = grid
    center_x, center_y, radius = actor.place_at(moment)
    reach = 1.25 * radius + 2.0 / side
    columns = slice(*np.searchsorted(x, (center_x - reach, center_x + reach)))
    rows = slice(*np.searchsorted(y, (center_y - reach, center_y + reach)))
    dx = (x[columns][None, :] - center_x) / radius
    dy = (y[rows][:, None] - center_y) / radius
    cos, sin = np.cos(actor.tilt_radians), np.sin(actor.tilt_radians)
    distance = _distance(actor.shape, cos * dx + sin * dy, cos * dy - sin * dx)
    alpha = np.clip(0.5 - distance * radius * side, 0.0, 1.0)[..., None].astype(np.float32)
    color = np.asarray(RGB[actor.color_at(moment)]) + jitter
    frame[rows, columns] += alpha * (color.astype(np.float32) - frame[rows, columns])


def _distance(shape: str, x: Field, y: Field) -> Field:
    """Return the signed distance to a shape of radius about 1 (negative inside, y downwards)."""
    ax, ay = np.abs(x), np.abs(y)
    if shape == "circle":
        distance: Field = np.hypot(x, y) - 1.0
    elif shape == "square":
        distance = np.maximum(ax, ay) - 0.86
    elif shape == "triangle":
        distance = np.maximum(0.8660254 * ax - 0.5 * (y + 0.15), y + 0.15) - 0.62
    elif shape == "cross":
        arm_x = np.maximum(ax - 1.0, ay - 0.34)
        distance = np.minimum(arm_x, np.maximum(ax - 0.34, ay - 1.0))
    elif shape == "ring":
        distance = np.abs(np.hypot(x, y) - 0.76) - 0.25
    else:
        distance = _star_distance(x, y)
    return np.asarray(distance, dtype=np.float32)


def _star_distance(x: Field, y: Field) -> Field:
    """Return the signed distance to the nearest edge line of a five-pointed star, one point up."""
    sector = 2 * np.pi / 5
    angle = np.arctan2(x, -y) % sector
    folded = np.minimum(angle, sector - angle)
    length = np.hypot(x, y)
    outer, inner = 1.18, 0.50
    edge_x, edge_y = inner * np.cos(sector / 2) - outer, inner * np.sin(sector / 2)
    across = (length * np.cos(folded) - outer) * edge_y - length * np.sin(folded) * edge_x
    return np.asarray(across / np.hypot(edge_x, edge_y), dtype=np.float32)


def _background(scene: Scene, x: Field, y: Field, rng: np.random.Generator) -> Field:
    shape = (y.shape[0], x.shape[1], 3)
    if scene.background in PLAIN_BACKGROUNDS:
        return np.full(shape, PLAIN_BACKGROUNDS[scene.background], dtype=np.float32)
    light, dark = (np.asarray(t, dtype=np.float32) for t in PATTERN_TONES[rng.integers(len(PATTERN_TONES))])
    period = float(rng.uniform(0.18, 0.26))
    shift_x, shift_y = rng.uniform(0, 1, 2)
    u, v = x / period + shift_x, y / period + shift_y
    if scene.background == "striped":
        along = (u, v, (u + v) / np.sqrt(2), (u - v) / np.sqrt(2))[rng.integers(4)]
        wave = np.broadcast_to(np.sin(2 * np.pi * along), shape[:2])
    elif scene.background == "checkered":
        wave = np.sin(np.pi * u) * np.sin(np.pi * v)
    else:
        wave = 0.25 - np.hypot(u % 1.0 - 0.5, v % 1.0 - 0.5)
    mask = np.clip(wave * 8.0 + 0.5, 0.0, 1.0)[..., None].astype(np.float32)
    return np.asarray(light + mask * (dark - light), dtype=np.float32)
