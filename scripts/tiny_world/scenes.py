"""Scenes of the drawn world: what is there and what it does.

Positions and radii are fractions of the centre square's side, x to the right and y downwards; times of the clip.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown")
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
BACKGROUNDS = ("white", "gray", "black", "striped", "checkered", "dotted")
SMALL_RADIUS = (0.10, 0.12)
LARGE_RADIUS = (0.18, 0.22)
GROUP_RADIUS = (0.085, 0.10)

Point = tuple[float, float]
Shares = tuple[float, float, float]


class Motion(StrEnum):
    """What an actor does in a clip."""

    RIGHT = "right"
    LEFT = "left"
    UP = "up"
    DOWN = "down"
    UP_RIGHT = "up right"
    UP_LEFT = "up left"
    DOWN_RIGHT = "down right"
    DOWN_LEFT = "down left"
    GROW = "grow"
    SHRINK = "shrink"
    APPEAR = "appear"
    DISAPPEAR = "disappear"
    TURN = "turn"
    STILL = "still"


DIRECTIONS: dict[Motion, Point] = {
    Motion.RIGHT: (1, 0),
    Motion.LEFT: (-1, 0),
    Motion.UP: (0, -1),
    Motion.DOWN: (0, 1),
    Motion.UP_RIGHT: (1, -1),
    Motion.UP_LEFT: (-1, -1),
    Motion.DOWN_RIGHT: (1, 1),
    Motion.DOWN_LEFT: (-1, 1),
}
IN_PLACE = (Motion.GROW, Motion.SHRINK, Motion.APPEAR, Motion.DISAPPEAR, Motion.TURN, Motion.STILL)


@dataclass(frozen=True, slots=True)
class Actor:
    """One drawn shape and its path through the clip."""

    shape: str
    color: str
    size: str
    motion: Motion
    radius: tuple[float, float]
    start: Point
    end: Point
    color_at_end: str
    switch_time: float = 0.5
    tilt_radians: float = 0.0

    def __post_init__(self) -> None:
        if self.shape not in SHAPES or {self.color, self.color_at_end} - set(COLORS):
            raise ValueError(f"unknown shape or color: {self.shape}, {self.color}")

    def is_visible(self, moment: float) -> bool:
        """Whether the actor is there: one that appears is not before its switch, one that disappears not after."""
        return self.motion is not (Motion.DISAPPEAR if moment >= self.switch_time else Motion.APPEAR)

    def color_at(self, moment: float) -> str:
        return self.color_at_end if self.motion is Motion.TURN and moment >= self.switch_time else self.color

    def place_at(self, moment: float) -> tuple[float, float, float]:
        """Return the centre and the radius."""
        x, y = (a + (b - a) * moment for a, b in zip(self.start, self.end, strict=True))
        return x, y, self.radius[0] + (self.radius[1] - self.radius[0]) * moment


@dataclass(frozen=True, slots=True)
class Scene:
    """Actors before a background; the first actor is the upper or left one."""

    actors: tuple[Actor, ...]
    background: str
    is_video: bool
    pattern_seed: int
    motion_span: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if self.background not in BACKGROUNDS or not 1 <= len(self.actors) <= 4:
            raise ValueError(f"impossible scene: {len(self.actors)} actors, {self.background}")

    @property
    def is_group(self) -> bool:
        """Whether the scene shows several equal shapes that do the same."""
        return len(self.actors) > 1 and len({(a.shape, a.color) for a in self.actors}) == 1

    def moment_of(self, time: float) -> float:
        """Return how far the motion is at a time of the clip, 0 to 1."""
        begin, end = self.motion_span
        return float(np.clip((time - begin) / (end - begin), 0, 1))


def draw_scene(rng: np.random.Generator, *, is_video: bool, shares: Shares = (0.5, 0.2, 0.3)) -> Scene:
    """Draw a scene at random; `shares`: how likely are one shape, a group of equal ones, and different ones."""
    makers = (_moving_actor, _moving_group, _moving_pair) if is_video else (_still_actor, _still_group, _still_mixture)
    chosen = int(rng.choice(len(makers), p=shares))
    begin = float(rng.uniform(0.0, 0.15))
    return Scene(
        actors=makers[chosen](rng),
        background=str(rng.choice(BACKGROUNDS)),
        is_video=is_video,
        pattern_seed=int(rng.integers(1 << 31)),
        motion_span=(begin, float(rng.uniform(0.8, 1.0))),
    )


def _make_actor(rng: np.random.Generator, motion: Motion, center: Point, *, size: str | None = None) -> Actor:
    color, other_color = (str(c) for c in rng.choice(COLORS, 2, replace=False))
    size = size or str(rng.choice(["small", "large"]))
    radius = float(rng.uniform(*(SMALL_RADIUS if size == "small" else LARGE_RADIUS)))
    radii = (radius, radius)
    if motion in (Motion.GROW, Motion.SHRINK):
        radii = (float(rng.uniform(0.07, 0.11)), float(rng.uniform(0.20, 0.26)))
        radii = radii if motion is Motion.GROW else (radii[1], radii[0])
    return Actor(
        shape=str(rng.choice(SHAPES)),
        color=color,
        size=size,
        motion=motion,
        radius=radii,
        start=center,
        end=center,
        color_at_end=other_color if motion is Motion.TURN else color,
        switch_time=float(rng.uniform(0.3, 0.7)),
        tilt_radians=float(rng.normal(0.0, 0.05)),
    )


def _travel(actor: Actor, rng: np.random.Generator) -> Actor:
    if actor.motion not in DIRECTIONS:  # it stays in its place
        return actor
    dx, dy = DIRECTIONS[actor.motion]
    begin, end = (float(rng.uniform(0.25, 0.35)) for _ in range(2))
    x, y = actor.start
    start = (0.5 - dx * begin if dx else x, 0.5 - dy * begin if dy else y)
    stop = (0.5 + dx * end if dx else x, 0.5 + dy * end if dy else y)
    return replace(actor, start=start, end=stop)


def _moving_actor(rng: np.random.Generator) -> tuple[Actor, ...]:
    motion = Motion(str(rng.choice([m.value for m in Motion])))
    return (_travel(_make_actor(rng, motion, (float(rng.uniform(0.3, 0.7)), float(rng.uniform(0.3, 0.7)))), rng),)


def _moving_group(rng: np.random.Generator) -> tuple[Actor, ...]:
    axis_motions = [Motion.RIGHT, Motion.LEFT, Motion.UP, Motion.DOWN]
    motion = axis_motions[rng.integers(4)] if rng.random() < 0.7 else Motion.STILL
    first = replace(_make_actor(rng, motion, (0.5, 0.5), size="small"), radius=(float(rng.uniform(*GROUP_RADIUS)),) * 2)
    num_actors = int(rng.integers(2, 5))
    if motion is Motion.STILL:
        return _in_slots(first, num_actors, rng)
    lanes = [(k + 0.5) / num_actors for k in range(num_actors)]
    moved = _travel(first, rng)
    is_horizontal = motion in (Motion.RIGHT, Motion.LEFT)
    return tuple(
        replace(moved, start=(moved.start[0], lane), end=(moved.end[0], lane))
        if is_horizontal
        else replace(moved, start=(lane, moved.start[1]), end=(lane, moved.end[1]))
        for lane in lanes
    )


def _moving_pair(rng: np.random.Generator) -> tuple[Actor, ...]:
    lanes_are_rows = rng.random() < 0.5
    directions = [Motion.RIGHT, Motion.LEFT] if lanes_are_rows else [Motion.UP, Motion.DOWN]
    motions = rng.permutation([m.value for m in (*directions, *directions, *IN_PLACE)])
    first, second = Motion(motions[0]), Motion(next(m for m in motions if m != motions[0]))
    if rng.random() < 0.1:
        first = second = Motion.APPEAR
    pair = []
    for motion, middle in ((first, 0.27), (second, 0.73)):
        lane = middle + float(rng.uniform(-0.03, 0.03))
        along = float(rng.uniform(0.3, 0.7))
        actor = _make_actor(rng, motion, (along, lane) if lanes_are_rows else (lane, along))
        if motion in (Motion.GROW, Motion.SHRINK):
            actor = replace(actor, radius=(min(actor.radius[0], 0.21), min(actor.radius[1], 0.21)))
        pair.append(_travel(actor, rng))
    if first is second:
        times = rng.permutation([float(rng.uniform(0.2, 0.4)), float(rng.uniform(0.6, 0.75))])
        pair = [replace(a, switch_time=float(t)) for a, t in zip(pair, times, strict=True)]
    return _made_distinct(pair, rng)


def _still_actor(rng: np.random.Generator) -> tuple[Actor, ...]:
    cell = (0.22, 0.5, 0.78)
    x, y = (float(rng.choice(cell) + rng.uniform(-0.04, 0.04)) for _ in range(2))
    return (_make_actor(rng, Motion.STILL, (x, y)),)


def _still_group(rng: np.random.Generator) -> tuple[Actor, ...]:
    return _in_slots(_make_actor(rng, Motion.STILL, (0.5, 0.5)), int(rng.integers(2, 5)), rng)


def _still_mixture(rng: np.random.Generator) -> tuple[Actor, ...]:
    num_actors = int(rng.integers(2, 4))
    placed = _in_slots(_make_actor(rng, Motion.STILL, (0.5, 0.5)), num_actors, rng)
    others = [_make_actor(rng, Motion.STILL, actor.start) for actor in placed]
    return _made_distinct(others, rng)


def _in_slots(actor: Actor, num_actors: int, rng: np.random.Generator) -> tuple[Actor, ...]:
    quarters = [(0.27, 0.27), (0.73, 0.27), (0.27, 0.73), (0.73, 0.73)]
    chosen = sorted(int(i) for i in rng.choice(4, num_actors, replace=False))
    centers = [
        (quarters[i][0] + float(rng.uniform(-0.04, 0.04)), quarters[i][1] + float(rng.uniform(-0.03, 0.03)))
        for i in chosen
    ]
    return tuple(replace(actor, start=center, end=center) for center in centers)


def _made_distinct(actors: list[Actor], rng: np.random.Generator) -> tuple[Actor, ...]:
    """Give the actors different shapes and different colors, so that words can tell them apart."""
    shapes = [str(s) for s in rng.choice(SHAPES, len(actors), replace=False)]
    colors = [str(c) for c in rng.choice(COLORS, len(actors) * 2, replace=False)]
    return tuple(
        replace(
            actor,
            shape=shape,
            color=colors[2 * i],
            color_at_end=colors[2 * i + 1] if actor.motion is Motion.TURN else colors[2 * i],
        )
        for i, (actor, shape) in enumerate(zip(actors, shapes, strict=True))
    )
