"""What is to be seen in each patch of a picture, as labels for training."""

import numpy as np
from numpy.typing import NDArray

from tiny_world.architecture import GRID
from tiny_world.scenes import COLORS, SHAPES, Actor, Motion, Scene

IGNORED = -100
MOTIONS = tuple(Motion)
MARGIN = 0.06  # of the side: a patch that a shape hardly touches is none of its own
DEED_SIZES = (len(MOTIONS), len(SHAPES), len(COLORS), len(COLORS))
NUM_DEED_FRAMES = 2  # the last ones of a clip, in which everything has happened


def owners(scene: Scene, moment: float, *, with_hidden: bool = False) -> NDArray[np.int64]:
    """Return the number of the nearest actor that touches each patch, int64 (16,), -1 where there is none."""
    nearest = np.full((GRID, GRID), -1)
    distance = np.full((GRID, GRID), np.inf)
    for number, actor in enumerate(scene.actors):
        if with_hidden or actor.is_visible(moment):
            dx, dy, radius = offsets(actor, moment)
            is_nearest = (np.maximum(abs(dx), abs(dy)) < radius + MARGIN) & (np.hypot(dx, dy) < distance)
            distance[is_nearest] = np.hypot(dx, dy)[is_nearest]
            nearest[is_nearest] = number
    return nearest.ravel()


def offsets(actor: Actor, moment: float) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Return how far right and down an actor's centre lies from each patch's, (4, 4) each, and its radius."""
    x, y, radius = actor.place_at(moment)
    centers = (np.arange(GRID) + 0.5) / GRID
    dx, dy = np.broadcast_arrays(x - centers[None, :], y - centers[:, None])
    return dx, dy, radius


def deeds(scene: Scene | None, times: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the motion, shape, first and last color of the actor in each patch, even if it is gone by then.

    int64, (2, 16, 4), for the last two frames of a clip; -100 where there is no actor.
    """
    labels = np.full((NUM_DEED_FRAMES, GRID * GRID, len(DEED_SIZES)), IGNORED)
    if scene is None:
        return labels
    table = np.array(
        [
            (MOTIONS.index(a.motion), SHAPES.index(a.shape), COLORS.index(a.color), COLORS.index(a.color_at_end))
            for a in scene.actors
        ]
    )
    for row, time in enumerate(times[-NUM_DEED_FRAMES:]):
        nearest = owners(scene, scene.moment_of(float(time)), with_hidden=True)
        labels[row, nearest >= 0] = table[nearest[nearest >= 0]]
    return labels
