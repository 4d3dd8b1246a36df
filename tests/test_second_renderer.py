"""The evaluation's own renderer: what it draws, and that training never sees it."""

import ast
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from second_renderer import CLIP_FORMS, RGB, draw_clip, write_file
from tiny_world.scenes import COLORS, SHAPES, Actor, Motion, Scene, draw_scene

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


def imported_by(path):
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return names | {node.module for node in nodes if isinstance(node, ast.ImportFrom)}


@pytest.mark.parametrize("path", [*sorted((SCRIPTS / "tiny_world").glob("*.py")), SCRIPTS / "train_tiny.py"], ids=str)
def test_training_never_imports_the_evaluations_renderer(path):
    assert not imported_by(path) & {"second_renderer", "eval_tiny"}


@pytest.mark.parametrize("shape", sorted(set(SHAPES) - {"ring"}))
@pytest.mark.parametrize("color", COLORS)
def test_a_shape_has_its_color_in_the_middle_and_the_background_in_the_corner(shape, color):
    actor = Actor(shape, color, "large", Motion.STILL, (0.2, 0.2), (0.5, 0.5), (0.5, 0.5), color)
    [frame] = draw_clip(Scene((actor,), "white", False, 1), np.zeros(1), (64, 96))
    assert (tuple(frame[32, 48]), tuple(frame[0, 0])) == (RGB[color], (255, 255, 255))


def test_a_moving_shape_is_elsewhere_at_the_end():
    actor = Actor("circle", "red", "large", Motion.RIGHT, (0.2, 0.2), (0.2, 0.5), (0.8, 0.5), "red")
    first, last = draw_clip(Scene((actor,), "black", True, 1), np.array([0.0, 1.0]), (60, 60))
    assert [tuple(pixel) for pixel in (first[30, 12], last[30, 48], last[30, 12])] == [RGB["red"]] * 2 + [(0, 0, 0)]


def test_files_come_in_every_form_of_clip_and_can_be_read_back(tmp_path):
    rng = np.random.default_rng(5)
    suffixes = {write_file(tmp_path / str(n), draw_scene(rng, is_video=True), rng).suffix for n in range(24)}
    assert suffixes == {form[0] for form in CLIP_FORMS}
    still = write_file(tmp_path / "still", draw_scene(rng, is_video=False), rng)
    with Image.open(still) as image:
        assert image.mode == "RGB"
